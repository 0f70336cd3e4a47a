"""Copy image: store the file of an image of the same inputs as the file of another job."""

from collections.abc import Sequence
from dataclasses import replace

from sqlalchemy import Engine

from jobs.errors import ObjectStoreError, UsageError
from jobs.images.find_images_of_same_inputs import ReusableImage
from jobs.monitoring import metrics
from jobs.outputs.mount_marker import find_output
from jobs.states import ImageFormat
from jobs.storage import key_layout
from jobs.storage.base import BadObjectError, ObjectStore
from jobs.storage.image_and_c2pa_sidecar_files import image_files, put_files, read_files
from jobs.storage.open import S3Options
from worker.item import PipelineItem
from worker.liveness.lease_keeper import LeaseKeeper
from worker.reuse.reusable_images import UnusableImages
from worker.stage import Place, Stage, StageContext


class CopyImage(Stage):
    """Copies files after comparing them with their digests; a job whose file can't be copied is released, uncharged."""

    name = "reuse"
    place = Place.BACKGROUND
    switched_on_by = "`reuse`"
    is_one_at_a_time = True

    def __init__(
        self, context: StageContext, engine: Engine, leases: LeaseKeeper, unusable: UnusableImages
    ) -> None:
        super().__init__(context)
        self._engine, self._leases, self._unusable = engine, leases, unusable
        self._stores: dict[str, ObjectStore] = {}

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with the keys of their objects, without those whose files can't be read or stored."""
        return [copied for item in items for copied in self._copied(item)]

    def _copied(self, item: PipelineItem) -> list[PipelineItem]:
        context, image = self.context, item.reused
        assert image is not None
        bodies = self._read(image)
        if bodies is None:
            self._leases.release([item.job])
            return []
        return context.service_retry.stored(context.lane, [item], lambda: [self._stored(item, image, bodies)])

    def _read(self, image: ReusableImage) -> list[bytes] | None:
        """Return the bytes of the image's files; None if they can't be read here."""
        files = image_files(image.key, image.sha256, image.columns["format"], image.sidecar_sha256)
        try:
            bodies = read_files(self._store(image.output), files)
        except BadObjectError as error:
            self._unusable.add_image(image, str(error))
        except (ObjectStoreError, UsageError) as error:
            self._unusable.add_output(image, str(error))
        else:
            return bodies
        return None

    def _store(self, output: str) -> ObjectStore:
        if output not in self._stores:
            settings = self.context.settings
            s3 = S3Options(endpoint_url=settings.s3_endpoint_url, region=settings.s3_region)
            self._stores[output] = find_output(self._engine, output, s3)
        return self._stores[output]

    def _stored(self, item: PipelineItem, image: ReusableImage, bodies: Sequence[bytes]) -> PipelineItem:
        job, format = item.job, ImageFormat(image.columns["format"])
        key = key_layout.image_key(
            self.context.lane.folder,
            job.ordinal,
            job.index,
            image.sha256,
            format.extension,
            image.sidecar_sha256,
        )
        put_files(self.context.store, image_files(key, image.sha256, format, image.sidecar_sha256), bodies)
        metrics.UPLOADED_BYTES.add(sum(map(len, bodies)))
        metrics.REUSED_IMAGES.add(1, self.context.lane.model)
        return replace(item, key=key)

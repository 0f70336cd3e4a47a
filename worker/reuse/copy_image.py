"""Copy image: store the file of an image of the same inputs as the file of another job."""

from collections.abc import Sequence
from dataclasses import replace
from hashlib import sha256

from sqlalchemy import Engine

from jobs.errors import ObjectStoreError, UsageError
from jobs.images.find_images_of_same_inputs import ReusableImage
from jobs.monitoring import metrics
from jobs.outputs.mount_marker import find_output
from jobs.states import ImageFormat
from jobs.storage import key_layout
from jobs.storage.base import BadObjectError, DamagedObjectError, ObjectStore
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
        body = self._read(image)
        if body is None:
            self._leases.release([item.job])
            return []
        return context.service_retry.stored(context.lane, [item], lambda: [self._stored(item, image, body)])

    def _read(self, image: ReusableImage) -> bytes | None:
        """Return the bytes of the image's file; None if it can't be read here."""
        try:
            body = self._store(image.output).get(image.key)
            if sha256(body).hexdigest() != image.sha256:
                raise DamagedObjectError(f"{image.key} in {image.output} is damaged")
        except BadObjectError as error:
            self._unusable.add_image(image, str(error))
        except (ObjectStoreError, UsageError) as error:
            self._unusable.add_output(image, str(error))
        else:
            return body
        return None

    def _store(self, output: str) -> ObjectStore:
        if output not in self._stores:
            settings = self.context.settings
            s3 = S3Options(endpoint_url=settings.s3_endpoint_url, region=settings.s3_region)
            self._stores[output] = find_output(self._engine, output, s3)
        return self._stores[output]

    def _stored(self, item: PipelineItem, image: ReusableImage, body: bytes) -> PipelineItem:
        job, format = item.job, ImageFormat(image.columns["format"])
        key = key_layout.image_key(
            self.context.lane.folder, job.ordinal, job.index, image.sha256, format.extension
        )
        self.context.store.put(key, body, content_type=format.media_type)
        metrics.UPLOADED_BYTES.add(len(body))
        metrics.REUSED_IMAGES.add(1, self.context.lane.model)
        return replace(item, key=key)

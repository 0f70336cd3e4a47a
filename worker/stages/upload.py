"""Upload: store the files; keys contain the content's digest, so no object that a row names is overwritten."""

from collections.abc import Sequence
from dataclasses import replace

from jobs.monitoring import metrics
from jobs.storage import key_layout
from jobs.storage.image_and_c2pa_sidecar_files import image_files, put_files
from worker.item import PipelineItem
from worker.stage import Place, Stage


class Upload(Stage):
    """Stores files, and retries while the output is unavailable; when it gives up, the jobs are released."""

    name = "upload"
    place = Place.BACKGROUND
    is_one_at_a_time = True

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with the keys of their objects, or none if the output was given up.

        Those of images in quarantine are the keys that they get when they are freed.
        """
        context = self.context
        return context.service_retry.stored(
            context.lane, items, lambda: [self._stored(item) for item in items]
        )

    def _stored(self, item: PipelineItem) -> PipelineItem:
        job, encoded = item.job, item.encoded
        assert encoded is not None
        sidecar, sidecar_sha256 = encoded.sidecar, encoded.sidecar_sha256
        key = key_layout.image_key(
            self.context.lane.folder,
            job.ordinal,
            job.index,
            encoded.sha256,
            encoded.extension,
            sidecar_sha256,
        )
        place = key_layout.quarantine_key(key) if item.is_quarantined else key
        bodies = [encoded.body] if sidecar is None else [sidecar, encoded.body]
        put_files(
            self.context.store, image_files(place, encoded.sha256, encoded.format, sidecar_sha256), bodies
        )
        metrics.UPLOADED_BYTES.add(sum(map(len, bodies)))
        return replace(item, key=key)

"""Load inputs: open the jobs' input images, masks and depth maps, and scale them to the lane's size."""

from collections.abc import Sequence
from dataclasses import replace

from jobs.errors import StoreCredentialsError, StoreDeniedError
from jobs.outputs.ownership import owner_key
from jobs.states import ErrorKind, Mode
from jobs.storage.base import digest_if_there
from worker.health.error_classification import HostFaultError
from worker.imaging.read_input import (
    InputImageAccessLostError,
    InputImageDeniedError,
    InputImageError,
    InputImageUnavailableError,
)
from worker.item import PipelineItem
from worker.stage import Place, Stage, StageContext


class LoadInputs(Stage):
    """Opens input images; an unusable one fails its jobs permanently, unless other hosts may see it."""

    name = "load_inputs"
    place = Place.DEVICE
    switched_on_by = "rows with `init_image`, `mask_image` or `depth_image`"

    @classmethod
    def is_on(cls, context: StageContext) -> bool:
        """Return whether the lane's mode takes an input image."""
        return context.lane.mode != Mode.TEXT2IMAGE

    def run(self, items: Sequence[PipelineItem]) -> list[PipelineItem]:
        """Return the items with their input images."""
        return [self._loaded(item) for item in items]

    def _loaded(self, item: PipelineItem) -> PipelineItem:
        lane = self.context.lane
        size = (lane.width, lane.height) if lane.width else None
        try:
            inputs = self.context.input_images.inputs(item.job, size)
        except InputImageError as error:
            if isinstance(error, InputImageAccessLostError):
                raise HostFaultError(str(error)) from error
            if isinstance(error, InputImageDeniedError):
                self._require_accepted_key()
            is_unavailable = isinstance(error, InputImageUnavailableError)
            return item.ended(ErrorKind.BAD_INPUT, str(error), is_of_host=is_unavailable)
        loaded = replace(item, inputs=inputs, input_files=inputs.files, parent=inputs.parent)
        return loaded.annotated(self.name, {"init_image": inputs.findings}) if inputs.findings else loaded

    def _require_accepted_key(self) -> None:
        """Raise HostFaultError if the key isn't accepted in the output, either: then it isn't the row's fault.

        Some stores answer "access denied" to keys that were taken away.
        """
        if not self.context.lane.output.startswith("s3://"):
            return
        try:
            digest_if_there(self.context.store, owner_key(self.context.lane.folder))
        except (StoreCredentialsError, StoreDeniedError) as error:
            raise HostFaultError(str(error)) from error

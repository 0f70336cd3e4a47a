"""Estimate depth maps of images with the DPT network of a depth checkpoint."""

from collections.abc import Sequence
from typing import Any, Self

import numpy as np
import numpy.typing as npt
import torch

from models.diffusion.loading_error_types import UNLOADABLE
from models.errors import CheckpointError
from models.runtime.device import Device
from models.runtime.library_logging import quiet
from models.runtime.padding_and_noise import moved
from models.store.resolve_checkpoint import Checkpoint


class DepthEstimator:
    """A DPT (Ranftl et al. 2021) on its device, in float32: its batch norms are not suited to half precision."""

    def __init__(self, model: Any, processor: Any, device: Device) -> None:
        self._model = model.to(device.name).eval()
        self._processor = processor
        self._device = device

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: Device) -> Self | None:
        """Load the estimator from the checkpoint's folder; None if it has none. Raises CheckpointError."""
        folder = checkpoint.folder / "depth_estimator"
        if not folder.is_dir():
            return None
        try:
            with quiet():
                from transformers import DPTForDepthEstimation, DPTImageProcessorPil  # noqa: PLC0415 - slow to import

                model = DPTForDepthEstimation.from_pretrained(
                    folder, dtype=torch.float32, local_files_only=True, use_safetensors=True
                )
                processor = DPTImageProcessorPil.from_pretrained(
                    checkpoint.folder / "feature_extractor", local_files_only=True
                )
        except UNLOADABLE as error:
            raise CheckpointError(f"{folder}: can't be loaded as a depth estimator: {error}") from error
        return cls(model, processor, device)

    def estimate(self, images: Sequence[npt.NDArray[np.uint8]]) -> torch.Tensor:
        """Estimate relative depths (N, h, w) float32, larger being nearer, of images (H, W, 3), one at a time."""
        return torch.cat([self._depth(image) for image in images])

    def _depth(self, image: npt.NDArray[np.uint8]) -> torch.Tensor:
        values = self._processor(images=[image], return_tensors="pt", input_data_format="channels_last")
        depth: torch.Tensor = self._model(moved(values.pixel_values, self._device.name)).predicted_depth
        return depth

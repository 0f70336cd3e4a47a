"""The safety check: Stable Diffusion's checker on copies of finished images, with every score kept."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import cv2
import numpy as np
import numpy.typing as npt
import torch
from safetensors import SafetensorError
from torch.nn.functional import normalize

from models.errors import CheckpointError, SafetyUnknownError
from models.runtime.batch_invariant_cpu import make_batch_invariant
from models.runtime.cuda_graphs_and_streams import beside, own_stream
from models.runtime.device import Device, memory_errors
from models.runtime.library_logging import quiet
from models.runtime.padding_and_noise import moved, padded
from models.store.resolve_checkpoint import Checkpoint
from models.store.vetting import check_whole

Pixels = npt.NDArray[np.uint8]
Floats = npt.NDArray[np.float32]

_UNLOADABLE = (OSError, ValueError, TypeError, KeyError, AttributeError, RuntimeError, SafetensorError)
_EMBEDDINGS = ("special_care_embeds", "concept_embeds")
_ADJUSTMENT = np.float32(0.01)
_BLUR_CELLS = 24


@dataclass(frozen=True)
class SafetyScores:
    """The checker's result for one image: `flagged` if any of the 17 `concepts` is above 0, at the standard strength.

    A score is a cosine minus its threshold, rounded to 3 places; any of the 3 `special_care` scores above 0 adds 0.01
    to all scores after it (diffusers, `pipelines/stable_diffusion/safety_checker.py`).
    """

    flagged: bool
    concepts: tuple[float, ...]
    special_care: tuple[float, ...]


class SafetyChecker:
    """A safety checker on its device. It detects sexual content only, in the centre square of an image.

    `digest` is that of its checkpoint; None if it was made of a model in memory. `concept_names` are names of its first
    concepts, in the order of the checkpoint.
    """

    def __init__(
        self,
        model: Any,
        processor: Any,
        device: Device,
        digest: str | None = None,
        concepts: Sequence[str] = (),
    ) -> None:
        """Take diffusers' StableDiffusionSafetyChecker in float32, CLIP's image processor, and names of concepts.

        On devices that compute in half precision, images are embedded in float16, in which CLIP was trained, since
        bfloat16 is coarser than the thresholds; cosines and thresholds stay in float32.
        """
        known = [getattr(model, name).detach().float().to(device.name) for name in _EMBEDDINGS]
        self._known = normalize(torch.cat(known))
        self._thresholds = [getattr(model, f"{name}_weights").detach().numpy() for name in _EMBEDDINGS]
        self._dtype = torch.float32 if device.dtype == torch.float32 else torch.float16
        self._model = model.to(device.name, self._dtype).eval()
        if device.name == "cpu":
            make_batch_invariant(self._model)
        self.digest = digest
        self.concept_names = tuple(concepts)
        self._processor = processor
        self._device = device
        self._stream = own_stream(torch.device(device.name))

    @classmethod
    def load(cls, checkpoint: Checkpoint, device: Device) -> "SafetyChecker":
        """Load it from local safetensors onto the device. Raises CheckpointError, OutOfMemoryError."""
        with memory_errors(device):
            try:
                model, processor = _from_files(checkpoint)
            except _UNLOADABLE as error:
                raise CheckpointError(
                    f"{checkpoint.path}: can't be loaded as a safety checker: {error}"
                ) from error
            named, there = checkpoint.card.concepts, len(model.concept_embeds)
            if len(named) > there:
                raise CheckpointError(
                    f"{checkpoint.path}: has {there} concepts, but its card, {checkpoint.card.id!r}, names {len(named)}"
                )
            return cls(model, processor, device, checkpoint.digest, named)

    def score(self, images: Sequence[Pixels]) -> list[SafetyScores]:
        """Score (H, W, 3) uint8 RGB images of any sizes, without changing them.

        Computed in batches of one shape, so that a score doesn't depend on the rest of its batch. Raises
        SafetyUnknownError if the checker computes nothing usable for an image, OutOfMemoryError.
        """
        if not images:
            return []
        with torch.inference_mode(), memory_errors(self._device), beside(self._stream):
            parts = [
                self._compare(self._embed_images(chunk.rows))[: chunk.real]
                for chunk in padded(images, self._device.rows)
            ]
            return self._judge(torch.cat(parts).cpu().numpy())

    @torch.inference_mode()
    def judge(self, embeddings: torch.Tensor) -> list[SafetyScores]:
        """Score (N, D) image embeddings. Raises SafetyUnknownError if one isn't finite or is zero."""
        return self._judge(self._compare(embeddings).cpu().numpy())

    def _embed_images(self, images: Sequence[Pixels]) -> torch.Tensor:
        values = self._processor(
            images=list(images), return_tensors="pt", input_data_format="channels_last"
        ).pixel_values
        pooled = self._model.vision_model(moved(values.to(self._dtype), self._device.name)).pooler_output
        embeddings: torch.Tensor = self._model.visual_projection(pooled)
        return embeddings

    def _compare(self, embeddings: torch.Tensor) -> torch.Tensor:
        """Return the cosines of (N, D) embeddings with all known ones, and the norms of the normalised embeddings."""
        directions = normalize(embeddings.float())
        # One product, as one with three columns may round a row by its position (`batch_invariant_cpu`).
        cosines = torch.mm(directions, self._known.t())
        return torch.cat([cosines, directions.norm(dim=1, keepdim=True)], dim=1)

    def _judge(self, compared: Floats) -> list[SafetyScores]:
        special, concepts, length = np.split(compared, [3, 20], axis=1)
        unusable = np.flatnonzero(~(np.isfinite(compared).all(axis=1) & (length[:, 0] > 0.5)))
        if len(unusable):
            raise SafetyUnknownError(
                f"the safety checker computed nothing usable for picture {unusable[0] + 1} of {len(length)}, "
                "which must not leave; render it again, or on a device that computes in float32"
            )
        return _scores(special - self._thresholds[0], concepts - self._thresholds[1])


def blacken(pixels: Pixels) -> Pixels:
    """Return a black image of the same size."""
    return np.zeros_like(pixels)


def blur(pixels: Pixels) -> Pixels:
    """Return a copy reduced to broad patches of colour, about a tenth of the shorter side wide."""
    height, width = pixels.shape[:2]
    scale = _BLUR_CELLS / min(height, width)
    cells = (max(1, round(width * scale)), max(1, round(height * scale)))
    small = cv2.resize(pixels, cells, interpolation=cv2.INTER_AREA)
    smooth = cv2.GaussianBlur(small, (0, 0), _BLUR_CELLS / 10)
    blurred: Pixels = cv2.resize(smooth, (width, height), interpolation=cv2.INTER_LINEAR)
    return blurred


def _from_files(checkpoint: Checkpoint) -> tuple[Any, Any]:
    with quiet():
        from diffusers.pipelines.stable_diffusion.safety_checker import (  # noqa: PLC0415 - logs messages on import
            StableDiffusionSafetyChecker,
        )
        from transformers import CLIPImageProcessorPil  # noqa: PLC0415

        model, report = StableDiffusionSafetyChecker.from_pretrained(
            checkpoint.path,
            dtype=torch.float32,
            local_files_only=True,
            use_safetensors=True,
            output_loading_info=True,
        )
        processor = CLIPImageProcessorPil.from_pretrained(checkpoint.path, local_files_only=True)
    check_whole(checkpoint.path, report)
    for name in _EMBEDDINGS:
        if not all(torch.isfinite(getattr(model, name + end)).all() for end in ("", "_weights")):
            raise CheckpointError(f"{checkpoint.path}: its {name} hold values that are not finite")
    return model, processor


def _scores(special: Floats, concepts: Floats) -> list[SafetyScores]:
    """Convert (N, 3) and (N, 17) cosines minus their thresholds to scores."""
    above = np.round(special, 3) > 0
    earlier = np.cumsum(above, axis=1) - above > 0
    special = np.round(special + earlier * _ADJUSTMENT, 3)
    concepts = np.round(concepts + above.any(axis=1, keepdims=True) * _ADJUSTMENT, 3)
    return [
        SafetyScores(bool((row > 0).any()), _decimals(row), _decimals(care))
        for row, care in zip(concepts, special, strict=True)
    ]


def _decimals(row: Floats) -> tuple[float, ...]:
    return tuple(round(value, 3) + 0.0 for value in row.tolist())

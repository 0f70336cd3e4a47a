"""The request of a text-to-image model: parameters and input images."""

from dataclasses import dataclass

import numpy as np
import numpy.typing as npt


@dataclass(frozen=True, kw_only=True, eq=False)
class ImageRequest:
    """One image to render. Sizes are pixels, multiples of the model's VAE factor; `seed` is 0..2**64-1.

    With a `guidance_scale` of 1 or less, the negative prompt is ignored and rendering takes half the time. `image` is
    (height, width, 3) RGB, `mask` (height, width) from 0 (keep) to 255 (repaint), `depth` (height, width) of any finite
    scale, larger being nearer. `strength`, above 0 up to 1, is how much of `image` is changed; at 1, an inpainting
    model uses `image` only outside the mask. Without `image`, `strength` is ignored.
    """

    prompt: str
    negative_prompt: str = ""
    width: int
    height: int
    steps: int
    guidance_scale: float
    sampler: str
    seed: int
    image: npt.NDArray[np.uint8] | None = None
    mask: npt.NDArray[np.uint8] | None = None
    depth: npt.NDArray[np.float32] | None = None
    strength: float = 1.0

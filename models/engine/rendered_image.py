"""The output of a model: pixels and detected defects."""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import numpy.typing as npt

Defect = Literal["nan", "black"]


@dataclass(frozen=True, eq=False)
class RenderedImage:
    """One rendered image.

    `pixels` is (H, W, 3) uint8 RGB. `defect` is "nan" when the latents or the decoded values were not finite
    (those pixels mean nothing), "black" when no value exceeds 2, else None.
    """

    pixels: npt.NDArray[np.uint8]
    defect: Defect | None

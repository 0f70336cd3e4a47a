"""Determine a request's mode from its inputs, and check that the model supports it."""

from typing import Any, Literal

import numpy as np

from models.diffusion.requests import ImageRequest

Mode = Literal["text2image", "image2image", "inpaint", "depth"]

SERVED: dict[int, tuple[Mode, ...]] = {4: ("text2image", "image2image"), 9: ("inpaint",), 5: ("depth",)}
"""Modes by the UNet's input channels: latents, plus a mask and the masked image's latents, or a depth map."""


def mode_of(request: ImageRequest, channels: int, model: str, *, has_depth_estimator: bool) -> Mode:
    """Return the mode of a request to a UNet with that many input `channels`; `model` names it in errors.

    Raises ValueError if the model doesn't support a given input, or needs one that is missing.
    """
    has_image, has_mask, has_depth = (
        given is not None for given in (request.image, request.mask, request.depth)
    )
    if has_mask and channels != 9:
        raise ValueError(f"{model} takes no mask: choose an inpainting model, or leave the mask out")
    if has_depth and channels != 5:
        raise ValueError(f"{model} takes no depth map: choose a depth model, or leave the map out")
    if channels == 9:
        if not (has_image and has_mask):
            raise ValueError(
                f"{model} repaints pictures: give it an image and a mask, or choose another model"
            )
        return "inpaint"
    if channels == 5:
        if not has_depth and not (has_image and has_depth_estimator):
            raise ValueError(_without_depth(model, has_image))
        return "depth"
    return "image2image" if has_image else "text2image"


def check_images(request: ImageRequest) -> None:
    """Raise ValueError if an image of the request has the wrong type or size."""
    size = (request.height, request.width)
    _check_array("image", request.image, (*size, 3), np.uint8)
    _check_array("mask", request.mask, size, np.uint8)
    _check_array("depth", request.depth, size, np.float32)
    if request.depth is not None and not np.isfinite(request.depth).all():
        raise ValueError("depth holds values that are not finite")


def _check_array(name: str, given: Any, shape: tuple[int, ...], dtype: type) -> None:
    if given is not None and (given.shape != shape or given.dtype != dtype):
        raise ValueError(
            f"{name} must be {shape} {np.dtype(dtype).name}, not {given.shape} {given.dtype.name}"
        )


def _without_depth(model: str, has_image: bool) -> str:
    if has_image:
        return f"{model} needs a depth map, and its checkpoint has no depth estimator to make one: give a map"
    return f"{model} draws from depth: give it a depth map or an image, or choose another model"

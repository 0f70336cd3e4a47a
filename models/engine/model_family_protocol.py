"""The engine's interface to a model family: what a request has, how it begins and how it is finished."""

from dataclasses import dataclass
from typing import Protocol, TypeVar

import torch

from models.engine.denoising_slots import LatentShape
from models.engine.rendered_image import RenderedImage
from models.engine.sampler_matrices import SamplerMatrices


class Request(Protocol):
    """What every request has; a `guidance_scale` of 1 or less is rendered without guidance."""

    @property
    def prompt(self) -> str: ...
    @property
    def negative_prompt(self) -> str: ...
    @property
    def guidance_scale(self) -> float: ...
    @property
    def seed(self) -> int: ...


R = TypeVar("R", bound=Request)
R_contra = TypeVar("R_contra", contravariant=True)


@dataclass(frozen=True, eq=False)
class Beginning:
    """Initial state of an image, with the fields of `EngineRequest`."""

    matrices: SamplerMatrices
    latents: torch.Tensor
    beside: torch.Tensor | None = None
    label: int = 0


class RequestHandler(Protocol[R_contra]):
    """What a model family tells the engine about requests (`models.families.family.ModelFamily`)."""

    def check(self, request: R_contra) -> LatentShape:
        """Return the shape of the request's latents; ValueError if the model can't render it."""

    def begin(self, request: R_contra, generator: torch.Generator) -> Beginning:
        """Return the request's initial state."""

    def finish(self, request: R_contra, image: RenderedImage) -> RenderedImage:
        """Return the image to hand out, made from the decoded one."""

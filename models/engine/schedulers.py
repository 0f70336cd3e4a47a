"""Samplers as diffusers' schedulers, made from a checkpoint's own configuration."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from models.catalogue.samplers import sampler_of
from models.runtime.library_logging import old_numpy_habits

if TYPE_CHECKING:
    import torch


def make_scheduler(name: str, base_config: Mapping[str, Any], steps: int | None = None) -> Any:
    """A fresh diffusers scheduler for the sampler `name`, with the noise schedule of `base_config`.

    `base_config` is the checkpoint's own scheduler configuration. With `steps`, the timesteps are set, on the
    CPU, where reading one never waits for a device. Raises ValueError for an unknown name.
    """
    import diffusers  # noqa: PLC0415 - names of samplers are needed where diffusers is not

    sampler = sampler_of(name)
    scheduler_class = getattr(diffusers, sampler.scheduler_class)
    with old_numpy_habits():
        scheduler = scheduler_class.from_config(dict(base_config), **sampler.overrides)
        if steps is not None:
            scheduler.set_timesteps(steps)
    return scheduler


def noise_schedule(prediction_type: str, timestep_spacing: str = "leading") -> Any:
    """A DDIMScheduler with the noise schedule of Stable Diffusion (Rombach et al. 2022), to be saved with a checkpoint.

    Spaced "leading", as Stable Diffusion's, n steps begin 1000/n before pure noise; "trailing" ones begin with it,
    which matters where there are few (Lin et al. 2024).
    """
    from diffusers import DDIMScheduler  # noqa: PLC0415

    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        steps_offset=1,
        clip_sample=False,
        set_alpha_to_one=False,
        prediction_type=prediction_type,
        timestep_spacing=timestep_spacing,
    )


def steps_left(steps: int, strength: float) -> int:
    """How many of `steps` are taken from a picture at `strength`, above 0 up to 1, as diffusers counts them.

    Raises ValueError if it is out of range, or too small for a single step.
    """
    if not 0 < strength <= 1:
        raise ValueError(f"strength must be above 0 and at most 1, not {strength:g}")
    left = int(steps * strength)
    if not left:
        raise ValueError(
            f"strength {strength:g} leaves no step of {steps}: it must be {1 / steps:.4g} or more, or steps higher"
        )
    return left


def start_late(scheduler: Any, steps: int, strength: float) -> "torch.Tensor":
    """The timesteps that are left of the `steps` set in `scheduler`, which is told where it begins."""
    skipped = (steps - steps_left(steps, strength)) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    timesteps: torch.Tensor = scheduler.timesteps[skipped:]
    return timesteps

"""Create diffusers' schedulers for named samplers from a checkpoint's own configuration."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from models.catalogue.samplers import sampler_of
from models.runtime.library_logging import old_numpy_habits

if TYPE_CHECKING:
    import torch


def make_scheduler(name: str, base_config: Mapping[str, Any], steps: int | None = None) -> Any:
    """Create a diffusers scheduler for the sampler `name`, with the noise schedule of `base_config`.

    `base_config` is the checkpoint's own scheduler configuration. With `steps`, the timesteps are set on the CPU, where
    reading them never waits for a device. Raises ValueError for an unknown name.
    """
    import diffusers  # noqa: PLC0415 - callers that need only sampler names don't import diffusers

    sampler = sampler_of(name)
    scheduler_class = getattr(diffusers, sampler.scheduler_class)
    with old_numpy_habits():
        scheduler = scheduler_class.from_config(dict(base_config), **sampler.overrides)
        if steps is not None:
            scheduler.set_timesteps(steps)
    return scheduler


def noise_schedule(prediction_type: str, timestep_spacing: str = "leading") -> Any:
    """Return a DDIMScheduler with Stable Diffusion's noise schedule (Rombach et al. 2022), to be saved in a checkpoint.

    With the spacing "leading", which Stable Diffusion uses, n steps begin 1000/n timesteps before pure noise; with
    "trailing", they begin at pure noise, which matters when there are few steps (Lin et al. 2024).
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
    """Return how many of `steps` are run from an image at `strength` (above 0, at most 1), counted as in diffusers.

    Raises ValueError if `strength` is out of range or leaves no step.
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
    """Return the timesteps that `strength` leaves of the `steps` set in `scheduler`, and set its begin index."""
    skipped = (steps - steps_left(steps, strength)) * scheduler.order
    if hasattr(scheduler, "set_begin_index"):
        scheduler.set_begin_index(skipped)
    timesteps: torch.Tensor = scheduler.timesteps[skipped:]
    return timesteps

"""The samplers by their canonical names, and how each is made from a checkpoint's own configuration."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from models.runtime.library_logging import old_numpy_habits

if TYPE_CHECKING:
    import torch


@dataclass(frozen=True)
class _Sampler:
    viewer_name: str
    scheduler_class: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


_SAMPLERS: dict[str, _Sampler] = {
    "ddim": _Sampler(
        "DDIM", "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    ),
    "pndm": _Sampler(
        "PLMS", "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}
    ),
    "dpmpp_2m": _Sampler(
        "DPM++ 2M",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": False},
    ),
    "dpmpp_2m_karras": _Sampler(
        "DPM++ 2M Karras",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
    ),
    "euler": _Sampler("Euler", "EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    "euler_a": _Sampler("Euler a", "EulerAncestralDiscreteScheduler"),
    "unipc": _Sampler("UniPC", "UniPCMultistepScheduler", {"use_karras_sigmas": False}),
    "heun": _Sampler("Heun", "HeunDiscreteScheduler", {"use_karras_sigmas": False, "clip_sample": False}),
}

SAMPLERS: tuple[str, ...] = tuple(_SAMPLERS)

# What the samplers are called by diffusers, k-diffusion, A1111, ComfyUI, InvokeAI, Replicate and Stable Diffusion's own
# scripts, besides the names above; case, separators, "k_" and "Scheduler" don't count.
_OTHER_NAMES: Mapping[str, tuple[str, ...]] = {
    "ddim": (),
    "pndm": ("plms",),
    "dpmpp_2m": ("DPMSolverMultistep", "dpmsolver++", "dpm_solver++", "dpmsolver_multistep"),
    "dpmpp_2m_karras": ("dpmpp_2m_k", "KarrasDPM"),
    "euler": ("EulerDiscrete",),
    "euler_a": ("euler_ancestral", "EulerAncestralDiscrete"),
    "unipc": ("uni_pc", "uni_pc_bh2", "UniPCMultistep"),
    "heun": ("HeunDiscrete",),
}

# Samplers of those programs that are none of ours, so that no near name is taken for what was meant.
FOREIGN_SAMPLERS: tuple[str, ...] = (
    *("lms", "lms_karras", "lms_k", "LMSDiscrete", "KLMS", "ddpm", "ddpm_parallel", "lcm", "tcd", "deis"),
    *(
        "DEISMultistep",
        "dpm2",
        "dpm_2",
        "dpm2_karras",
        "dpm2_a",
        "dpm2_a_karras",
        "dpm_2_ancestral",
        "kdpm_2",
        "kdpm_2_a",
    ),
    *("KDPM2Discrete", "KDPM2AncestralDiscrete", "dpm_fast", "dpm_adaptive", "dpmpp_sde", "dpmpp_sde_karras"),
    *("dpmpp_sde_gpu", "DPMSolverSDE", "dpmpp_2s", "dpmpp_2s_a", "dpmpp_2s_a_karras", "dpmpp_2s_ancestral"),
    *(
        "DPMSolverSinglestep",
        "dpmpp_2m_sde",
        "dpmpp_2m_sde_karras",
        "dpmpp_2m_sde_gpu",
        "dpmpp_2m_sde_exponential",
    ),
    *(
        "dpmpp_2m_sde_heun",
        "dpmpp_3m",
        "dpmpp_3m_k",
        "dpmpp_3m_sde",
        "dpmpp_3m_sde_karras",
        "dpmpp_3m_sde_gpu",
    ),
    *(
        "dpmpp_3m_sde_exponential",
        "euler_karras",
        "euler_k",
        "euler_cfg_pp",
        "euler_ancestral_cfg_pp",
        "heun_karras",
    ),
    *(
        "heun_k",
        "heunpp2",
        "ipndm",
        "ipndm_v",
        "restart",
        "res_multistep",
        "unipc_karras",
        "unipc_k",
        "ddim_cfg_pp",
    ),
    *(
        "ddim_inverse",
        "EDMEuler",
        "EDMDPMSolverMultistep",
        "FlowMatchEulerDiscrete",
        "ScoreSdeVe",
        "VQDiffusion",
    ),
)


def other_names() -> Mapping[str, str]:
    """Our name by each name that viewers and other programs have for a sampler; "" where it is none of ours."""
    names = dict.fromkeys(FOREIGN_SAMPLERS, "")
    for name, sampler in _SAMPLERS.items():
        names |= dict.fromkeys((name, sampler.viewer_name, *_OTHER_NAMES[name]), name)
    return names


def viewer_name(name: str) -> str:
    """The name that image viewers know the sampler `name` by, as they read it from a PNG: "Euler a"."""
    return _sampler(name).viewer_name


def make_scheduler(name: str, base_config: Mapping[str, Any], steps: int | None = None) -> Any:
    """A fresh diffusers scheduler for the sampler `name`, with the noise schedule of `base_config`.

    `base_config` is the checkpoint's own scheduler configuration. With `steps`, the timesteps are set, on the
    CPU, where reading one never waits for a device. Raises ValueError for an unknown name.
    """
    import diffusers  # noqa: PLC0415 - names of samplers are needed where diffusers is not

    sampler = _sampler(name)
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


def _sampler(name: str) -> _Sampler:
    if name not in _SAMPLERS:
        raise ValueError(f"no sampler is called {name!r}; there are {', '.join(SAMPLERS)}")
    return _SAMPLERS[name]

"""Supported samplers by canonical name, and their names in other programs."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any


@dataclass(frozen=True)
class Sampler:
    """A sampler: its name in image viewers, its class in diffusers, and the settings that select it."""

    viewer_name: str
    scheduler_class: str
    overrides: Mapping[str, Any] = field(default_factory=dict)


_SAMPLERS: dict[str, Sampler] = {
    "ddim": Sampler(
        "DDIM", "DDIMScheduler", {"clip_sample": False, "set_alpha_to_one": False, "steps_offset": 1}
    ),
    "pndm": Sampler(
        "PLMS", "PNDMScheduler", {"skip_prk_steps": True, "set_alpha_to_one": False, "steps_offset": 1}
    ),
    "dpmpp_2m": Sampler(
        "DPM++ 2M",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": False},
    ),
    "dpmpp_2m_karras": Sampler(
        "DPM++ 2M Karras",
        "DPMSolverMultistepScheduler",
        {"algorithm_type": "dpmsolver++", "solver_order": 2, "use_karras_sigmas": True},
    ),
    "euler": Sampler("Euler", "EulerDiscreteScheduler", {"use_karras_sigmas": False}),
    "euler_a": Sampler("Euler a", "EulerAncestralDiscreteScheduler"),
    "unipc": Sampler("UniPC", "UniPCMultistepScheduler", {"use_karras_sigmas": False}),
    "heun": Sampler("Heun", "HeunDiscreteScheduler", {"use_karras_sigmas": False, "clip_sample": False}),
}

SAMPLERS: tuple[str, ...] = tuple(_SAMPLERS)

# The samplers' names in diffusers, k-diffusion, A1111, ComfyUI, InvokeAI, Replicate and Stable Diffusion's own
# scripts, besides the names above; case, separators, "k_" and "Scheduler" are ignored.
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

# Samplers of those programs that are not supported, listed so that they aren't mistaken for a similar supported name.
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
    """Map every known sampler name, of this and other programs, to the canonical one; "" if it isn't supported."""
    names = dict.fromkeys(FOREIGN_SAMPLERS, "")
    for name, sampler in _SAMPLERS.items():
        names |= dict.fromkeys((name, sampler.viewer_name, *_OTHER_NAMES[name]), name)
    return names


def viewer_name(name: str) -> str:
    """Return the sampler's name in image viewers, as they read it from a PNG: "Euler a"."""
    return sampler_of(name).viewer_name


def sampler_of(name: str) -> Sampler:
    """Return the sampler called `name`. Raises ValueError if there is none."""
    if name not in _SAMPLERS:
        raise ValueError(f"no sampler is called {name!r}; there are {', '.join(SAMPLERS)}")
    return _SAMPLERS[name]

"""The model card: metadata of a model, as read from its TOML file."""

from dataclasses import dataclass
from typing import Literal

Family = Literal["text2image", "upscaler", "safety-checker", "clip", "decoder", "lora"]


PredictionType = Literal["epsilon", "v_prediction"]


Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """Metadata of a model. Sizes are pixels; `gflop_per_step` is for one UNet row at native size.

    Location of the files: `path`, an absolute folder or .safetensors file of the user's, or else the folder `source`
    under the models folder. With `builder` "random", that folder is built on first use; with "package", it is part of
    nightmill, under models/shapes/weights; with None, it is pulled or put there by the user. `sources` are the
    repositories to pull from, in order, as "repository" or "repository@commit"; `withdrawn` ones are never contacted.
    `parts` are the folders of a repository that are merged into this model; `variant` is the weight variant to download
    where the repository has no other safetensors.

    `upscaler`, `safety_checker`, `clip`, `decoder` and `base` are ids of other cards; a single file or a LoRA takes
    what it doesn't contain from `base`. A `decoder` decodes the same latents faster. Only the families text2image and
    upscaler have sizes, steps and samplers. `strength` is how much of an input picture is changed; noise levels apply
    to upscalers.
    """

    id: str
    title: str
    family: Family
    summary: str
    license: str
    limits: str
    source: str = ""
    path: str | None = None
    builder: Literal["random", "package"] | None = None
    sources: tuple[str, ...] = ()
    withdrawn: tuple[str, ...] = ()
    parts: tuple[str, ...] = ()
    variant: Literal["fp16"] | None = None
    base: str | None = None
    aliases: tuple[str, ...] = ()
    width: int = 0
    height: int = 0
    size_multiple: int = 0
    min_size: int = 0
    max_size: int = 0
    vae_factor: int = 0
    prediction_type: PredictionType = "epsilon"
    sampler: str = ""
    samplers: tuple[str, ...] = ()
    steps: int = 0
    guidance_scale: float = 0.0
    strength: float = 0.8
    noise_level: int = 20
    max_noise_level: int = 350
    modes: tuple[str, ...] = ()
    precision: Precision = "float32"
    upscaler: str | None = None
    safety_checker: str | None = None
    clip: str | None = None
    decoder: str | None = None
    gflop_per_step: float = 0.0
    license_url: str = ""
    use_restrictions: str = ""
    training_data: str = ""
    hardware: str = ""
    hardware_hours: int = 0
    co2_kg: float = 0.0

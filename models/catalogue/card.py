"""A model's card: what nightmill knows of a model, as its TOML file says it."""

from dataclasses import dataclass
from typing import Literal

Family = Literal["text2image", "upscaler", "safety-checker", "clip", "decoder", "lora"]


PredictionType = Literal["epsilon", "v_prediction"]


Precision = Literal["float32", "bfloat16", "float16"]


@dataclass(frozen=True, kw_only=True)
class Card:
    """What nightmill knows of a model. Sizes are pixels; `gflop_per_step` is one UNet row at native size.

    Its files: `path`, an absolute folder or .safetensors file of the user's, or else the folder `source` under
    the models folder. `builder` "random" has that folder built on first use; "package" finds it in nightmill
    itself, under models/shapes/weights; None says that it is pulled or put there. `sources` are where it is
    pulled from, in that order, as "repository" or "repository@commit"; `withdrawn` are never asked again.
    `parts` are the folders of a repository that this model is, laid together; `variant` is the one to take of
    its weights where there are no others in safetensors.

    `upscaler`, `safety_checker`, `clip`, `decoder` and `base` are ids of other cards; a single file and a LoRA take
    from `base` what they don't hold themselves. A `decoder` makes pictures of the same latents, quicker. Only the
    families text2image and upscaler have sizes, steps and samplers. `strength` is how far a picture goes from the
    given one; noise levels are of upscalers.
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

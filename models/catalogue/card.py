"""The model card: metadata of a model, as read from its TOML file."""

import re
from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import BaseModel, ConfigDict, Field, Strict, field_validator, model_validator

from models.catalogue.samplers import SAMPLERS

Family = Literal["text2image", "upscaler", "safety-checker", "classifier", "clip", "decoder", "lora"]
PredictionType = Literal["epsilon", "v_prediction"]
Precision = Literal["float32", "bfloat16", "float16"]

LONGEST_CONCEPT = 60
SERVICE_CHECKERS = ("content-safety", "content-safety-prompts")
"""What batches call the service that rates images and prompts over HTTP, beside classifiers."""

MODES = ("text2image", "image2image", "inpaint", "depth", "upscale")

Count = Annotated[int, Field(gt=0, lt=2**31)]
Amount = Annotated[float, Field(ge=0, allow_inf_nan=False)]
Texts = Annotated[tuple[str, ...], Strict(strict=False)]  # TOML has lists only

_SAMPLED = (
    *("width", "height", "size_multiple", "min_size", "max_size", "vae_factor"),
    *("steps", "samplers", "modes", "sampler"),
)
_ID = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
_REPOSITORY = re.compile(r"[A-Za-z0-9][\w.-]{0,95}/[A-Za-z0-9][\w.-]{0,95}")
_COMMIT = re.compile(r"[0-9a-f]{40}")
_SCORE = re.compile(r"[01](\.[0-9]{1,3})?")


class Card(BaseModel):
    """Metadata of a model. Sizes are pixels; `gflop_per_step` is for one UNet row at native size.

    Location of the files: `path`, an absolute folder or .safetensors file of the user's, or else the folder `source`
    under the models folder. With `builder` "random", that folder is built on first use; with "package", it is part of
    nightmill, under models/shapes/weights; with None, it is pulled or put there by the user. `sources` are the
    repositories to pull from, in order, as "repository" or "repository@commit"; `withdrawn` ones are never contacted.
    `parts` are the folders of a repository that are merged into this model; `variant` is the weight variant to download
    where the repository has no other safetensors.

    `upscaler`, `safety_checker`, `clip`, `decoder` and `base` are ids of other cards; a single file or a LoRA takes
    what it doesn't contain from `base`. A `decoder` decodes the same latents faster. Only the families text2image and
    upscaler have sizes, steps and samplers. `strength` is how much of an input image is changed; noise levels apply
    to upscalers. `concepts` are names of a safety checker's first concepts, in the order of its checkpoint; the others
    are called by their numbers. `labels` are all labels of a classifier, in the order of its checkpoint, and
    `thresholds` those that flag an image, with the lowest score from 0.001 to 1 that does: "nsfw=0.5".
    """

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)

    id: str
    title: str
    family: Family
    summary: str
    license: str
    limits: str
    source: str = ""
    path: str | None = None
    builder: Literal["random", "package"] | None = None
    sources: Texts = ()
    withdrawn: Texts = ()
    parts: Texts = ()
    variant: Literal["fp16"] | None = None
    base: str | None = None
    aliases: Texts = ()
    width: Count = 0
    height: Count = 0
    size_multiple: Count = 0
    min_size: Count = 0
    max_size: Count = 0
    vae_factor: Count = 0
    prediction_type: PredictionType = "epsilon"
    sampler: str = ""
    samplers: Texts = ()
    steps: Count = 0
    guidance_scale: Amount = 0.0
    strength: Amount = 0.8
    noise_level: Count = 20
    max_noise_level: Count = 350
    modes: Texts = ()
    precision: Precision = "float32"
    upscaler: str | None = None
    safety_checker: str | None = None
    clip: str | None = None
    decoder: str | None = None
    concepts: Texts = ()
    labels: Texts = ()
    thresholds: Texts = ()
    gflop_per_step: Amount = 0.0
    license_url: str = ""
    use_restrictions: str = ""
    training_data: str = ""
    hardware: str = ""
    hardware_hours: Count = 0
    co2_kg: Amount = 0.0

    @field_validator("id")
    @classmethod
    def _check_id(cls, id: str) -> str:
        if not _ID.fullmatch(id):
            raise ValueError(f"id {id!r} must be letters, digits, dots, dashes and underscores, at most 64")
        return id

    @field_validator("sources", "withdrawn")
    @classmethod
    def _check_repositories(cls, sources: tuple[str, ...]) -> tuple[str, ...]:
        for source in sources:
            repository, at, commit = source.partition("@")
            if not _REPOSITORY.fullmatch(repository) or (at and not _COMMIT.fullmatch(commit)):
                raise ValueError(
                    f"{source!r} must be OWNER/NAME or OWNER/NAME@COMMIT, a commit being 40 hexadecimal digits"
                )
        return sources

    @field_validator("samplers")
    @classmethod
    def _check_samplers(cls, samplers: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in samplers if name not in SAMPLERS]:
            raise ValueError(f"unknown sampler {unknown[0]!r}; there are {', '.join(SAMPLERS)}")
        return samplers

    @field_validator("modes")
    @classmethod
    def _check_modes(cls, modes: tuple[str, ...]) -> tuple[str, ...]:
        if unknown := [name for name in modes if name not in MODES]:
            raise ValueError(f"unknown mode {unknown[0]!r}; there are {', '.join(MODES)}")
        return modes

    @field_validator("concepts")
    @classmethod
    def _check_concepts(cls, concepts: tuple[str, ...]) -> tuple[str, ...]:
        for name in concepts:
            if not 0 < len(name) <= LONGEST_CONCEPT or not name.isprintable() or name != name.strip():
                raise ValueError(
                    f"concept {name!r} must be a name of 1 to {LONGEST_CONCEPT} printable characters"
                )
            if concepts.count(name) > 1:
                raise ValueError(f"there are two concepts {name!r}")
            if name.isdecimal():
                raise ValueError(
                    f"concept {name!r} must have a name, as numbers stand for concepts themselves"
                )
        return concepts

    @field_validator("strength")
    @classmethod
    def _check_strength(cls, strength: float) -> float:
        if not 0 < strength <= 1:
            raise ValueError(f"strength {strength} must be above 0 and at most 1")
        return strength

    @model_validator(mode="after")
    def _check_place(self) -> Self:
        if self.path is None:
            if self.source in {"", ".", ".."} or any(sign in self.source for sign in "/\\\0"):
                raise ValueError(
                    f"source must be the name of a folder under the models folder, not {self.source!r}"
                )
        elif self.source or self.builder:
            raise ValueError("path says where the files are, so that source and builder must be left out")
        elif not Path(self.path).is_absolute():
            raise ValueError(f"path must be absolute, not {self.path!r}")
        elif self.path.endswith(".safetensors") and self.base is None:
            raise ValueError("a single file needs base, the id of the model that it was made from")
        return self

    @model_validator(mode="after")
    def _check_family(self) -> Self:
        if self.family == "lora" and not self.base:
            raise ValueError("a LoRA needs base, the id of the model that it was trained on")
        if self.concepts and self.family != "safety-checker":
            raise ValueError(f"a model of the family {self.family} has no concepts")
        self._check_labels()
        if self.family in {"text2image", "upscaler"}:
            if missing := [name for name in _SAMPLED if not getattr(self, name)]:
                raise ValueError(f"a model of the family {self.family} needs {', '.join(missing)}")
            if self.sampler not in self.samplers:
                raise ValueError(f"sampler {self.sampler!r} is not one of its samplers")
            self._check_sizes()
        if self.noise_level > self.max_noise_level:
            raise ValueError(
                f"noise_level {self.noise_level} is above max_noise_level {self.max_noise_level}"
            )
        return self

    @property
    def label_thresholds(self) -> dict[str, float]:
        """The labels that flag an image, with the lowest score that does."""
        return {label: float(score) for label, _, score in (each.rpartition("=") for each in self.thresholds)}

    def _check_labels(self) -> None:
        if self.family == "classifier" and self.id.casefold() in SERVICE_CHECKERS:
            raise ValueError(f"id {self.id!r} stands for the content-safety service; choose another")
        if (self.family == "classifier") != bool(self.labels and self.thresholds):
            told = (
                "needs labels and thresholds"
                if self.family == "classifier"
                else "has no labels or thresholds"
            )
            raise ValueError(f"a model of the family {self.family} {told}")
        for label in self.labels:
            is_text = 0 < len(label) <= LONGEST_CONCEPT and label.isprintable() and label == label.strip()
            if not is_text or set(label) & set(",:="):
                raise ValueError(
                    f"label {label!r} must have 1 to {LONGEST_CONCEPT} printable characters, none of them , : or =, "
                    "and no spaces around them"
                )
        for each in self.thresholds:
            label, _, score = each.rpartition("=")
            if label not in self.labels:
                raise ValueError(
                    f"threshold {each!r} must be LABEL=SCORE; labels are {', '.join(self.labels)}"
                )
            if not _SCORE.fullmatch(score) or not 0 < float(score) <= 1:
                raise ValueError(f"threshold {each!r} needs a score from 0.001 to 1, with 3 decimals at most")
        if len(self.label_thresholds) < len(self.thresholds) or len(set(self.labels)) < len(self.labels):
            raise ValueError("labels and thresholds must each be named once")

    def _check_sizes(self) -> None:
        if self.size_multiple % self.vae_factor:
            raise ValueError(
                f"size_multiple {self.size_multiple} must be a multiple of vae_factor {self.vae_factor}"
            )
        for name in ("width", "height"):
            size = getattr(self, name)
            if size % self.size_multiple or not self.min_size <= size <= self.max_size:
                allowed = f"a multiple of {self.size_multiple} in {self.min_size}..{self.max_size}"
                raise ValueError(f"{name} {size} must be {allowed}")

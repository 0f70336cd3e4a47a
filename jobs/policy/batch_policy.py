"""The batch policy: settings of a whole batch such as safety, watermark, file format, attempts and schedule.

A key is one field of `BatchPolicy`. From the fields and their metadata (`jobs.policy.policy_key_metadata`) follow the
options `--set KEY=VALUE`, the batch's identity, its row in the table, what a worker's lane and the image rows hold of
it, `status --json`, `change`, and the table of keys in the documentation.
"""

from collections.abc import Callable, Mapping
from dataclasses import replace
from datetime import UTC, datetime
from typing import Annotated, Any, Self, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationInfo, field_validator, model_validator
from pydantic.fields import FieldInfo

from jobs.errors import UsageError
from jobs.policy import safety_label_thresholds
from jobs.policy.policy_key_metadata import (
    BATCH_SEED,
    CANARY,
    ORIGINAL,
    SCHEDULE,
    SEED_SOURCE,
    TARGET,
    Identity,
    PolicyKey,
)
from jobs.policy.safety_thresholds import SafetyThresholds, normalised
from jobs.policy.time_windows import parse_moment, parse_window
from jobs.states import (
    Decoder,
    ImageFormat,
    PromptDisclosure,
    SafetyAction,
    SafetyStrength,
    Scoring,
    SeedSource,
    TrainingUse,
    WatermarkPolicy,
    Weights,
)

T = TypeVar("T")

LONGEST_CHECKERS = 4000
"""Characters of all further safety checkers with their thresholds."""

STORED = "stored"
"""Validation context of a row's values, which were checked when they were given, by another host's time zones."""


class BatchPolicy(BaseModel):
    """The batch's own settings, given by `--set key=value`. A default never changes: rows don't store defaults."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_seed: Annotated[int, BATCH_SEED] = Field(
        default=0,
        ge=0,
        lt=2**63,
        description="rows without a seed derive theirs from it; unless given, it is derived from the batch's name",
    )
    seed_from: Annotated[SeedSource, SEED_SOURCE] = Field(
        default=SeedSource.ROW,
        description="id or row: what derived seeds depend on beside it; unless given, id if all rows have ids and none "
        "is repeated, else row",
    )
    safety: Annotated[SafetyAction, ORIGINAL] = Field(
        default=SafetyAction.BLOCK, description="block, quarantine, flag, blacken or blur what is flagged"
    )
    watermark: Annotated[WatermarkPolicy, ORIGINAL] = Field(
        default=WatermarkPolicy.REQUIRE,
        description="require, require-strong (a mark that survives JPEG of quality 75), best-effort or off",
    )
    watermark_text: Annotated[str | None, PolicyKey(affects_images=False)] = Field(
        default=None,
        min_length=1,
        max_length=32,
        description="the invisible mark, ASCII; default: the workers' `NIGHTMILL_WATERMARK`",
    )
    format: Annotated[ImageFormat, ORIGINAL] = Field(default=ImageFormat.PNG, description="png, webp or jpeg")
    quality: Annotated[int, ORIGINAL] = Field(
        default=95, ge=1, le=100, description="of webp (100: lossless) and jpeg"
    )
    parameters: Annotated[bool, ORIGINAL] = Field(
        default=True, description="write the generation parameters into the files"
    )
    c2pa_prompt: Annotated[PromptDisclosure, PolicyKey()] = Field(
        default=PromptDisclosure.OMIT,
        description="omit, hash or full: what signed manifests tell of the prompt",
    )
    c2pa_training: Annotated[TrainingUse, PolicyKey()] = Field(
        default=TrainingUse.NOT_ALLOWED,
        description="not-allowed or allowed: what signed manifests say of training and data mining with the images",
    )
    max_attempts: Annotated[int, PolicyKey(Identity.ALWAYS, is_column=True, affects_images=False)] = Field(
        default=3, ge=1, le=100, description="attempts at a job before it fails"
    )
    priority: Annotated[int, SCHEDULE] = Field(default=0, ge=-1000, le=1000, description="higher first")
    reuse: Annotated[bool, PolicyKey(Identity.NEVER, affects_images=False)] = Field(
        default=True,
        description="copy the images of other batches that have the same inputs instead of rendering them again",
    )
    clip_score: Annotated[Scoring, PolicyKey()] = Field(
        default=Scoring.AUTO, description="auto (where the model's CLIP is there), on or off"
    )
    deep_cache: Annotated[int, PolicyKey(is_recorded=True)] = Field(
        default=1,
        ge=1,
        le=10,
        description="of so many UNet calls one is whole: above 1 quicker, and other pictures",
    )
    weights: Annotated[Weights | None, PolicyKey()] = Field(
        default=None,
        description="full, fp8, int8 or int4: how the model's weights are held; default: as the workers do",
    )
    decoder: Annotated[Decoder, PolicyKey()] = Field(
        default=Decoder.FULL,
        description="full (the model's VAE) or tiny (the small decoder that its card names)",
    )
    window: Annotated[str | None, SCHEDULE] = Field(
        default=None, description='when to work at it: "22:00-07:00 Europe/Berlin"'
    )
    not_before: Annotated[datetime | None, SCHEDULE] = Field(
        default=None, description='"2026-11-22 18:00 Europe/Berlin" or "18:00"'
    )
    deadline: Annotated[datetime | None, SCHEDULE] = Field(
        default=None, description="as not_before; `status` warns when it will be missed"
    )
    canary: Annotated[int, CANARY] = Field(
        default=0, ge=0, le=1_000_000, description="rows that go ahead of all others"
    )
    canary_bound: Annotated[float, CANARY] = Field(
        default=0.5,
        ge=0,
        le=1,
        description="the batch pauses when more than this share of them fails or is blocked",
    )
    on_end: Annotated[str | None, PolicyKey(Identity.NEVER, is_changeable=True, affects_images=False)] = (
        Field(
            default=None,
            description="told when the batch ends or is stopped: a command, mailto:ADDRESS or URL",
        )
    )
    target: Annotated[int | None, TARGET] = Field(
        default=None, ge=1, le=10**9, description="accepted images wanted"
    )
    target_per: Annotated[str | None, replace(TARGET, digest_with="target")] = Field(
        default=None,
        min_length=1,
        max_length=200,
        description="column of meta: so many for each of its values",
    )
    max_replacement_ratio: Annotated[float, replace(TARGET, digest_with="target", former_name="top_up")] = (
        Field(
            default=1.0,
            ge=0,
            le=100,
            description="replacements of failed, blocked and not accepted images at most, as a share of the target",
        )
    )
    accept: Annotated[str | None, TARGET] = Field(
        default=None,
        min_length=1,
        max_length=4000,
        description='what images must meet to count to the target: "clip_score > 24 and not duplicate"',
    )
    duplicate_distance: Annotated[int, replace(TARGET, digest_with="accept")] = Field(
        default=4,
        ge=0,
        le=10,
        description="bits of perceptual hashes in which a `duplicate` in `accept` may differ",
    )
    check_upscaled: Annotated[bool, PolicyKey()] = Field(
        default=True, description="check generated images again when they were upscaled"
    )
    safety_strength: Annotated[SafetyStrength, PolicyKey(is_recorded=True)] = Field(
        default=SafetyStrength.STANDARD,
        description="lenient, standard or strong: how little is flagged; `judge` may change it later",
    )
    safety_thresholds: Annotated[str | None, PolicyKey(is_recorded=True)] = Field(
        default=None,
        max_length=1000,
        description='added to the safety checker\'s scores beside the strength: "3=0.02,special_care.1=-0.01"',
    )
    safety_checkers: Annotated[str | None, PolicyKey(is_recorded=True)] = Field(
        default=None,
        max_length=LONGEST_CHECKERS,
        description="further checkers, classifiers by their cards' ids, content-safety and content-safety-prompts, and "
        'the lowest scores that flag: "nsfw-vit,content-safety:Violence=2"',
    )

    @field_validator("window", mode="after")
    @classmethod
    def _is_window(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is not None and info.context != STORED:
            _raises_value_error(lambda: parse_window(value))
        return value

    @field_validator("on_end", mode="before")
    @classmethod
    def _is_nobody(cls, value: object) -> object:
        return None if value == "none" else value

    @field_validator("safety_thresholds", mode="after")
    @classmethod
    def _are_thresholds(cls, value: str | None) -> str | None:
        return None if value is None else _raises_value_error(lambda: normalised(value))

    @field_validator("safety_checkers", mode="after")
    @classmethod
    def _are_checkers(cls, value: str | None) -> str | None:
        if value is None:
            return None
        parsed = _raises_value_error(lambda: safety_label_thresholds.parse(value))
        completed = _raises_value_error(lambda: safety_label_thresholds.with_service_defaults(parsed))
        return safety_label_thresholds.normalised(completed)

    @field_validator("watermark_text")
    @classmethod
    def _is_ascii(cls, value: str | None) -> str | None:
        if value is not None and not value.isascii():
            raise ValueError("must be ASCII")
        return value

    @field_validator("not_before", "deadline", mode="before")
    @classmethod
    def _moment(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return _raises_value_error(lambda: parse_moment(value, datetime.now(UTC)))

    @model_validator(mode="after")
    def _is_reachable(self, info: ValidationInfo) -> Self:
        if info.context == STORED:
            return self
        if self.not_before and self.deadline and self.deadline <= self.not_before:
            raise ValueError("the deadline is not after not_before")
        if self.watermark == WatermarkPolicy.REQUIRE_STRONG and self.watermark_text is not None:
            raise ValueError(
                "watermark=require-strong is for marks that say the job: leave out watermark_text"
            )
        if self.target is None and self.target_per is not None:
            raise ValueError("target_per needs a target: how many images for each value")
        if self.target is None and self.accept is not None:
            raise ValueError("accept needs a target: how many images are to meet it")
        return self

    @property
    def checker_thresholds(self) -> SafetyThresholds:
        """What is added to the safety checker's scores, and further checkers."""
        return SafetyThresholds.of(self.safety_strength, self.safety_thresholds, self.safety_checkers)

    def identity(self) -> dict[str, Any]:
        """Return the values that are part of the batch's digest, by the names that digests have for them."""
        values = self.model_dump(mode="json")
        kept = {
            key.former_name or name: values[name]
            for name, key in policy_keys().items()
            if self._is_in_digest(name, key)
        }
        return kept | {"priority": 0}  # as the first version had it

    def _is_in_digest(self, name: str, key: PolicyKey) -> bool:
        if key.identity == Identity.UNLESS_DEFAULT:
            return not self._is_default(key.digest_with or name)
        return key.identity == Identity.ALWAYS

    def _is_default(self, name: str) -> bool:
        return bool(getattr(self, name) == fields()[name].default)

    def chosen(self) -> list[str]:
        """Return the keys that ingest chooses, as they weren't given."""
        return [
            name for name, key in policy_keys().items() if key.is_chosen and name not in self.model_fields_set
        ]

    def affecting_images(self) -> dict[str, Any]:
        """Return the values that affect images and aren't the default, the mark's text and the seeds left out.

        What is left out is known of each image: its seed, and the mark, for which a worker's setting may stand.
        """
        values = self.model_dump(mode="json")
        return {
            name: values[name]
            for name, key in policy_keys().items()
            if key.affects_images and not self._is_default(name)
        }

    def recorded(self) -> dict[str, str]:
        """Return what image rows note of the policy: values that affect the pixels and aren't the default."""
        return {
            name: str(getattr(self, name))
            for name, key in policy_keys().items()
            if key.is_recorded and not self._is_default(name)
        }


def fields() -> Mapping[str, FieldInfo]:
    """Return the fields of the policy by key."""
    return BatchPolicy.model_fields


def policy_keys() -> dict[str, PolicyKey]:
    """Return the metadata of all keys."""
    return {
        name: next((found for found in field.metadata if isinstance(found, PolicyKey)), PolicyKey())
        for name, field in fields().items()
    }


def _raises_value_error(parse: Callable[[], T]) -> T:
    """Convert a UsageError into the ValueError that pydantic expects from validators."""
    try:
        return parse()
    except UsageError as error:
        raise ValueError(str(error)) from None

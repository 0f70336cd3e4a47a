"""The batch policy: settings of a whole batch such as safety, watermark, file format, attempts and schedule."""

import logging
from collections.abc import Callable, Mapping
from datetime import UTC, datetime
from typing import Any, TypeVar

from pydantic import BaseModel, ConfigDict, Field, ValidationError, field_validator, model_validator

from jobs.batches.time_windows import parse_moment, parse_window
from jobs.errors import UsageError
from jobs.states import Decoder, ImageFormat, SafetyAction, Scoring, WatermarkPolicy, Weights

log = logging.getLogger(__name__)

T = TypeVar("T")

# Keys that affect when a batch runs but not its results: they can be changed later and aren't part of its identity.
SCHEDULE = ("priority", "window", "not_before", "deadline")
_CANARY = ("canary", "canary_bound")
_TARGET = ("target", "target_per", "max_replacement_ratio")

RENAMED = {"top_up": "max_replacement_ratio"}
"""Keys by their former names, which are still read."""


class Policy(BaseModel):
    """The batch's own settings, given by `--set key=value`."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    batch_seed: int = Field(0, ge=0, lt=2**63, description="rows without a seed derive theirs from it")
    safety: SafetyAction = Field(
        SafetyAction.BLOCK, description="block, flag, blacken or blur what is flagged"
    )
    watermark: WatermarkPolicy = Field(WatermarkPolicy.REQUIRE, description="require, best-effort or off")
    format: ImageFormat = Field(ImageFormat.PNG, description="png, webp or jpeg")
    quality: int = Field(95, ge=1, le=100, description="of webp (100: lossless) and jpeg")
    parameters: bool = Field(True, description="write the generation parameters into the files")
    max_attempts: int = Field(3, ge=1, le=100, description="attempts at a job before it fails")
    priority: int = Field(0, ge=-1000, le=1000, description="higher first")
    clip_score: Scoring = Field(Scoring.AUTO, description="auto (where the model's CLIP is there), on or off")
    deep_cache: int = Field(
        1, ge=1, le=10, description="of so many UNet calls one is whole: above 1 quicker, and other pictures"
    )
    weights: Weights | None = Field(
        None,
        description="full, fp8, int8 or int4: how the model's weights are held; default: as the workers do",
    )
    decoder: Decoder = Field(
        Decoder.FULL, description="full (the model's VAE) or tiny (the small decoder that its card names)"
    )
    window: str | None = Field(None, description='when to work at it: "22:00-07:00 Europe/Berlin"')
    not_before: datetime | None = Field(None, description='"2026-11-22 18:00 Europe/Berlin" or "18:00"')
    deadline: datetime | None = Field(
        None, description="as not_before; `status` warns when it will be missed"
    )
    canary: int = Field(0, ge=0, le=1_000_000, description="rows that go ahead of all others")
    canary_bound: float = Field(
        0.5, ge=0, le=1, description="the batch pauses when more than this share of them fails or is blocked"
    )
    target: int | None = Field(None, ge=1, le=10**9, description="accepted images wanted")
    target_per: str | None = Field(
        None, min_length=1, max_length=200, description="column of meta: so many for each of its values"
    )
    max_replacement_ratio: float = Field(
        1.0,
        ge=0,
        le=100,
        description="replacements of failed and blocked images at most, as a share of the target",
    )

    @field_validator("window", mode="after")
    @classmethod
    def _is_window(cls, value: str | None) -> str | None:
        if value is not None:
            _raises_value_error(lambda: parse_window(value))
        return value

    @field_validator("not_before", "deadline", mode="before")
    @classmethod
    def _moment(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return _raises_value_error(lambda: parse_moment(value, datetime.now(UTC)))

    @model_validator(mode="after")
    def _is_reachable(self) -> "Policy":
        if self.not_before and self.deadline and self.deadline <= self.not_before:
            raise ValueError("the deadline is not after not_before")
        if self.target is None and self.target_per is not None:
            raise ValueError("target_per needs a target: how many images for each value")
        return self

    def identity(self) -> dict[str, Any]:
        """Return the values that are part of the batch's identity. Keys added later count only if not the default."""
        values = self.model_dump(mode="json", exclude={*SCHEDULE, *_CANARY}) | {"priority": 0}
        if self.target is None:
            values = {key: value for key, value in values.items() if key not in _TARGET}
        if self.clip_score == Scoring.AUTO:
            del values["clip_score"]
        if self.deep_cache == 1:
            del values["deep_cache"]
        if self.weights is None:
            del values["weights"]
        if self.decoder == Decoder.FULL:
            del values["decoder"]
        former = {name: old for old, name in RENAMED.items()}  # digests of earlier versions have these names
        return {former.get(key, key): value for key, value in values.items()}


def is_policy_key(name: str) -> bool:
    """Whether `--set` takes this name as a key of the policy; former names are such keys, too."""
    return name in Policy.model_fields or name in RENAMED


def parse_policy(given: Mapping[str, str]) -> Policy:
    """Parse a policy from key=value texts; UsageError names the key, its value and what is allowed.

    A key's former name is read where the new one isn't given, with a warning.
    """
    known = dict(given)
    for old, new in RENAMED.items():
        if old in known:
            log.warning(
                "--set %s is now called %s; the old name will not be read in a later version", old, new
            )
            known.setdefault(new, known.pop(old))
    try:
        return Policy.model_validate(known)
    except ValidationError as error:
        first = error.errors()[0]
        said = first["msg"].removeprefix("Value error, ")
        if not first["loc"]:
            raise UsageError(said) from None
        raise UsageError(f"--set {first['loc'][0]}={first['input']}: {said}") from None


def _raises_value_error(parse: Callable[[], T]) -> T:
    """Convert a UsageError into the ValueError that pydantic expects from validators."""
    try:
        return parse()
    except UsageError as error:
        raise ValueError(str(error)) from None

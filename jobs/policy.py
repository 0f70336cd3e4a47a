"""What holds for a whole batch: safety, watermark, file format, attempts, priority."""

from collections.abc import Mapping

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from jobs.errors import UsageError
from jobs.states import ImageFormat, SafetyAction, Scoring, WatermarkPolicy


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
    max_attempts: int = Field(3, ge=1, le=100)
    priority: int = Field(0, ge=-1000, le=1000, description="higher first")
    clip_score: Scoring = Field(Scoring.AUTO, description="auto (where the model's CLIP is there), on or off")


def parse_policy(given: Mapping[str, str]) -> Policy:
    """The policy with `given` texts in it; UsageError names the key, its value and what is allowed."""
    try:
        return Policy.model_validate(dict(given))
    except ValidationError as error:
        first = error.errors()[0]
        key = first["loc"][0]
        raise UsageError(f"--set {key}={first['input']}: {first['msg']}") from None

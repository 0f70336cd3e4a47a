"""Settings: read once at an entry point from `NIGHTMILL_*` environment variables, then passed on."""

import logging
import os
import re
from pathlib import Path
from typing import Annotated, Literal
from urllib.parse import urlsplit

from pydantic import ByteSize, Field, SecretStr, ValidationError, ValidationInfo, field_validator
from pydantic_core import ErrorDetails
from pydantic_settings import BaseSettings, NoDecode, SettingsConfigDict

from jobs.errors import UsageError
from jobs.monitoring.listen_address import ListenAddress
from jobs.secret_files import check_secret_files, secrets_folder
from jobs.setting_values.device_hour_prices import DevicePrices
from jobs.setting_values.parse_length_of_time import parse_length
from jobs.setting_values.watermark_key import PUBLIC, MarkKey
from jobs.states import DEFAULT_POOL, WatermarkMethod, Weights
from jobs.storage.safe_open import MANIFEST_LIMIT, why_no_folder
from jobs.url_validation import (
    check_authority_url,
    check_broker_url,
    check_endpoint_url,
    check_port,
    check_service_url,
)

log = logging.getLogger(__name__)

SENDMAIL = "/usr/sbin/sendmail -t -i"
"""Reads the addresses from the mail's headers, and takes lines of a dot alone for text."""


WATERMARK_TEXT = "NMIL"
"""The mark of pictures that can't have a tiled one, where nobody has chosen another text."""

POOL_NAME = re.compile(r"[a-z0-9][a-z0-9._-]{0,62}")
POOL_FORM = (
    "must begin with a small letter or digit, followed by up to 62 of these, dots, dashes and underscores"
)


LEAST_KEPT_S = 3600
"""The shortest time after which ended batches may be archived or deleted by themselves."""


class Settings(BaseSettings):
    """All settings that can be configured by environment variables; durations are in seconds."""

    model_config = SettingsConfigDict(env_prefix="NIGHTMILL_", frozen=True, extra="ignore")

    data_dir: Path = Field(Path(".nightmill"), description="private services, models, logs")
    secrets_dir: Path | None = Field(
        None,
        description="folder of files named like `nightmill_database_url` that hold settings; variables win over them",
    )
    database_url: SecretStr | None = Field(None, description="postgresql://…; unset: a private PostgreSQL")
    broker_url: SecretStr | None = Field(None, description="redis://…; unset: a private Redis")
    output: str = Field("output", description="folder or s3://bucket/prefix for finished batches")
    s3_endpoint_url: str | None = Field(None, description="for S3-compatible stores")
    s3_region: str | None = Field(None, description="region of the S3 bucket")
    models_dir: Path | None = Field(None, description="checkpoints and cards; default DATA_DIR/models")
    default_model: str = Field("shapes", description="for rows that name none")
    device: str = Field(
        "auto", pattern=r"^(auto|cpu|mps|cuda(:\d+)?)$", description="auto, cpu, mps, cuda or cuda:N"
    )
    batch_size: int | None = Field(
        None, ge=1, le=256, description="images drawn at once, a power of two; unset: found by trying"
    )
    model_cache_size: int = Field(
        2, ge=1, le=32, description="lanes whose models stay loaded, as long as they fit"
    )
    compile: Literal["auto", "on", "off"] = Field(
        "auto",
        description="compile UNet and decoder: auto (on CUDA, for 512 images and more of a size), on, off",
    )
    claim: int = Field(32, ge=1, le=1000, description="jobs that a worker takes at once")
    lease_s: float = Field(
        30, gt=0.5, description="a claim unrenewed for this long is given to another worker"
    )
    time_slice_s: float = Field(60, gt=0, description="time slice of one lane on a worker")
    model_affinity_s: float = Field(
        300, ge=0, description="how long lanes of other models wait behind those whose model is loaded"
    )
    shutdown_grace_s: float = Field(
        20, gt=0, description="how long a stopping worker may still deliver what is rendered"
    )
    stall_timeout_s: float = Field(
        300,
        gt=0,
        description="a worker's child that makes no step for this long is killed; loading: six times",
    )
    give_up_s: float = Field(
        300,
        gt=0,
        description="`run` ends when no worker has been able to go on for this long; its jobs stay queued",
    )
    tick_s: float = Field(0.5, gt=0, description="how often the scheduler looks for work to dispatch")
    database_wait_s: float = Field(
        300,
        ge=0,
        description="how long a starting worker or scheduler, or a waiting command, waits for PostgreSQL",
    )
    retry_delay_s: float = Field(2, ge=0, description="pause before a second attempt; doubles with each")
    pool: str = Field(
        DEFAULT_POOL,
        pattern=rf"^{POOL_NAME.pattern}$",
        description="pool of this worker, which decides the models that it processes",
    )
    pool_models: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="models of a new pool, with commas between; unset: the pool must exist"
    )
    until_idle_s: float | None = Field(
        None, gt=0, description="a worker ends when there was no work for it for this long; unset: never"
    )
    max_time_s: float | None = Field(
        None, gt=0, description="a worker has stopped before it has lived for this long; unset: never"
    )
    once: bool = Field(False, description="a worker ends after one time slice of work, or if there is none")
    queue: str = Field("nightmill", pattern=r"^[A-Za-z0-9._-]+$", description="name of the Redis list")
    reuse: bool = Field(
        True, description="whether workers copy images of the same inputs instead of rendering them again"
    )
    keep_jobs: str | None = Field(
        None,
        description="schedulers archive batches that ended this long ago, as in 30d: jobs go, image rows and files "
        "stay; unset: never",
    )
    keep_batches: str | None = Field(
        None,
        description="schedulers delete batches that ended this long ago, as in 180d: all rows go, files stay; "
        "unset: never",
    )
    watermark: str = Field(
        WATERMARK_TEXT, min_length=1, max_length=32, description="text of the invisible mark, ASCII"
    )
    watermark_method: WatermarkMethod | None = Field(
        None,
        description="how the mark is embedded: tiled, dwtDctSvd or dwtDct; unset: tiled, or dwtDctSvd if "
        "NIGHTMILL_WATERMARK is set",
    )
    watermark_key: SecretStr | None = Field(
        None,
        description="key of tiled marks, NUMBER:SECRET with a number of 1 to 255; unset: a public key, number 0",
    )
    c2pa: Literal["auto", "on", "sidecar", "off"] = Field(
        "auto",
        description="sign image files (C2PA): auto (if there is a signing identity), on, sidecar (manifests are kept "
        "in files beside the images), off",
    )
    signing_identity: SecretStr | None = Field(
        None,
        description="PEM file with the private key (or a PKCS#11 URI) and the certificates that sign image files, or "
        "its text; unset: "
        "DATA_DIR/identity/signing.pem, which `nightmill identity` makes",
    )
    content_safety_url: str | None = Field(
        None,
        description="https://… of a service like Azure AI Content Safety, which rates images and prompts of batches "
        "that ask for it",
    )
    content_safety_key: SecretStr | None = Field(None, description="the key of that service")
    timestamp_url: SecretStr | None = Field(
        None,
        description="http or https URL of a time-stamping authority (RFC 3161), which stamps the sealed shards of "
        "exports; unset: none",
    )
    timestamp_trust: Path | None = Field(
        None,
        description="PEM file with certificates, of which one must have issued the time-stamping authority's; unset: "
        "any will do",
    )
    prompt_terms: Path | None = Field(None, description="file of terms that no prompt may hold")
    image_roots: Annotated[tuple[str, ...], NoDecode] = Field(
        (), description="folders and s3:// prefixes, with commas between, that pictures may be read from"
    )
    manifest_limit: ByteSize = Field(
        ByteSize(MANIFEST_LIMIT),
        ge=1,
        description="bytes that a manifest may have when it is unpacked, as in 64GiB",
    )
    weights: Weights = Field(
        Weights.FULL,
        description="how a model's weights are held, where a batch doesn't say: full, fp8, int8, int4",
    )
    low_memory: Literal["auto", "on", "off"] = Field(
        "auto", description="trade time for memory: attention and VAE in slices and tiles"
    )
    on_end: str | None = Field(
        None,
        description="told of each batch that ends or is stopped: a command for the scheduler, mailto:ADDRESS or URL",
    )
    run_commands: Literal["auto", "on", "off"] = Field(
        "auto",
        description="run commands that batches name (`--on-end`): auto (if PostgreSQL is the private one), on, off",
    )
    sendmail: str = Field(SENDMAIL, description="takes mails of the scheduler, with their headers, on stdin")
    hour_price: str = Field(
        "",
        description="price of a worker hour, for reports: 2.5, or by parts of device names, as in "
        "H200=3.5,A100=2,0.1; unset: no costs",
    )
    log_level: Literal["DEBUG", "INFO", "WARNING", "ERROR"] = Field(
        "INFO", description="DEBUG, INFO, WARNING or ERROR"
    )
    log_format: Literal["text", "json"] = Field(
        "text", description="lines of text, or one JSON object a line, in what worker and scheduler log"
    )
    traces: Literal["on", "off"] = Field(
        "off", description="OpenTelemetry traces of jobs in the worker, sent as the `OTEL_…` variables say"
    )
    metrics_address: str | None = Field(
        None,
        description="HOST:PORT at which worker and scheduler serve `/metrics`, `/healthz` and `/readyz`; unset: "
        "nowhere. Workers that `run` and `up` start take the ports that follow",
    )

    @field_validator("database_url", "broker_url", "s3_endpoint_url", "content_safety_url", "timestamp_url")
    @classmethod
    def _is_url(cls, value: SecretStr | str | None, info: ValidationInfo) -> SecretStr | str | None:
        if value is not None:
            check = {
                "broker_url": check_broker_url,
                "s3_endpoint_url": check_endpoint_url,
                "content_safety_url": check_service_url,
                "timestamp_url": check_authority_url,
            }
            url = value.get_secret_value() if isinstance(value, SecretStr) else value
            check.get(info.field_name or "", check_port)(url)
        return value

    @field_validator("keep_jobs", "keep_batches")
    @classmethod
    def _is_age(cls, value: str | None) -> str | None:
        if value is None:
            return None
        try:
            age_s = parse_length(value, needs_unit=True)
        except UsageError as error:
            raise ValueError(f"must be {error}") from None
        if age_s < LEAST_KEPT_S:
            raise ValueError("must be at least 1h")
        return value

    @field_validator("batch_size")
    @classmethod
    def _is_even(cls, value: int | None) -> int | None:
        if value is not None and value & (value - 1):
            raise ValueError("must be a power of two: in others, images depend on their places")
        return value

    @field_validator("watermark")
    @classmethod
    def _ascii(cls, value: str) -> str:
        if not value.isascii():
            raise ValueError("must be ASCII")
        return value

    @field_validator("watermark_key")
    @classmethod
    def _has_number(cls, value: SecretStr | None) -> SecretStr | None:
        if value is not None:
            MarkKey.parse(value.get_secret_value())
        return value

    @field_validator("content_safety_key")
    @classmethod
    def _is_header(cls, value: SecretStr | None) -> SecretStr | None:
        text = value.get_secret_value() if value else "x"
        if not (text and text.isascii() and text.isprintable() and " " not in text):
            raise ValueError("must be printable ASCII without spaces")
        return value

    @field_validator("pool_models", mode="before")
    @classmethod
    def _split_models(cls, value: object) -> object:
        if not isinstance(value, str):
            return value
        return tuple(sorted({name.strip() for name in value.split(",") if name.strip()}))

    @field_validator("hour_price")
    @classmethod
    def _has_prices(cls, value: str) -> str:
        DevicePrices.parse(value)
        return value

    @field_validator("metrics_address")
    @classmethod
    def _is_address(cls, value: str | None) -> str | None:
        return None if value is None else str(ListenAddress.parse(value))

    @field_validator("image_roots", mode="before")
    @classmethod
    def _split(cls, value: object) -> object:
        """Split the comma-separated list and make folders absolute; values that aren't text are left to pydantic."""
        if not isinstance(value, str):
            return value
        roots = (root.strip() for root in value.split(","))
        return tuple(
            root if "://" in root else str(Path(root).expanduser().absolute()) for root in roots if root
        )

    @field_validator("output")
    @classmethod
    def _absolute(cls, value: str) -> str:
        if not value.isprintable():
            raise ValueError("can't be stored as text; name it in UTF-8")
        return value if "://" in value else str(_folder(Path(value)))

    @field_validator("prompt_terms", "timestamp_trust")
    @classmethod
    def _absolute_path(cls, value: Path | None) -> Path | None:
        return value and value.expanduser().absolute()

    @field_validator("data_dir", "models_dir", "secrets_dir")
    @classmethod
    def _absolute_folder(cls, value: Path | None) -> Path | None:
        return value and _folder(value)

    @property
    def keep_jobs_s(self) -> float | None:
        """Seconds after which ended batches are archived; None: never."""
        return None if self.keep_jobs is None else parse_length(self.keep_jobs, needs_unit=True)

    @property
    def keep_batches_s(self) -> float | None:
        """Seconds after which ended batches are deleted; None: never."""
        return None if self.keep_batches is None else parse_length(self.keep_batches, needs_unit=True)

    @property
    def mark_key(self) -> MarkKey:
        """The key of tiled marks."""
        given = self.watermark_key
        return PUBLIC if given is None else MarkKey.parse(given.get_secret_value())

    @property
    def has_tiled_marks(self) -> bool:
        """Whether pictures that are large enough, of batches without a text of their own, get tiled marks."""
        if self.watermark_method is None:
            return self.watermark == WATERMARK_TEXT
        return self.watermark_method is WatermarkMethod.TILED

    @property
    def allows_commands(self) -> bool:
        """Whether schedulers run commands that batches name."""
        return self.run_commands == "on"

    @property
    def database(self) -> str:
        """The PostgreSQL URL, including the password; must be set by now (`jobs.services.embedded.services`)."""
        assert self.database_url is not None
        return self.database_url.get_secret_value()

    @property
    def broker(self) -> str:
        """The Redis URL, including the password; must be set by now (`jobs.services.embedded.services`).

        With `rediss://`, the server's certificate is checked unless the URL says otherwise: Celery would not.
        """
        assert self.broker_url is not None
        url = self.broker_url.get_secret_value()
        if not url.startswith("rediss://") or "ssl_cert_reqs=" in url.partition("?")[2]:
            return url
        return f"{url}{'&' if '?' in url else '?'}ssl_cert_reqs=required"

    @property
    def pool_queue(self) -> str:
        """The Redis list with the wake-ups of this worker's pool."""
        return queue_of_pool(self.queue, self.pool)

    @property
    def models_path(self) -> Path:
        """The folder of checkpoints and extra cards."""
        return self.models_dir or self.data_dir / "models"

    @property
    def logs_path(self) -> Path:
        """The folder of the logs of the processes started by `run` and `up`."""
        return self.data_dir / "logs"

    def environment(self) -> dict[str, str]:
        """Return this process's environment with these settings, for child processes.

        PYTHONSAFEPATH keeps them from importing modules from the current folder, where the user may have a `models` or
        `jobs`.
        """
        own = {name: value for name, value in os.environ.items() if not name.startswith("NIGHTMILL_")}
        return (
            own
            | {"PYTHONSAFEPATH": "1"}
            | {f"NIGHTMILL_{name.upper()}": text for name, text in self._texts()}
        )

    def _texts(self) -> list[tuple[str, str]]:
        values = ((name, getattr(self, name)) for name in type(self).model_fields)
        return [(name, _text(value)) for name, value in values if value is not None]


def queue_of_pool(queue: str, pool: str) -> str:
    """Return the name of the Redis list with a pool's wake-ups; `queue` is that of the default pool."""
    return queue if pool == DEFAULT_POOL else f"{queue}:{pool}"


RENAMED = {
    "shift_s": "time_slice_s",
    "warm_s": "model_affinity_s",
    "drain_s": "shutdown_grace_s",
    "hang_s": "stall_timeout_s",
    "gpu_rows": "batch_size",
    "kept_models": "model_cache_size",
}
"""Settings by their former names, which are still read."""


def load_settings(**given: object) -> Settings:
    """Read the settings from the environment, overridden by `given`; UsageError names the invalid variable.

    A setting's former name is read where the new one isn't set, with a warning; so is a file of NIGHTMILL_SECRETS_DIR,
    without.
    """
    check_secret_files(Settings.model_fields)
    known = {name: value for name, value in given.items() if value is not None}
    for former, name in RENAMED.items():
        old, new = f"NIGHTMILL_{former.upper()}", f"NIGHTMILL_{name.upper()}"
        if old in os.environ and new not in os.environ:
            log.warning("%s is now called %s; the old name will not be read in a later version", old, new)
            known = {name: os.environ[old]} | known
    try:
        return Settings(_secrets_dir=secrets_folder(), **known)  # type: ignore[arg-type, call-arg]
    except ValidationError as error:
        first = error.errors()[0]
        name = "_".join(str(part) for part in first["loc"]).upper()
        raise UsageError(
            f"NIGHTMILL_{name}: {_reason(first)} (got {_safe(name, first.get('input'))})"
        ) from None


def _folder(path: Path) -> Path:
    """Return the absolute path; ValueError if it can't be a folder."""
    absolute = path.expanduser().absolute()
    if why := why_no_folder(absolute):
        raise ValueError(why)
    return absolute


_FORMS = {
    "device": "must be auto, cpu, mps, cuda or cuda:N, as in cuda:1",
    "pool": POOL_FORM,
    "queue": "must be made of letters from A to Z, digits, dots, dashes and underscores",
    "manifest_limit": "must be a number of bytes, as in 500MB or 64GiB",
}
_REASONS = {
    "less_than_equal": "must be at most {le:,}",
    "greater_than_equal": "must be at least {ge:,}",
    "greater_than": "must be more than {gt:,}",
    "int_parsing": "must be a whole number",
    "float_parsing": "must be a number",
    "literal_error": "must be {expected}",
    "enum": "must be {expected}",
    "string_too_short": "must not be empty",
    "string_too_long": "must have at most {max_length} characters",
}


def _reason(error: ErrorDetails) -> str:
    """Return what is wrong with a setting, in plainer terms than pydantic's message."""
    kind, name = error["type"], str(error["loc"][0])
    if kind in {"string_pattern_mismatch", "byte_size"}:
        return _FORMS[name]
    if kind in _REASONS:
        return _REASONS[kind].format(**error.get("ctx", {}))
    return error["msg"].removeprefix("Value error, ")


def _text(value: object) -> str:
    if isinstance(value, SecretStr):
        return value.get_secret_value()
    return ",".join(value) if isinstance(value, tuple) else str(value)


def _safe(name: str, value: object) -> str:
    return "a value not shown" if name.endswith(("_URL", "_KEY", "_IDENTITY")) else repr(value)


def without_password(url: str) -> str:
    """Return the URL without its password and query, for display."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError:
        return "a URL that can't be read"
    host = parts.hostname or ""
    user = f"{parts.username}@" if parts.username else ""
    return f"{parts.scheme}://{user}{host}{port}{parts.path}"

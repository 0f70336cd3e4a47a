"""`nightmill doctor`: check everything that a run needs and report problems."""

import secrets
import shutil
import sys
import time
from collections.abc import Callable
from contextlib import ExitStack
from datetime import UTC, datetime
from functools import partial
from typing import Any

import typer
from sqlalchemy.exc import DBAPIError

from console.command_options import Json
from console.commands.doctor_database_checks import DatabaseChecks
from console.process_control import background_up
from console.shadowed_packages import ADVICE, clashes
from console.signing_identity.describe_identity import described
from console.terminal.output import print_json, print_table, size
from jobs.content_safety.client import ContentSafetyService
from jobs.errors import NightmillError, ServiceError, UsageError
from jobs.services.embedded import services
from jobs.settings import Settings, load_settings, without_password
from jobs.settings_sources import files_read, misspelt_settings
from models.catalogue.catalogue import Catalogue
from models.errors import ModelError
from models.optional_packages import is_installed
from models.runtime.batch_size_profile import Profile


def doctor(as_json: Json = False) -> None:
    """Check Python, device, services, tables, output and models; exit 1 if something is amiss."""
    checks = _checks(load_settings())
    if as_json:
        print_json(checks)
    else:
        print_table(
            ("", "check", "finding"), [("ok" if c["ok"] else "!!", c["check"], c["finding"]) for c in checks]
        )
    if not all(check["ok"] for check in checks):
        raise typer.Exit(1)


def _checks(settings: Settings) -> list[dict[str, Any]]:
    with ExitStack() as stack:
        configured, failure = _services(settings, stack)
        database = DatabaseChecks(configured, is_private=settings.database_url is None)
        stack.callback(database.close)
        return [
            _check("python", lambda: f"{sys.version.split()[0]}; " + _versions()),
            _check("packages", _packages),
            _check("settings", _settings),
            _check("device", lambda: _device(settings)),
            _check("PostgreSQL", database.postgres if configured.database_url else partial(_fail, failure)),
            _check("feed", database.feed),
            _check("workers", database.workers),
            _check("retention", lambda: _retention(settings)),
            _check("processes", lambda: _processes(settings)),
            _check(
                "Redis", partial(_redis, configured) if configured.broker_url else partial(_fail, failure)
            ),
            _check("output", database.output),
            _check("models", lambda: _models(settings)),
            _check("signing", lambda: _signing(settings)),
            _check("content safety", lambda: _content_safety(settings)),
            _check("time stamps", lambda: _time_stamps(settings)),
            _check("disk", lambda: _disk(settings)),
        ]


def _check(name: str, look: Callable[[], str]) -> dict[str, Any]:
    try:
        return {"check": name, "ok": True, "finding": look()}
    except (NightmillError, ModelError, OSError) as error:
        return {"check": name, "ok": False, "finding": str(error)}
    except DBAPIError as error:  # such as a right that the role lacks
        return {
            "check": name,
            "ok": False,
            "finding": f"PostgreSQL: {str(error.orig).strip().splitlines()[0]}",
        }


def _services(settings: Settings, stack: ExitStack) -> tuple[Settings, str]:
    """Start private services for URLs that aren't set; return the settings with all URLs, or why there are none."""
    try:
        return stack.enter_context(services(settings)), ""
    except ServiceError as error:
        return settings, f"the private services can't start: {error}"


def _fail(reason: str) -> str:
    raise ServiceError(reason)


def _settings() -> str:
    """Return that all variables are settings, and which files are read; UsageError names what is no setting."""
    if found := misspelt_settings():
        meant = (
            f"{name} is no setting{f'; did you mean {near}?' if near else ''}" for name, near in found.items()
        )
        raise UsageError("; ".join(meant))
    files = ", ".join(map(str, files_read()))
    return f"every NIGHTMILL_ variable is one{f'; read from files: {files}' if files else ''}"


def _device(settings: Settings) -> str:
    if not is_installed("worker"):
        return "none is used: without the worker's packages (pip install 'nightmill[worker]') this is a server alone"
    from models.runtime.device import pick_device  # noqa: PLC0415 - torch takes a second to import

    return pick_device(settings.device).label


def _versions() -> str:
    if not is_installed("worker"):
        return "without the worker's packages"
    from models.runtime.device import versions  # noqa: PLC0415

    return ", ".join(f"{name} {version}" for name, version in versions().items() if name != "python")


def _packages() -> str:
    if found := clashes():
        raise UsageError(f"{'; '.join(found)}: {ADVICE}")
    return "no other distribution has packages of nightmill's names"


def _processes(settings: Settings) -> str:
    """Report the processes that `up` started here."""
    if troubles := background_up.slowed(settings):
        raise ServiceError("; ".join(troubles))
    pid = background_up.running(settings)
    return "nothing is up here" if pid is None else f"up, as process {pid}"


def _retention(settings: Settings) -> str:
    from scheduler.retention.archive_and_delete_old_batches import retention_said  # noqa: PLC0415

    return retention_said(settings)


def _redis(settings: Settings) -> str:
    from scheduler.check_redis import check_redis  # noqa: PLC0415

    return f"{check_redis(settings)} at {without_password(settings.broker)}"


def _time_stamps(settings: Settings) -> str:
    """Get a time stamp of random bytes, if shards of exports are to be stamped."""
    from scheduler.export.rfc3161_time_stamps.authority_client import TimeStampAuthority  # noqa: PLC0415

    authority = TimeStampAuthority.of_settings(settings)
    if authority is None:
        return "shards of exports get none: NIGHTMILL_TIMESTAMP_URL isn't set"
    stamp = authority.stamp(secrets.token_hex(32))
    trust = "trusted" if settings.timestamp_trust else "any is taken: NIGHTMILL_TIMESTAMP_TRUST isn't set"
    return f"shards of exports get them from {authority.host}: {stamp.authority}, {trust}"


def _disk(settings: Settings) -> str:
    folder = next(path for path in (settings.data_dir, *settings.data_dir.parents) if path.exists())
    return f"{size(shutil.disk_usage(folder).free)} free"


def _models(settings: Settings) -> str:
    catalogue = Catalogue.load(settings.models_path)
    catalogue.get(settings.default_model)
    found = f"{len(catalogue.cards())} cards, default {settings.default_model}, in {settings.models_path}"
    return found + _lowered(settings)


def _signing(settings: Settings) -> str:
    """Report what image files are signed with; raises UsageError if it can't be used, or soon can't be."""
    if not is_installed("worker"):
        return "the worker's packages aren't here, which sign files"
    if settings.c2pa == "off":
        return "files aren't signed: NIGHTMILL_C2PA is off"
    told = described(settings)
    if told["place"] is None and settings.c2pa == "auto":
        return "workers that start now don't sign files: there is no signing identity"
    if told["problem"]:
        raise UsageError(f"{told['place'] or f'NIGHTMILL_C2PA is {settings.c2pa}'}: {told['problem']}")
    where = ", in files beside the images" if told["manifests"] == "sidecar" else ""
    return f"as {told['organization']} until {told['expires_at']}, by {told['place']}{where}"


def _content_safety(settings: Settings) -> str:
    """Have the content-safety service rate a harmless image and prompt. Raises ContentSafetyError if it can't."""
    url, key = settings.content_safety_url, settings.content_safety_key
    if (url is None) != (key is None):
        raise UsageError(
            "NIGHTMILL_CONTENT_SAFETY_URL and NIGHTMILL_CONTENT_SAFETY_KEY go together: one isn't set"
        )
    if url is None or key is None:
        return "no service rates images: NIGHTMILL_CONTENT_SAFETY_URL isn't set"
    ContentSafetyService(url, key.get_secret_value(), _pause).check(images=True, prompts=True)
    return f"{url} answers"


def _pause(seconds: float) -> bool:
    time.sleep(seconds)
    return False


def _lowered(settings: Settings) -> str:
    """List the models whose batch size is reduced since memory ran out."""
    now = datetime.now(UTC)
    found = [
        f"{name} on {device}: {capacity.rows} instead of {capacity.found or 'more'} images at once until a day after "
        f"{capacity.measured}, for memory ran out"
        for device, sites in Profile(settings.models_path).all().items()
        for name, capacity in sites.items()
        if capacity.is_lowered and capacity.at(now) == capacity
    ]
    return "".join(f"; {line}" for line in found)

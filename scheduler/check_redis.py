"""Check that Redis takes wake-up messages, by the library that sends them; without Celery, which is slow to import."""

import uuid
from typing import Any

from kombu import Connection
from kombu.exceptions import OperationalError
from redis.exceptions import OutOfMemoryError, RedisError, ResponseError

from jobs.celery_config import celery_settings
from jobs.errors import ServiceError
from jobs.services.broker_program import BUILT_IN
from jobs.settings import Settings


def check_redis(settings: Settings) -> str:
    """Return the broker's name, version and program; ServiceError says why it can't be reached or takes no messages.

    Writes a key of its own and deletes it again; the key expires if that fails.
    """
    options = celery_settings(settings)["broker_transport_options"] | {"max_retries": 0}
    try:
        with Connection(settings.broker, connect_timeout=5, transport_options=options) as connection:
            client: Any = connection.default_channel.client  # type: ignore[attr-defined]
            probe = f"{settings.queue}.probe-{uuid.uuid4().hex}"
            client.set(probe, "", ex=10)
            client.delete(probe)
            kind = client.type(settings.queue).decode()
            info = client.info("server")
    except (OperationalError, RedisError, OSError) as error:
        raise ServiceError(refusal(error)) from None
    if kind not in ("list", "none"):
        raise ServiceError(
            f"the key {settings.queue} in Redis is a {kind} and no list: delete it, "
            "or set NIGHTMILL_QUEUE to another name"
        )
    return _described(info)


def _described(info: dict[str, Any]) -> str:
    name = info.get("server_name", "redis")
    program = info.get("executable")
    if program == BUILT_IN:
        return "built-in server for the wake-ups of one machine"
    version = info.get(f"{name}_version", info["redis_version"])
    return f"{name} {version}" + (f" ({program})" if program else "")


def refusal(error: Exception) -> str:
    """Return why no wake-up can be sent."""
    cause = (
        error.__cause__ if isinstance(error, OperationalError) else None
    )  # kombu's error wraps the driver's
    match cause or error:
        case OutOfMemoryError():
            return "Redis is full and takes no writes: raise its maxmemory, or delete what fills it"
        case ResponseError():
            return f"Redis refuses: {error}"
        case _:
            return f"can't reach Redis: {error}"

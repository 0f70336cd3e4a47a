"""The Celery application of the worker."""

from importlib import import_module
from types import ModuleType
from typing import Any

from celery import Celery
from celery.loaders.app import AppLoader
from kombu import Connection
from kombu.transport.redis import Transport as RedisTransport

from jobs.celery_config import celery_settings
from jobs.settings import Settings
from worker.wakeup_transport import WakeupTransport

LAST_NET_S = 86_400  # over its slice; what hangs is found by `worker.liveness.watchdog` long before
RECONNECT_S = 2


class InstalledLoader(AppLoader):
    """Imports what is installed; Celery's own looks first into the folder that the user happens to be in."""

    def import_from_cwd(self, module: str, imp: Any = None, package: str | None = None) -> ModuleType:  # noqa: ARG002
        """As the import statement does it."""
        return import_module(module, package)


class WakeupConnection(Connection):
    """Reads wake-ups only. Tries again every other second while Redis is away; Celery itself would wait up to 30."""

    def get_transport_cls(self) -> Any:
        """Of Redis, the transport that believes nothing."""
        found = super().get_transport_cls()
        return WakeupTransport if found is RedisTransport else found

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        """As kombu does it, with short pauses."""
        return super().ensure_connection(
            *args, **{"interval_start": 1, "interval_max": RECONNECT_S} | options
        )


def build_app(settings: Settings) -> Celery:
    """The application; children build their own from the same environment."""
    app = Celery("nightmill", loader=InstalledLoader)
    app.conf.update(celery_settings(settings))
    app.amqp.Connection = WakeupConnection
    app.conf.update(task_time_limit=settings.time_slice_s + settings.shutdown_grace_s + LAST_NET_S)
    return app

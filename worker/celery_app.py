"""The Celery application of the worker."""

from collections.abc import Callable
from importlib import import_module
from types import ModuleType
from typing import Any

from celery import Celery
from celery.bootsteps import StartStopStep
from celery.loaders.app import AppLoader
from kombu import Connection
from kombu.transport.redis import Transport as RedisTransport

from jobs.celery_config import celery_settings
from jobs.settings import Settings
from worker import celery_logging  # noqa: F401 - before Celery sets up logging
from worker.wakeup_only_redis_transport import WakeupTransport

LAST_NET_S = 86_400  # beyond the slice; `worker.liveness.watchdog` kills hung processes much earlier
RECONNECT_S = 2
LOOP_S = 1.0


class InstalledLoader(AppLoader):
    """Imports installed modules only; Celery's own loader searches the current directory first."""

    def import_from_cwd(self, module: str, imp: Any = None, package: str | None = None) -> ModuleType:  # noqa: ARG002
        """Import the module by its name, like the import statement."""
        return import_module(module, package)


class WakeupConnection(Connection):
    """Connection that reads wake-up messages only. Reconnects to Redis every 2 seconds; Celery would wait up to 30."""

    def get_transport_cls(self) -> Any:
        """Return `WakeupTransport`, which validates messages, in place of kombu's Redis transport."""
        found = super().get_transport_cls()
        return WakeupTransport if found is RedisTransport else found

    def ensure_connection(self, *args: Any, **options: Any) -> Any:
        """Connect as kombu does, with shorter pauses between attempts."""
        return super().ensure_connection(
            *args, **{"interval_start": 1, "interval_max": RECONNECT_S} | options
        )


def watch_main_loop(app: Celery, on_loop: Callable[[], object]) -> None:
    """Call `on_loop` at least every few seconds while the main loop goes on, or tries to reach Redis."""

    class WatchedConnection(WakeupConnection):
        def ensure_connection(
            self, *args: Any, callback: Callable[[], object] | None = None, **options: Any
        ) -> Any:
            def on_wait() -> None:
                on_loop()
                if callback is not None:
                    callback()

            return super().ensure_connection(*args, callback=on_wait, **options)

    class MainLoopBeat(StartStopStep):
        requires = ("celery.worker.consumer.tasks:Tasks",)

        def start(self, parent: Any) -> None:
            # Again after each loss of the connection to Redis, at which Celery clears its timers.
            parent.timer.call_repeatedly(LOOP_S, on_loop)

    app.amqp.Connection = WatchedConnection
    app.steps["consumer"].add(MainLoopBeat)


def build_app(settings: Settings) -> Celery:
    """Build the Celery application; each child builds its own from the same environment."""
    app = Celery("nightmill", loader=InstalledLoader)
    app.conf.update(celery_settings(settings))
    app.amqp.Connection = WakeupConnection
    app.conf.update(task_time_limit=settings.time_slice_s + settings.shutdown_grace_s + LAST_NET_S)
    return app

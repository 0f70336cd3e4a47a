"""The Celery application of the worker."""

from celery import Celery

from jobs.broker import celery_settings
from jobs.settings import Settings

HANG_S = 1800  # a device batch that takes longer than this after its slice is taken for hung


def build_app(settings: Settings) -> Celery:
    """The application; children build their own from the same environment."""
    app = Celery("nightmill")
    app.conf.update(celery_settings(settings))
    app.conf.update(task_time_limit=settings.shift_s + settings.drain_s + HANG_S)
    return app

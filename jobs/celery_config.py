"""How Celery is set up on both sides, as plain data: this room knows no Celery.

A message is a hint that a lane has work. It carries no job, so losing, doubling or delaying one changes nothing:
taking it off the list is all there is to it, it expects no result, and Redis keeps nothing that the job table doesn't
know better.
"""

from typing import Any

from jobs.settings import Settings

SHIFT_TASK = "nightmill.shift"


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Celery's configuration for the sender and the worker."""
    return {
        "broker_url": settings.broker,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            # Without these a worker whose Redis was away may wait for ever: for an answer, or for leave to take a hint.
            "health_check_interval": 4,
            "ack_emulation": False,
        },
        "result_backend": None,
        "accept_content": ["json"],
        "task_serializer": "json",
        "result_accept_content": ["json"],
        "result_serializer": "json",
        "event_serializer": "json",
        "task_ignore_result": True,
        "task_acks_late": False,
        "task_default_queue": settings.queue,
        "task_create_missing_queues": True,
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,
        "worker_pool": "prefork",
        "worker_pool_start_method": "spawn",
        "worker_proc_alive_timeout": 120,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,  # what a child says would end in the proxy that it is redirected to
        "imports": ("worker.tasks",),
    }

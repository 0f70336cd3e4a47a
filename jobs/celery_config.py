"""Celery's configuration for sender and worker, as plain data; this package doesn't import Celery.

A wake-up message says that a lane has work. It carries no job, so lost, duplicated or delayed messages change nothing:
messages are acknowledged on receipt, there is no result backend, and all state is in the job table.
"""

from typing import Any

from jobs.settings import Settings

WAKEUP_TASK = "nightmill.process_lane"
FORMER_WAKEUP_TASK = "nightmill.shift"
"""The task's name in earlier versions; their messages may still be in Redis after an upgrade."""


def celery_settings(settings: Settings) -> dict[str, Any]:
    """Return Celery's configuration for the sender and the worker."""
    return {
        "broker_url": settings.broker,
        "broker_connection_retry_on_startup": True,
        "broker_connection_max_retries": None,
        "broker_transport_options": {
            "socket_timeout": 5,
            "socket_connect_timeout": 5,
            # Without these, a worker may hang after a Redis outage: in a read, or without capacity for a message.
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
        "task_default_queue": settings.pool_queue,
        "task_create_missing_queues": True,
        "worker_prefetch_multiplier": 1,
        "worker_send_task_events": False,
        "worker_enable_remote_control": False,
        "worker_pool": "prefork",
        "worker_pool_start_method": "spawn",
        "worker_proc_alive_timeout": 120,
        "worker_hijack_root_logger": False,
        "worker_redirect_stdouts": False,  # the output of child processes would end in Celery's logging proxy
        "imports": ("worker.tasks",),
    }

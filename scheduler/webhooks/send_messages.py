"""Sends messages to webhooks, each receiver in a thread of its own, so that none holds up another."""

import logging
import shlex
import threading
import time
from importlib.metadata import version

from sqlalchemy import Engine
from sqlalchemy.exc import SQLAlchemyError

from jobs.outbound_http.bounded_http_post import PostError, post
from jobs.rate_limited_log import RateLimitedLog
from jobs.settings import SENDMAIL
from jobs.webhooks import deliveries
from jobs.webhooks.batch_end_hooks import HookKind, addresses_of, kind_of
from jobs.webhooks.deliveries import Delivery
from jobs.webhooks.registry import shown
from jobs.webhooks.signatures import signed_headers
from scheduler.webhooks.compose_mail_about_a_batch import mail_message
from scheduler.webhooks.run_hook_command import CommandError, run_hook_command, run_program

log = logging.getLogger(__name__)

_GONE = 410
_HEADERS = {"content-type": "application/json", "user-agent": f"nightmill/{version('nightmill')}"}


class Sender:
    """Sends what is due; `round` returns at once, and leaves the sending to threads."""

    def __init__(self, engine: Engine, sendmail: str = SENDMAIL) -> None:
        self._engine, self._sendmail = engine, sendmail
        self._threads: dict[int, threading.Thread] = {}
        self._repeated = RateLimitedLog(log)

    def round(self) -> int:
        """Start a thread for each webhook that messages are due for and that has none; returns how many."""
        self._threads = {webhook: thread for webhook, thread in self._threads.items() if thread.is_alive()}
        idle = [webhook for webhook in deliveries.due_webhooks(self._engine) if webhook not in self._threads]
        for webhook in idle:
            thread = threading.Thread(
                target=self._send_all, args=(webhook,), name=f"webhook-{webhook}", daemon=True
            )
            self._threads[webhook] = thread
            thread.start()
        return len(idle)

    def wait(self, timeout_s: float) -> None:
        """Wait until all threads have ended, or the time is over; they send what is due before that."""
        until = time.monotonic() + timeout_s
        for thread in self._threads.values():
            thread.join(max(0.0, until - time.monotonic()))

    def _send_all(self, webhook: int) -> None:
        """Send the webhook's messages that are due, until one fails."""
        try:
            while (found := deliveries.claim(self._engine, webhook)) and self._send(found):
                pass
        except SQLAlchemyError as error:
            reason = str(error).splitlines()[0]
            self._repeated.tell(reason, f"webhooks: {reason}")
        except Exception:
            log.exception("webhooks")

    def _send(self, delivery: Delivery) -> bool:
        """Send one message and record what became of it; returns whether it was delivered."""
        try:
            status = attempt(delivery, self._sendmail)
        except (PostError, CommandError) as error:
            self._fail(delivery, str(error), None)
            return False
        if status is None:
            deliveries.succeed(self._engine, delivery, None)
            return True
        if status == _GONE:
            self._tell(delivery, "answered 410: it is gone, and nothing is sent to it any more")
            deliveries.end_webhook(self._engine, delivery, "answered 410 Gone", status)
        elif 200 <= status < 300:
            deliveries.succeed(self._engine, delivery, status)
            return True
        else:
            followed = ", which isn't followed" if 300 <= status < 400 else ""
            self._fail(delivery, f"answered {status}{followed}", status)
        return False

    def _fail(self, delivery: Delivery, error: str, status: int | None) -> None:
        self._tell(delivery, error)
        deliveries.fail(self._engine, delivery, error, status)

    def _tell(self, delivery: Delivery, reason: str) -> None:
        text = f"webhook {shown(delivery.url)}: {delivery.event}, attempt {delivery.attempts}: {reason}"
        self._repeated.tell(f"{delivery.webhook_id} {reason}", text)


def attempt(delivery: Delivery, sendmail: str) -> int | None:
    """Send a message once and return the status of the answer, None of commands; raises PostError or CommandError."""
    kind = kind_of(delivery.url) if delivery.is_hook else HookKind.URL
    if kind == HookKind.COMMAND:
        run_hook_command(delivery.url, delivery.body)
        return None
    if kind == HookKind.MAIL:
        run_program(shlex.split(sendmail), mail_message(delivery.body, addresses_of(delivery.url)), {})
        return None
    body = delivery.body.encode()
    signed = signed_headers(delivery.message_id, int(time.time()), body, delivery.secrets)
    return post(delivery.url, body, {**_HEADERS, **signed}, allows_private=delivery.allows_private)

"""Configure the logging of a process."""

import logging
import sys
import threading
from types import TracebackType

from jobs.logs.line_formats import JsonFormatter, TextFormatter

log = logging.getLogger("nightmill")


def start_logging(level: str, form: str = "text") -> None:
    """Log to stderr, in lines of text or JSON, what this process and its libraries log, and what ends its threads."""
    handler = logging.StreamHandler()
    handler.setFormatter(JsonFormatter() if form == "json" else TextFormatter())
    logging.basicConfig(level=level, handlers=[handler], force=True)
    logging.captureWarnings(form == "json")
    if form == "json":
        sys.excepthook = _log_exception
        threading.excepthook = _log_thread_exception


def logs_json() -> bool:
    """Whether this process logs JSON."""
    return any(isinstance(handler.formatter, JsonFormatter) for handler in logging.getLogger().handlers)


def _log_exception(kind: type[BaseException], error: BaseException, traceback: TracebackType | None) -> None:
    log.critical("the process ends", exc_info=(kind, error, traceback))


def _log_thread_exception(ended: "threading.ExceptHookArgs") -> None:
    if ended.exc_value is not None:
        name = ended.thread.name if ended.thread else "?"
        log.critical(
            "the thread %s has ended", name, exc_info=(ended.exc_type, ended.exc_value, ended.exc_traceback)
        )

"""The forms of a log line: text and JSON, without passwords, control characters and rows that PostgreSQL quotes."""

import json
import logging
import re
from datetime import UTC, datetime

from jobs.logs import log_context
from jobs.mask_passwords_and_escape_text import visible, without_secrets

# What PostgreSQL adds to an error: a row that violates a constraint, or the line of a COPY, with the prompt in it.
_QUOTED_ROW = re.compile(
    r"\n(DETAIL|CONTEXT):.*?(?=\n\[SQL:|\n\(Background|\n\nThe above|\n\nDuring|\Z)", re.DOTALL
)


def without_quoted_rows(text: str) -> str:
    """Leave out what PostgreSQL quotes of rows."""
    return _QUOTED_ROW.sub(r"\n\1: (left out)", text)


def _safe(text: str, level: int) -> str:
    return visible(without_secrets(text if level <= logging.DEBUG else without_quoted_rows(text)))


class TextFormatter(logging.Formatter):
    """Lines with time, process id, level, logger and message; a traceback follows in lines of its own."""

    def __init__(self) -> None:
        super().__init__("%(asctime)s %(process)d %(levelname)s %(name)s: %(message)s")

    def formatMessage(self, record: logging.LogRecord) -> str:  # noqa: N802 - logging's name
        """Format all but the traceback; further lines of a message are indented, so that none looks like a record."""
        return _safe(super().formatMessage(record), record.levelno).replace("\n", "\n    ")

    def format(self, record: logging.LogRecord) -> str:
        """Format the record as logging does, then sanitise the text, including tracebacks."""
        return _safe(super().format(record), record.levelno)


class JsonFormatter(logging.Formatter):
    """One JSON object a line; a traceback is a field of it."""

    def format(self, record: logging.LogRecord) -> str:
        """Return the object; fields that aren't known are left out."""
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, UTC).isoformat(timespec="milliseconds"),
            "level": record.levelname,
            "logger": record.name,
            "message": _safe(record.getMessage(), record.levelno),
            "process": record.process,
        }
        for name in log_context.FIELDS:
            if (value := getattr(record, name, log_context.known().get(name))) is not None:
                line[name] = value if isinstance(value, int) else _safe(str(value), record.levelno)
        if record.exc_info:
            line["traceback"] = _safe(self.formatException(record.exc_info), record.levelno)
        if record.stack_info:
            line["stack"] = _safe(record.stack_info, record.levelno)
        return json.dumps(line, ensure_ascii=False)

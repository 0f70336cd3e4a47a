"""The mail that tells of a batch, or tries whether mails arrive, as a program such as sendmail takes it."""

import json
from collections.abc import Mapping, Sequence
from email.message import EmailMessage
from email.policy import SMTP
from typing import Any

_FACTS = (
    ("state", "state"),
    ("deadline", "deadline"),
    ("late_s", "seconds late"),
    ("stopped_because", "stopped because"),
    ("rejected", "rejected rows"),
    ("manifest", "manifest"),
    ("output", "output"),
)


def mail_message(body: str, addresses: Sequence[str]) -> bytes:
    """Return the message of an event to these addresses, in the form of RFC 5322."""
    message = json.loads(body)
    data: Mapping[str, Any] = message["data"]
    mail = EmailMessage(policy=SMTP)
    mail["Subject"] = _subject(message["type"], data)
    mail["To"] = ", ".join(addresses)
    mail["Auto-Submitted"] = "auto-generated"  # RFC 3834: no answers by machines
    lines = [f"{state}: {count:,}" for state, count in data.get("counts", {}).items() if count]
    lines += [f"{said}: {data[name]}" for name, said in _FACTS if data.get(name)]
    lines += ["", *([f"nightmill status {data['name']}"] if "name" in data else []), "nightmill report"]
    mail.set_content("\n".join(lines) + "\n")
    return mail.as_bytes()


def _subject(event: str, data: Mapping[str, Any]) -> str:
    counts: Mapping[str, int] = data.get("counts", {})
    told = ", ".join(
        f"{counts[state]:,} {state}" for state in ("done", "failed", "blocked") if counts.get(state)
    )
    late = f", {data['late_s'] / 60:,.0f} min late" if data.get("late_s") else ""
    if "name" not in data:
        return f"nightmill: {event}"
    what = event.removeprefix("batch.")
    return f"nightmill: {data['name']} {what}" + (f", {told}" if told else "") + late

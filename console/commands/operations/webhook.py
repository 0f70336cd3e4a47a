"""`nightmill webhook`: receivers of messages about batches that end, are late or fall short, and unhealthy workers."""

from datetime import datetime
from typing import Annotated, Any

import typer

from console.command_options import DontAsk, Json, one_of, seconds
from console.command_options import since as past_moment
from console.session import session
from console.terminal.confirm import ask
from console.terminal.output import note, plural, print_json, print_line, print_table
from jobs.db.engine import database_time
from jobs.webhooks import deliveries, registry
from jobs.webhooks.webhook_events import WANTABLE

webhook = typer.Typer(
    help="URLs that are told of events, such as the end of a batch.",
    no_args_is_help=True,
    add_completion=False,
)

Receiver = Annotated[str, typer.Argument(metavar="URL", help="of the webhook, or its number in the list")]
_KEEP = "keep the secret: it is shown once, and the receiver checks signatures by it"


@webhook.command()
def add(
    url: Annotated[str, typer.Argument(help="https://…, which takes POST requests")],
    events: Annotated[
        str | None, typer.Option(metavar="EVENT,…", help=f"of {', '.join(WANTABLE)}; default: all")
    ] = None,
    allow_private: Annotated[
        bool, typer.Option("--allow-private", help="it may be in your own network, and be http://")
    ] = False,
    as_json: Json = False,
) -> None:
    """Add a webhook and print the secret that messages to it are signed with."""
    wanted = [event.strip() for event in events.split(",")] if events is not None else None
    with session() as open_session:
        number, secret = registry.add(open_session.engine, url, wanted, allows_private=allow_private)
    _print_secret(number, secret, as_json)


@webhook.command("list")
def list_(as_json: Json = False) -> None:
    """Webhooks with what became of the messages to them; never their secrets."""
    with session() as open_session:
        found = registry.webhooks(open_session.engine)
    if as_json:
        print_json(found)
        return
    columns = ("no", "url", "events", "pending", "delivered", "dead", "state")
    print_table(columns, [_row(each) for each in found])


@webhook.command("test")
def send_test(url: Receiver, as_json: Json = False) -> None:
    """Send a message of the type `test` now; exit 1 unless the receiver takes it."""
    from scheduler.webhooks.send_test_message import send_test_message  # noqa: PLC0415 - few commands send anything

    with session() as open_session:
        number = registry.find(open_session.engine, url)
        outcome = send_test_message(open_session.engine, number, open_session.settings.sendmail)
    if as_json:
        print_json({"webhook": number, "status": outcome.status, "error": outcome.error})
    else:
        note("delivered" if outcome.error is None else f"not delivered: {outcome.error}")
    if outcome.error is not None:
        raise typer.Exit(1)


@webhook.command()
def rotate(
    url: Receiver,
    overlap: Annotated[
        str, typer.Option(metavar="TIME", help="how long messages are signed by the former secret, too")
    ] = "1d",
    as_json: Json = False,
) -> None:
    """Give a webhook a new secret and print it."""
    overlap_s = seconds("--overlap", overlap)
    assert overlap_s is not None
    with session() as open_session:
        number = registry.find(open_session.engine, url)
        secret = registry.rotate(open_session.engine, number, overlap_s)
    _print_secret(number, secret, as_json)


@webhook.command()
def messages(
    url: Receiver,
    state: Annotated[str | None, typer.Option(help="pending, delivered or dead")] = None,
    limit: Annotated[int, typer.Option(min=1, max=10_000)] = 50,
    as_json: Json = False,
) -> None:
    """Messages to a webhook of the last 30 days, the newest first."""
    if state is not None:
        one_of("--state", state, ("pending", "delivered", "dead"))
    with session() as open_session:
        number = registry.find(open_session.engine, url)
        found = deliveries.deliveries(open_session.engine, number, state, limit)
    if as_json:
        print_json(found)
        return
    columns = ("message", "event", "created", "state", "attempts", "next try", "last error")
    names = ("message_id", "event", "created_at", "state", "attempts", "next_try_at", "error")
    print_table(columns, [[_cell(each[name]) for name in names] for each in found])


@webhook.command()
def replay(
    url: Receiver,
    since: Annotated[
        str | None,
        typer.Option(
            metavar="MOMENT", help="also delivered ones from then on: 22:00, 12h; default: those that failed"
        ),
    ] = None,
    as_json: Json = False,
) -> None:
    """Send messages again, under the ids that they had; a webhook that answered 410 is told of events again."""
    with session() as open_session:
        now = database_time(open_session.engine)
        moment = None if since is None else past_moment("--since", since, now)
        number = registry.find(open_session.engine, url)
        queued = deliveries.replay(open_session.engine, number, moment)
    if as_json:
        print_json({"webhook": number, "queued": queued})
    else:
        note(f"{plural(queued, 'message')} queued again")


@webhook.command()
def remove(url: Receiver, yes: DontAsk = False, as_json: Json = False) -> None:
    """Remove a webhook and all messages to it; asks if some of them weren't delivered yet."""
    with session() as open_session:
        number = registry.find(open_session.engine, url)
        pending = registry.count_pending(open_session.engine, number)
        if pending and not yes:
            ask(f"drops {plural(pending, 'message')} to webhook {number} that it hasn't taken yet")
        registry.remove(open_session.engine, number)
    if as_json:
        print_json({"webhook": number, "dropped": pending})
    else:
        dropped = f", with {plural(pending, 'message')} that it hadn't taken" if pending else ""
        note(f"webhook {number} is removed{dropped}")


def _print_secret(number: int, secret: str, as_json: bool) -> None:
    if as_json:
        print_json({"webhook": number, "secret": secret})
        return
    print_line(secret)
    note(f"webhook {number}: {_KEEP}")


def _row(found: dict[str, Any]) -> tuple[object, ...]:
    events = ", ".join(found["events"]) if found["events"] else "all"
    state = found["ended_because"] or (f"last error: {found['last_error']}" if found["last_error"] else "")
    return found["id"], found["url"], events, found["pending"], found["delivered"], found["dead"], state


def _cell(value: Any) -> object:
    return value.isoformat(timespec="seconds") if isinstance(value, datetime) else value

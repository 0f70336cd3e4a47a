"""`nightmill feed`: finished images, and other events, each exactly once."""

import time
from collections.abc import Iterator
from contextlib import ExitStack
from pathlib import Path
from typing import Annotated

import typer

from console.command_options import one_of
from console.commands.feed.feed_writers import FORMATS, FeedOutput, feed_output
from console.session import Session, session
from console.terminal.lenient_standard_streams import is_unread
from console.terminal.output import note
from jobs.batches import actions
from jobs.errors import UsageError
from jobs.feed import feed as feeding
from jobs.feed.consumers import ConsumerBusyError, Turn, turn
from jobs.feed.feed import Cursor
from jobs.feed.feed_query import FeedQuery
from jobs.images.where_expression import compile_condition
from jobs.states import EventKind

FOLLOW_S = 1
IDLE_ACKNOWLEDGED_S = 60
"""How often a consumer that waits notes how far it has looked without finding anything."""


def feed(
    since: Annotated[
        str | None, typer.Option(metavar="CURSOR", help="the last cursor that you have dealt with")
    ] = None,
    batch: Annotated[str | None, typer.Option(help="only this batch")] = None,
    follow: Annotated[bool, typer.Option(help="wait for more")] = False,
    events: Annotated[
        str | None,
        typer.Option(
            metavar="KINDS", help=f"`all`, or some of {', '.join(EventKind)}; default: images alone"
        ),
    ] = None,
    where: Annotated[
        str | None, typer.Option(metavar="CONDITION", help="only these images: \"meta.label = 'fox'\"")
    ] = None,
    limit: Annotated[int | None, typer.Option(min=1, help="lines at most")] = None,
    consumer: Annotated[
        str | None,
        typer.Option(metavar="NAME", help="go on where this consumer stopped, and note how far it came"),
    ] = None,
    format_: Annotated[str, typer.Option("--format", help=", ".join(FORMATS))] = FORMATS[0],
    out: Annotated[
        Path | None, typer.Option(metavar="FILE", help="write to a file, which is replaced")
    ] = None,
    as_json: Annotated[bool, typer.Option("--json", help="JSON lines, as always")] = True,  # noqa: ARG001
) -> None:
    """Finished images as JSON lines, each exactly once; go on later from the last line's cursor."""
    one_of("--format", format_, FORMATS)
    if follow and (out or format_ == "parquet"):
        raise UsageError("--follow never ends, and a file takes its name at the end: leave one of them off")
    begin = None if since is None else feeding.parse_cursor(since)
    kinds = _kinds(events)
    condition = compile_condition(where) if where is not None else None
    if condition and kinds is not None and EventKind.IMAGE not in kinds:
        raise UsageError("--where chooses among images, and --events names none")
    with session() as open_session, ExitStack() as stack:
        found = actions.status(open_session.engine, batch).id if batch else None
        query = FeedQuery(kinds, found, condition)
        reader = _Reader(open_session, query, consumer, begin, limit)
        with feed_output(format_, query, out) as output:
            if out is not None:
                reader.read_into_file(output, stack)
            else:
                reader.read(output, follow=follow)
        reader.acknowledge()


def _kinds(events: str | None) -> tuple[EventKind, ...] | None:
    if events is None:
        return None
    if events == "all":
        return tuple(EventKind)
    return tuple(
        dict.fromkeys(one_of("--events", kind.strip(), tuple(EventKind)) for kind in events.split(","))
    )


class _Reader:
    """Copies the feed to an output, from where the user or the consumer's cursor says."""

    def __init__(
        self,
        open_session: Session,
        query: FeedQuery,
        consumer: str | None,
        since: Cursor | None,
        limit: int | None,
    ) -> None:
        self._session, self._query, self._consumer = open_session, query, consumer
        self._since, self._remaining = since, limit
        self._turn: Turn | None = None
        self._unacknowledged: tuple[Cursor, Cursor] | None = None
        self._acknowledged_at = 0.0

    def read(self, output: FeedOutput, *, follow: bool) -> None:
        """Write to standard output, acknowledging page after page; with `follow` until its reader has gone."""
        while follow and self._remaining != 0:
            self._session.patiently(lambda: self._round(output, follow=True))
            time.sleep(FOLLOW_S)
        if not follow:
            self._round(output, follow=False)

    def read_into_file(self, output: FeedOutput, stack: ExitStack) -> None:
        """Write to a file; a consumer's turn lasts until the caller has closed the file and calls `acknowledge`."""
        if self._consumer is None:
            self._copy_on(output)
            return
        self._turn = stack.enter_context(turn(self._session.engine, self._consumer, self._query, self._since))
        self._since = self._turn.cursor
        self._copy_on(output)

    def acknowledge(self) -> None:
        """Note how far the consumer has come that was read into a file."""
        if self._turn is not None and self._since is not None:
            self._turn.acknowledge(self._since)

    def _round(self, output: FeedOutput, *, follow: bool) -> None:
        if self._consumer is None:
            self._copy_on(output)
            return
        try:
            with turn(self._session.engine, self._consumer, self._query, self._since) as own:
                self._since = None  # it has its own cursor now
                self._copy_acknowledged(output, own, follow=follow)
        except ConsumerBusyError as error:
            if not follow:
                raise
            note(f"{error}; waiting")
            time.sleep(10 * FOLLOW_S)

    def _copy_on(self, output: FeedOutput) -> None:
        for _, cursor in self._copied(output, self._since or Cursor(0, 0, 0)):
            self._since = cursor

    def _copy_acknowledged(self, output: FeedOutput, own: Turn, *, follow: bool) -> None:
        if self._unacknowledged is not None and self._unacknowledged[0] == own.cursor:
            own.acknowledge(self._unacknowledged[1])  # PostgreSQL was away when it was to be noted
        for count, cursor in self._copied(output, own.cursor):
            if count and not output.was_taken():
                raise typer.Exit
            self._unacknowledged = own.cursor, cursor
            is_due = time.monotonic() > self._acknowledged_at + IDLE_ACKNOWLEDGED_S
            if count or is_due or not follow:
                own.acknowledge(cursor)
                self._acknowledged_at = time.monotonic()

    def _copied(self, output: FeedOutput, since: Cursor) -> Iterator[tuple[int, Cursor]]:
        for count, cursor in output.copy(self._session.engine, since, self._remaining):
            if is_unread():
                raise typer.Exit
            if self._remaining is not None:
                self._remaining -= count
            yield count, cursor

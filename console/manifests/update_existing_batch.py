"""`--onto BATCH` of `run`, `submit` and `plan`: bring a batch that is there to a later version of its manifest."""

from dataclasses import replace
from functools import partial
from typing import TypeVar

from console.manifests.submit_request_from_options import submit_request
from console.session import Session
from console.submit_options import ManifestOptions
from console.terminal.output import note, plural
from console.terminal.progress import counting
from jobs.errors import UsageError
from jobs.policy.parse_set_options import is_policy_key
from jobs.queue.update_jobs_from_manifest import Difference
from scheduler.ingest.update_batch_from_manifest import Applied, Base, apply_onto, find_base

T = TypeVar("T", bound=ManifestOptions)


def bring_onto(
    open_session: Session, options: ManifestOptions, *, is_dry: bool = False, max_jobs: int | None = None
) -> tuple[Base, Applied]:
    """Apply the manifest to the batch that the options name, or find out what that would change if `is_dry`.

    Raises ManyJobsError if that queues over `max_jobs` jobs.
    """
    base = find_base(open_session.engine, options.onto or "")
    model = base.settings.get("default_model", open_session.settings.default_model)
    settings = open_session.settings.model_copy(update={"default_model": model})
    with (
        submit_request(_as_read_before(options, base), settings, base.policy) as (request, rules),
        counting("comparing", request.manifest.rows) as tell,
    ):
        known = open_session.engine, base, request, rules, tell
        attempt = partial(
            apply_onto, *known, keeps_dropped=options.keep_dropped, is_dry=is_dry, max_jobs=max_jobs
        )
        return base, open_session.patiently(attempt)


def check_options(options: ManifestOptions) -> None:
    """Raise UsageError for options that don't go together with or without --onto."""
    if options.onto is None:
        if options.keep_dropped:
            raise UsageError("--keep-dropped is for --onto BATCH")
        return
    keys = [pair.partition("=")[0].strip() for pair in options.set_ or ()]
    named = {"--name": options.name, "--out": options.out}
    refused = [option for option, value in named.items() if value is not None]
    refused += [f"--{name.replace('_', '-')}" for name in options.policy_keys]
    refused += [f"--set {key}" for key in keys if is_policy_key(key)]
    if refused:
        raise UsageError(
            f"{refused[0]}: with --onto the batch keeps its name, output and policy; `nightmill change` changes what "
            "may be changed"
        )


def _as_read_before(options: T, base: Base) -> T:
    """Return the options in which what isn't given is as it was given for the batch's own manifest."""
    columns, renames = base.settings.get("columns", {}), base.settings.get("renames", {})
    return replace(
        options,
        set_=_merged(
            {k: v for k, v in columns.items() if k != "model" or not options.model}, options.set_ or ()
        ),
        map_=_merged(renames, options.map_ or ()),
        drop=[*base.settings.get("drop", ()), *(options.drop or ())] or None,
        out=base.output,
    )


def _merged(stored: dict[str, str], given: list[str] | tuple[()]) -> list[str]:
    own = {pair.partition("=")[0].strip() for pair in given}
    return [*(f"{key}={value}" for key, value in stored.items() if key not in own), *given]


def said(difference: Difference) -> str:
    """Say what a later manifest changes."""
    if difference.is_empty:
        return f"nothing to do: {plural(difference.unchanged, 'row')} unchanged"
    rows = ", ".join(
        f"{count:,} {what}"
        for what, count in (
            ("new", difference.new),
            ("changed", difference.changed),
            ("changed in other columns alone", difference.told),
            ("dropped", difference.dropped),
            ("unchanged", difference.unchanged),
        )
        if count
    )
    return (
        f"rows: {rows}; {plural(difference.queued, 'image')} to render, "
        f"{plural(difference.retracted, 'image')} taken back"
    )


def tell_changes(base: Base, applied: Applied) -> None:
    """Tell what was changed of a batch."""
    note(f"batch {base.name}: {said(applied.difference)}")
    if applied.rejected:
        note(f"{plural(applied.rejected, 'row')} rejected: `nightmill rejects {base.name}` tells why")

"""`nightmill judge`: apply another safety policy to the images that a batch has, by their stored scores."""

from collections.abc import Sequence
from contextlib import suppress
from dataclasses import asdict, replace
from pathlib import Path
from typing import Annotated, Any

import typer

from console.command_options import Batch, Json, one_of
from console.session import Session, session
from console.terminal.output import note, plural, print_json, print_table
from console.terminal.print_outdated_exports import print_outdated_exports
from console.terminal.progress import counting
from console.validate_safety_checkers_option import changed_labels
from jobs.batches import actions
from jobs.batches.status import BatchStatus
from jobs.errors import UsageError
from jobs.exports.records import Export, outdated_exports
from jobs.outputs.ownership import owner_of
from jobs.policy.read_safety_thresholds_file import FileThresholds, thresholds_of_file
from jobs.policy.safety_label_thresholds import Thresholds
from jobs.policy.safety_thresholds import Concept
from jobs.queue.lane_counts_and_low_watermarks import lanes
from jobs.safety_reevaluation.apply_safety_policy import (
    Applied,
    Judgement,
    SafetyPolicy,
    apply,
    check_can_judge,
    safety_policy,
)
from jobs.safety_reevaluation.apply_safety_policy import judge as judge_batch
from jobs.safety_reevaluation.select_changed_verdicts import Counts, JudgedJob
from jobs.states import WITHHOLDING, SafetyAction, SafetyStrength
from models.catalogue.catalogue import Catalogue
from models.catalogue.limited_files import read_text, why_unreadable
from models.errors import UnknownModelError


def judge(
    batch: Batch,
    strength: Annotated[
        str | None, typer.Option(metavar="STRENGTH", help="lenient, standard or strong")
    ] = None,
    thresholds: Annotated[
        Path | None,
        typer.Option(metavar="FILE", help="TOML or JSON: what to add to the scores of which concepts"),
    ] = None,
    safety: Annotated[
        str | None,
        typer.Option(
            metavar="ACTION",
            help="block or quarantine what is flagged; default: as the batch does. Alone, it leaves strength and "
            "thresholds as they are",
        ),
    ] = None,
    apply_: Annotated[
        bool, typer.Option("--apply", help="do it; without, tell what it would change")
    ] = False,
    as_json: Json = False,
) -> None:
    """Judge the images of a batch by another safety policy, from their stored scores: block some, free others."""
    if strength is None and thresholds is None and safety is None:
        raise UsageError("say by which policy: --strength, --thresholds FILE or both, or --safety")
    action = SafetyAction(one_of("--safety", safety or SafetyAction.BLOCK, WITHHOLDING))
    level = SafetyStrength(one_of("--strength", strength or SafetyStrength.STANDARD, tuple(SafetyStrength)))
    given = _read(thresholds) if thresholds else ""
    with session() as open_session:
        found = actions.status(open_session.engine, batch)
        before = safety_policy(open_session.engine, found)
        names = _concept_names(open_session, found)
        after = replace(before, action=action) if safety else before
        if strength is not None or thresholds is not None:
            after = _with_thresholds(open_session, after, level, thresholds, given, names)
        check_can_judge(found, after)
        judgement = judge_batch(open_session.engine, found.id, before, after, names)
        done = _applied(open_session, found, judgement) if apply_ else None
        changed = [found.id] if done and done.blocked else []
        outdated = outdated_exports(open_session.engine, changed)
    if as_json:
        print_json(_told(found.name, judgement, done, outdated))
    else:
        _show(judgement)
        _say(found.name, judgement, done)
    print_outdated_exports(outdated)
    if done and done.is_overtaken:
        note(
            f"{found.name} got another safety policy, was moved or archived meanwhile: nothing more was done; "
            "`nightmill judge` again for what is left"
        )
        raise typer.Exit(1)


def _with_thresholds(
    open_session: Session,
    policy: SafetyPolicy,
    strength: SafetyStrength,
    file: Path | None,
    given: str,
    names: Sequence[str],
) -> SafetyPolicy:
    """Return the policy with another strength and the thresholds `given` in a file, or the default ones."""
    read = thresholds_of_file(str(file), given, names) if file else FileThresholds(None, {})
    checkers = _with_labels(open_session, file, policy.checkers, read) if read.labels else policy.checkers
    return SafetyPolicy(policy.action, strength, read.added, checkers)


def _applied(open_session: Session, batch: BatchStatus, judgement: Judgement) -> Applied:
    """Apply the policy where the batch's folder is this installation's. Raises ForeignOutputError if it isn't."""
    store = open_session.batch_store(batch)
    owner_of(open_session.engine, store, batch.id, batch.folder)
    changed = judgement.images.changed + judgement.blocked_jobs.changed
    with counting("judging", changed, "jobs") as tell:
        return apply(open_session.engine, store, batch, judgement, tell)


def _with_labels(
    open_session: Session, file: Path | None, checkers: str | None, read: FileThresholds
) -> str | None:
    """Return the batch's further checkers with the thresholds of a file."""
    catalogue = Catalogue.load(open_session.settings.models_path)
    try:
        return changed_labels(checkers, read.labels, catalogue)
    except UsageError as error:
        raise UsageError(f"{file}: {error}") from None


def _concept_names(open_session: Session, batch: BatchStatus) -> tuple[str, ...]:
    """Return the names of the concepts of the batch's safety checker; none if its models have several."""
    catalogue = Catalogue.load(open_session.settings.models_path)
    found = set()
    for lane in lanes(open_session.engine, batch.id):
        with suppress(UnknownModelError):
            checker = catalogue.get(lane["model"]).safety_checker
            found.add(catalogue.get(checker).concepts if checker else ())
    return found.pop() if len(found) == 1 else ()


def _read(path: Path) -> str:
    try:
        return read_text(path).removeprefix("\ufeff")
    except (OSError, ValueError) as error:
        raise UsageError(f"--thresholds {path}: {why_unreadable(error)}") from None


def _told(
    name: str, judgement: Judgement, done: Applied | None, outdated: Sequence[Export]
) -> dict[str, Any]:
    return {
        "batch": name,
        "concepts": list(judgement.concept_names),
        "before": judgement.before.keys(),
        "after": judgement.after.keys(),
        "images": _counts(judgement.images, "blocked") | {"for_prompt": judgement.images.for_prompt},
        "blocked_jobs": _counts(judgement.blocked_jobs, "freed")
        | {"freed_from_quarantine": judgement.blocked_jobs.with_file},
        "examples": {
            "blocked": [_example(each) for each in judgement.examples_blocked],
            "freed": [_example(each) for each in judgement.examples_freed],
        },
        "applied": None if done is None else asdict(done),
        "outdated_exports": [export.id for export in outdated],
    }


def _counts(counts: Counts, changed: str) -> dict[str, Any]:
    return {
        "total": counts.jobs,
        changed: counts.changed,
        "by_concept": {str(number): count for number, count in counts.by_concept.items()},
        "without_scores": counts.without_scores,
    }


def _example(judged: JudgedJob) -> dict[str, Any]:
    return {
        "ordinal": judged.ordinal,
        "index": judged.index,
        "row_id": judged.row_id,
        "job": judged.job,
        "image_id": judged.image,
        "key": judged.key,
        "above": {str(number): score for number, score in judged.above.items()},
        "for_prompt": judged.for_prompt,
    }


def _show(judgement: Judgement) -> None:
    images, jobs = judgement.images.by_concept, judgement.blocked_jobs.by_concept
    if concepts := sorted(
        images.keys() | jobs.keys(), key=lambda concept: (isinstance(concept, str), concept)
    ):
        names = judgement.concept_names
        rows = [(_name(number, names), images.get(number, 0), jobs.get(number, 0)) for number in concepts]
        print_table(("concept", "images blocked", "jobs freed"), rows)
    examples = [("blocked", each) for each in judgement.examples_blocked]
    examples += [("freed", each) for each in judgement.examples_freed]
    if examples:
        print_table(
            ("example", "row", "image", "concepts and scores"),
            [
                (what, each.row_id or each.ordinal, each.image or "", _above(each, judgement.concept_names))
                for what, each in examples
            ],
        )


def _above(judged: JudgedJob, names: Sequence[str]) -> str:
    above = [
        f"{_name(concept, names)} at {score:+.3f}" if isinstance(concept, int) else f"{concept} at {score:g}"
        for concept, score in judged.above.items()
    ]
    return ", ".join(["its prompt", *above] if judged.for_prompt else above)


def _name(concept: Concept, names: Sequence[str]) -> str:
    if isinstance(concept, int) and concept < len(names):
        return f"{concept} ({names[concept]})"
    return str(concept)


def _say(name: str, judgement: Judgement, done: Applied | None) -> None:
    images, jobs = judgement.images, judgement.blocked_jobs
    note(f"{name}: {_policy(judgement.before)} → {_policy(judgement.after)}")
    if changed := _changed_labels(judgement.before, judgement.after):
        note(f"labels: {', '.join(changed)}")
    if done is None:
        note(
            f"{images.changed:,} of {plural(images.jobs, 'image')} would be blocked, {jobs.changed:,} of "
            f"{plural(jobs.jobs, 'blocked job')} freed: {jobs.with_file:,} from quarantine, "
            f"{jobs.changed - jobs.with_file:,} rendered again"
        )
    else:
        note(
            f"{plural(done.blocked, 'image')} blocked, the files of {done.deleted_files:,} deleted and "
            f"{done.quarantined_files:,} moved into quarantine; {plural(done.restored, 'image')} moved out of it, "
            f"{plural(done.queued, 'job')} queued again"
        )
    if images.for_prompt:
        note(f"{images.for_prompt:,} of them for their prompts, which the prompt filter has flagged")
    if images.without_scores:
        note(f"{plural(images.without_scores, 'image')} can't be judged: no scores are stored with them")
    if jobs.without_scores:
        note(
            f"{plural(jobs.without_scores, 'blocked job')} can't be judged: blocked for the prompt, or no scores are "
            "stored"
        )
    if done is None:
        note("nothing was changed: --apply does it")
    elif done.queued or done.released:
        note("the same `nightmill run`, or workers that are up, render what is queued")


def _policy(policy: SafetyPolicy) -> str:
    return f"{policy.action}, {policy.strength}" + (f" with {policy.thresholds}" if policy.thresholds else "")


def _changed_labels(before: SafetyPolicy, after: SafetyPolicy) -> list[str]:
    old, new = before.adjustments.labels, after.adjustments.labels
    return [
        f"{checker}:{label} {_least(old, checker, label)} → {score:g}"
        for checker, labels in new.items()
        for label, score in labels.items()
        if old.get(checker, {}).get(label) != score
    ]


def _least(thresholds: Thresholds, checker: str, label: str) -> str:
    score = thresholds.get(checker, {}).get(label)
    return "never" if score is None else f"{score:g}"

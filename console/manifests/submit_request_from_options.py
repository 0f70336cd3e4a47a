"""Convert the options of `plan`, `submit` and `run` to a request that the scheduler ingests."""

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from pathlib import Path

from console.session import s3_options
from console.submit_options import ManifestOptions
from console.terminal.progress import counting
from console.validate_safety_checkers_option import check_is_here, with_thresholds_of_cards
from jobs.batches.evaluate_accept_condition import check_accept
from jobs.errors import UsageError
from jobs.manifest import (
    SETTABLE_COLUMNS,
    RowRules,
    check_overrides,
    open_source,
    parse_overrides,
    parse_renames,
)
from jobs.manifest.values import shown
from jobs.policy.batch_policy import BatchPolicy, fields
from jobs.policy.parse_set_options import is_policy_key, parse_policy
from jobs.settings import Settings, load_settings
from jobs.states import Decoder, Scoring, WatermarkPolicy
from jobs.storage.open import fetch_to_file, open_store
from jobs.webhooks.batch_end_hooks import check_hook
from models.catalogue.catalogue import Catalogue
from models.errors import ModelError
from models.runtime.memory_options import require_packer
from scheduler.ingest.rules_from_catalogue import Reading, row_rules
from scheduler.ingest.submit_request import SubmitRequest, checked_name


@contextmanager
def submit_request(
    asked: ManifestOptions, settings: Settings, stored: BatchPolicy | None = None
) -> Iterator[tuple[SubmitRequest, RowRules]]:
    """Yield the request and the rules for its rows; the manifest stays open in the block. Raises UsageError.

    `stored` is the policy of a batch that is there, in the place of one made of the options.
    """
    policy, columns = _split(asked)
    policy = stored or policy
    reading = Reading(
        columns, parse_renames(asked.map_ or ()), asked.strict, tuple(asked.drop or ()), asked.unique_ids
    )
    name = asked.name and checked_name(asked.name)
    has_own_workers = load_settings().database_url is None  # settings have that of the private one by now
    if has_own_workers:
        _check_weights(policy)
        _check_marks(policy, settings)
    check_accept(policy)
    if policy.on_end is not None and stored is None:
        check_hook(policy.on_end, allows_commands=settings.allows_commands)
    catalogue = Catalogue.load(settings.models_path)
    _check_decoder(policy, columns.get("model", ""), catalogue)
    if stored is None:
        policy = with_thresholds_of_cards(policy, catalogue)
        if has_own_workers:
            check_is_here(policy, catalogue, settings)
    rules = row_rules(
        catalogue,
        settings.default_model,
        reading,
        image_roots=settings.image_roots,
        needs_clip=policy.clip_score == Scoring.ON,
        needs_decoder=policy.decoder == Decoder.TINY,
        needs_tiled_mark=policy.watermark == WatermarkPolicy.REQUIRE_STRONG,
    )
    check_overrides(rules)
    options = s3_options(settings)
    source = open_source(
        asked.manifest,
        format=asked.input_format,
        delimiter=asked.delimiter,
        fetch=lambda uri, file: fetch_to_file(uri, file, options),
        prompt_header=reading.renames.get("prompt", "prompt"),
        limit=settings.manifest_limit,
        roots=settings.image_roots,
    )
    with ExitStack() as stack:
        with counting("opening the manifest"):
            manifest = stack.enter_context(source)
        output = output_of(asked.out) if asked.out else settings.output
        open_store(output, options)
        yield SubmitRequest(manifest, reading, policy, output, settings.default_model, name), rules


def _split(asked: ManifestOptions) -> tuple[BatchPolicy, dict[str, str]]:
    """Split the `--set` options into the batch's policy and the values of row columns."""
    given = [*(asked.set_ or ()), *([f"model={asked.model}"] if asked.model else [])]
    given += [f"{key}={value}" for key, value in asked.policy_keys.items()]
    of_batch = [pair for pair in given if is_policy_key(pair.partition("=")[0].strip())]
    of_rows = [pair for pair in given if pair not in of_batch]
    policy = parse_policy(
        {key.strip(): value for key, _, value in (pair.partition("=") for pair in of_batch)}
    )
    return policy, parse_overrides(of_rows, known=(*SETTABLE_COLUMNS, *fields()))


def _check_weights(policy: BatchPolicy) -> None:
    """Check that the packer of the weights is installed here, where the workers run."""
    if policy.weights is None:
        return
    try:
        require_packer(policy.weights)
    except ModelError as error:
        raise UsageError(f"--set weights={policy.weights}: {error}") from None


def _check_marks(policy: BatchPolicy, settings: Settings) -> None:
    """Check that the workers here embed marks whose strength is known, if the batch insists on strong ones."""
    if policy.watermark == WatermarkPolicy.REQUIRE_STRONG and not settings.has_tiled_marks:
        raise UsageError(
            "--set watermark=require-strong is for tiled marks: set NIGHTMILL_WATERMARK_METHOD=tiled, or unset "
            "NIGHTMILL_WATERMARK"
        )


def _check_decoder(policy: BatchPolicy, model: str, catalogue: Catalogue) -> None:
    """Check the decoder if one model is set for all rows; models named in rows are checked with the rows."""
    card = catalogue.ids_and_aliases().get(model.strip().casefold())
    if policy.decoder == Decoder.TINY and card is not None and card.decoder is None:
        raise UsageError(f"--set decoder=tiny: model {card.id!r} names no small decoder; use decoder=full")


def output_of(out: str) -> str:
    """Return the output that a user names, a folder as its absolute path. Raises UsageError."""
    if not out.isprintable():
        raise UsageError(f"--out {shown(out)}: can't be stored as text; name it in UTF-8")
    if out.startswith("s3:") and not out.startswith("s3://"):
        raise UsageError(f"--out {shown(out)}: write it as s3://bucket/prefix")
    return out if "://" in out else str(Path(out).expanduser().absolute())

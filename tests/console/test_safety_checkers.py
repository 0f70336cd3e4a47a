"""Further safety checkers as users name them: at submit, in `judge`, `doctor` and `models add`."""

from pathlib import Path
from typing import Any

import pytest
import tomli_w
from pydantic import SecretStr
from sqlalchemy import Engine

from jobs.job_dataclasses import Failure
from jobs.policy.batch_policy import BatchPolicy
from jobs.queue import transitions
from jobs.states import ErrorKind
from models.catalogue.catalogue import Catalogue
from models.store.resolve_checkpoint import resolve
from tests.console.commands.test_doctor import findings, with_settings
from tests.console.conftest import Typed
from tests.content_safety_server import KEY, content_safety_server
from tests.factories import image, lanes_of, make_batch, take

CLASSIFIER = "tiny-random-classifier"
CHECKERS = (
    BatchPolicy(
        safety_checkers=f"content-safety,content-safety-prompts,{CLASSIFIER}:third=0.5"
    ).safety_checkers
    or ""
)


def manifest(typed: Typed) -> str:
    path = typed.folder / "night.jsonl"
    path.write_text('{"prompt": "a red fox", "model": "tiny-random"}\n')
    return str(path)


@pytest.mark.usefixtures("engine")
class TestSubmit:
    def test_thresholds_that_arent_named_are_those_of_the_card_and_the_service(self, typed: Typed) -> None:
        given = f"safety_checkers={CLASSIFIER.upper()}, content-safety:Violence=2"
        assert typed("submit", manifest(typed), "--set", given).code == 0
        assert typed("status", "night", "--json").json["policy"]["safety_checkers"] == (
            "content-safety:Hate=4,content-safety:SelfHarm=4,content-safety:Sexual=4,content-safety:Violence=2,"
            f"{CLASSIFIER}:third=0.999"
        )
        again = typed("submit", manifest(typed), "--set", given, "--json")
        assert not again.json["is_new"]

    @pytest.mark.parametrize(
        ("given", "reason"),
        [
            ("nsfw", "safety_checkers=nsfw: no such checker; there are "),
            ("tiny-random", "tiny-random: is a text2image, not a classifier; there are "),
            (f"{CLASSIFIER}:nsfw=0.5", f"{CLASSIFIER} has no label 'nsfw'; there are first, second, third"),
            ("content-safety:Gore=2", "content-safety has no label 'Gore'; there are Hate, SelfHarm"),
            (f"{CLASSIFIER}:third=0", "write the lowest score that flags, above 0 and up to 10"),
            (f"{CLASSIFIER}:third=nan", "write the lowest score that flags"),
            (f"{CLASSIFIER}:third", "is no checker: write it like nsfw-vit:nsfw=0.7"),
            (f"{CLASSIFIER}:third=0.5,{CLASSIFIER}:third=0.6", f"{CLASSIFIER}:third is given twice"),
            ("a'b:c=1", "is no checker"),
        ],
    )
    def test_what_is_wrong_is_told_with_what_there_is(self, typed: Typed, given: str, reason: str) -> None:
        ended = typed("submit", manifest(typed), "--set", f"safety_checkers={given}")
        assert (ended.code, reason in ended.err) == (2, True), ended.err
        assert typed("status", "--json").json == []


@pytest.mark.usefixtures("engine")
def test_a_classifier_of_too_many_labels_is_told(typed: Typed) -> None:
    labels = [f"a rather long label number {number:04}" for number in range(120)]
    own = typed.folder / "own-models" / "cards"
    own.mkdir(parents=True)
    card = {
        **{"id": "own", "title": "Own", "family": "classifier", "summary": "Own.", "license": "CC0"},
        **{"limits": "All.", "source": "own", "labels": labels},
        "thresholds": [f"{label}=0.5" for label in labels],
    }
    (own / "own.toml").write_text(tomli_w.dumps(card))
    there = with_settings(typed, models_dir=typed.folder / "own-models", default_model="shapes")
    (typed.folder / "one.txt").write_text("a fox\n")
    ended = there("submit", str(typed.folder / "one.txt"), "--set", "safety_checkers=own")
    assert (ended.code, "and may have 4,000: name fewer" in ended.err) == (2, True), ended.err


@pytest.mark.usefixtures("engine")
def test_private_workers_need_the_service(typed: Typed) -> None:
    private = with_settings(typed, database_url=None)
    for command in ("plan", "submit"):
        ended = private(command, manifest(typed), "--set", "safety_checkers=content-safety")
        assert (ended.code, "set NIGHTMILL_CONTENT_SAFETY_URL and" in ended.err) == (2, True), ended.err
        ended = private(command, manifest(typed), "--set", "safety_checkers=nsfw-vit")
        assert "fetch it with nightmill models pull nsfw-image-detection" in ended.err


def scores(**labels: dict[str, float]) -> dict[str, Any]:
    found = {"concepts": [-0.2] * 17, "special_care": [-0.2] * 3}
    return found | {"labels": {name.replace("_", "-"): rated for name, rated in labels.items()}}


@pytest.fixture
def judged(engine: Engine, typed: Typed) -> Typed:
    """An image with scores of all checkers, a blocked one, and a blocked prompt."""
    batch = make_batch(engine, 3, name="foxes", safety_checkers=CHECKERS)
    first, second, third = take(engine, lanes_of(engine, batch)[0], 3)
    safe = scores(tiny_random_classifier={"first": 0.6, "third": 0.4}, content_safety={"Hate": 2})
    flagged = scores(tiny_random_classifier={"first": 0.1, "third": 0.9}, content_safety={"Hate": 0})
    prompt = {"labels": {"content-safety-prompts": {"Hate": 4}}}
    transitions.complete(engine, [image(first, safety_scores=safe)])
    for job, found in ((second, flagged), (third, prompt)):
        transitions.block(engine, [Failure(job.id, job.lease, ErrorKind.SAFETY, "found", found)])
    return typed


class TestJudge:
    def test_a_file_sets_other_thresholds_of_labels(self, judged: Typed) -> None:
        (judged.folder / "t.toml").write_text(
            f"[labels.{CLASSIFIER}]\nthird = 0.95\n[labels.content-safety]\nHate = 2\n"
            "[labels.content-safety-prompts]\nHate = 6\n"
        )
        told = judged("judge", "foxes", "--thresholds", "t.toml", "--json").json
        assert told["before"]["safety_checkers"] == CHECKERS
        assert told["after"]["safety_checkers"] == CHECKERS.replace("safety:Hate=4", "safety:Hate=2").replace(
            "prompts:Hate=4", "prompts:Hate=6"
        ).replace("third=0.5", "third=0.95")
        assert told["images"]["by_concept"] == {"content-safety:Hate": 1}
        assert told["blocked_jobs"]["by_concept"] == {
            "content-safety-prompts:Hate": 1,
            f"{CLASSIFIER}:third": 1,
        }
        assert (told["images"]["blocked"], told["blocked_jobs"]["freed"]) == (1, 2)
        assert told["examples"]["blocked"][0]["above"] == {"content-safety:Hate": 2}
        shown = judged("judge", "foxes", "--thresholds", "t.toml")
        lines = [line.split() for line in shown.out.splitlines()]
        assert [f"{CLASSIFIER}:third", "0", "1"] in lines
        assert any(line[-3:] == ["content-safety:Hate", "at", "2"] for line in lines), shown.out
        assert (
            "labels: content-safety:Hate 4 → 2, content-safety-prompts:Hate 4 → 6, "
            f"{CLASSIFIER}:third 0.5 → 0.95" in shown.err
        )

    def test_what_a_file_doesnt_name_stays(self, judged: Typed) -> None:
        told = judged("judge", "foxes", "--strength", "strong", "--json").json
        assert told["after"]["safety_checkers"] == CHECKERS
        assert (told["images"]["blocked"], told["blocked_jobs"]["freed"]) == (0, 0)

    @pytest.mark.parametrize(
        ("text", "reason"),
        [
            (
                "[labels.own]\nx = 0.5",
                "t.toml: labels.own: the batch's images have no scores of such a checker",
            ),
            (
                f"[labels.{CLASSIFIER}]\nx = 0.5",
                f"t.toml: {CLASSIFIER} has no label 'x'; there are first, second",
            ),
            ("[labels.content-safety]\nGore = 2", "t.toml: content-safety has no label 'Gore'"),
        ],
    )
    def test_what_the_batch_doesnt_have_is_told(self, judged: Typed, text: str, reason: str) -> None:
        (judged.folder / "t.toml").write_text(text)
        ended = judged("judge", "foxes", "--thresholds", "t.toml")
        assert (ended.code, reason in ended.err) == (2, True), ended.err


def test_doctor_asks_the_service(engine: Engine, typed: Typed) -> None:
    with content_safety_server() as service:
        there = with_settings(typed, content_safety_url=service.url, content_safety_key=SecretStr(KEY))
        (found,) = [check for check in there("doctor", "--json").json if check["check"] == "content safety"]
        assert (found["ok"], found["finding"]) == (True, f"{service.url} answers")
        wrong = with_settings(there, content_safety_key=SecretStr("another-key-here"))
        assert (
            "refuses the key of NIGHTMILL_CONTENT_SAFETY_KEY"
            in findings(wrong("doctor", "--json"))["content safety"]
        )
        half = with_settings(there, content_safety_key=None)
        assert "go together" in findings(half("doctor", "--json"))["content safety"]


class TestModelsAdd:
    def test_a_classifier_of_ones_own(self, typed: Typed, shared_models: Path) -> None:
        path = resolve(Catalogue.load(shared_models).get(CLASSIFIER), shared_models).path
        fresh = with_settings(typed, models_dir=typed.folder / "own-models")
        added = fresh("models", "add", str(path), "--id", "own", "--flags", "third=0.4", "--flags", "first=1")
        assert added.code == 0, added.err
        shown = fresh("models", "show", "own", "--json").json
        assert (shown["family"], shown["labels"]) == ("classifier", ["first", "second", "third"])
        assert shown["thresholds"] == ["third=0.4", "first=1"]
        assert fresh("models", "lock", "--check").code == 0
        assert fresh("models", "remove", "own", "--yes").code == 0

    @pytest.mark.parametrize(
        ("options", "reason"),
        [
            ((), "name the model that it was made from with --base, or a classifier's labels with --flags"),
            (
                ("--flags", "nsfw=0.5"),
                "threshold 'nsfw=0.5' must be LABEL=SCORE; labels are first, second, third",
            ),
            (("--flags", "third=2"), "needs a score from 0.001 to 1"),
            (("--flags", "third=0.5", "--base", "shapes"), "--flags is for an image classifier"),
        ],
    )
    def test_what_is_wrong_is_told(
        self, typed: Typed, shared_models: Path, options: tuple[str, ...], reason: str
    ) -> None:
        path = resolve(Catalogue.load(shared_models).get(CLASSIFIER), shared_models).path
        fresh = with_settings(typed, models_dir=typed.folder / "own-models")
        ended = fresh("models", "add", str(path), "--id", "own", *options)
        assert (ended.code != 0, reason in ended.err) == (True, True), ended.err

    def test_what_is_no_classifier(self, typed: Typed, shared_models: Path) -> None:
        path = resolve(Catalogue.load(shared_models).get("tiny-random-decoder"), shared_models).path
        fresh = with_settings(typed, models_dir=typed.folder / "own-models")
        ended = fresh("models", "add", str(path), "--id", "own", "--flags", "nsfw=0.5")
        assert (ended.code, "has no labels (id2label), so it is no image classifier" in ended.err) == (
            1,
            True,
        )

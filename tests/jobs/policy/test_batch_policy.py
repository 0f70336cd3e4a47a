"""What `--set` may say of a whole batch."""

import pytest

from jobs.errors import UsageError
from jobs.policy.batch_policy import BatchPolicy, fields, policy_keys
from jobs.policy.parse_set_options import former_names, parse_changes, parse_policy
from jobs.policy.stored_policy import policy_of, report_of, row_of
from jobs.states import ImageFormat, SafetyAction, WatermarkPolicy


def test_nothing_given_withholds_what_is_flagged_and_requires_the_mark() -> None:
    policy = parse_policy({})
    assert policy == BatchPolicy()
    assert (policy.safety, policy.watermark, policy.format) == ("block", "require", "png")
    assert (policy.batch_seed, policy.max_attempts, policy.priority, policy.parameters) == (0, 3, 0, True)


def test_texts_become_values() -> None:
    policy = parse_policy(
        {
            "batch_seed": str(2**63 - 1),
            "safety": "blur",
            "watermark": "best-effort",
            "format": "webp",
            "quality": "100",
            "parameters": "no",
            "max_attempts": "1",
            "priority": "-1000",
        }
    )
    assert policy == BatchPolicy(
        batch_seed=2**63 - 1,
        safety=SafetyAction.BLUR,
        watermark=WatermarkPolicy.BEST_EFFORT,
        format=ImageFormat.WEBP,
        quality=100,
        parameters=False,
        max_attempts=1,
        priority=-1000,
    )


@pytest.mark.parametrize(
    ("key", "value", "reason"),
    [
        ("safety", "none", "'block', 'quarantine', 'flag', 'blacken' or 'blur'"),
        ("watermark", "", "'require', 'require-strong', 'best-effort' or 'off'"),
        ("format", "gif", "'png', 'webp' or 'jpeg'"),
        ("quality", "0", "greater than or equal to 1"),
        ("quality", "95.5", "integer"),
        ("parameters", "perhaps", "boolean"),
        ("max_attempts", "0", "greater than or equal to 1"),
        ("max_attempts", "101", "less than or equal to 100"),
        ("priority", "high", "integer"),
        ("priority", "1001", "less than or equal to 1000"),
        ("watermark_text", "", "at least 1 character"),
        ("watermark_text", "x" * 33, "at most 32 characters"),
        ("watermark_text", "\N{SNOWMAN}", "must be ASCII"),
        ("batch_seed", "-1", "greater than or equal to 0"),
        ("batch_seed", str(2**63), "less than 9223372036854775808"),
        ("colour", "red", "not permitted"),
    ],
)
def test_a_wrong_value_is_refused_with_its_key_and_what_is_allowed(key: str, value: str, reason: str) -> None:
    with pytest.raises(UsageError) as caught:
        parse_policy({key: value})
    message = str(caught.value)
    assert message.startswith(f"--set {key}={value}: ")
    assert reason in message
    assert "\n" not in message


def test_texts_have_no_strength_to_require() -> None:
    with pytest.raises(
        UsageError, match="require-strong is for marks that say the job: leave out watermark_text"
    ):
        parse_policy({"watermark": "require-strong", "watermark_text": "ACME"})


@pytest.mark.parametrize(("former", "name"), former_names().items())
def test_a_former_name_is_read_with_a_warning(
    former: str, name: str, caplog: pytest.LogCaptureFixture
) -> None:
    assert parse_policy({former: "2"}) == parse_policy({name: "2"})
    assert caplog.messages == [
        f"--set {former} is now called {name}; the old name will not be read in a later version"
    ]
    assert parse_policy({former: "2", name: "3"}) == parse_policy({name: "3"})
    with pytest.raises(UsageError, match=f"^--set {name}=x: "):
        parse_policy({former: "x"})


FIRST = {
    "batch_seed": 0,
    "safety": "block",
    "watermark": "require",
    "format": "png",
    "quality": 95,
    "parameters": True,
    "max_attempts": 3,
    "priority": 0,
}
"""What the digest has of a policy in which nothing is set, as computed by version 0006 of the database."""


@pytest.mark.parametrize(
    ("given", "differs"),
    [
        ({}, {}),
        (
            {"batch_seed": "7", "safety": "blur", "quality": "80", "parameters": "no", "max_attempts": "5"},
            {"batch_seed": 7, "safety": "blur", "quality": 80, "parameters": False, "max_attempts": 5},
        ),
        ({"priority": "3", "window": "22:00-07:00 UTC", "not_before": "18:00", "canary": "4"}, {}),
        ({"target": "6"}, {"target": 6, "target_per": None, "top_up": 1.0}),
        (
            {"target": "6", "target_per": "label", "max_replacement_ratio": "0.5"},
            {"target": 6, "target_per": "label", "top_up": 0.5},
        ),
        ({"max_replacement_ratio": "0.5"}, {}),
        (
            {
                "clip_score": "on",
                "deep_cache": "3",
                "weights": "fp8",
                "decoder": "tiny",
                "watermark_text": "A",
            },
            {"clip_score": "on", "deep_cache": 3, "weights": "fp8", "decoder": "tiny", "watermark_text": "A"},
        ),
        ({"clip_score": "auto", "deep_cache": "1", "decoder": "full"}, {}),
    ],
)
def test_batches_of_earlier_versions_are_recognised(
    given: dict[str, str], differs: dict[str, object]
) -> None:
    assert parse_policy(given).identity() == FIRST | differs


def test_a_row_holds_what_is_not_the_default_and_gives_the_policy_again() -> None:
    policy = parse_policy(
        {"safety": "flag", "quality": "95", "target": "6", "priority": "3", "window": "22:00-07:00 UTC"}
    )
    row = row_of(policy)
    assert row["policy"] == {"safety": "flag", "target": 6}
    assert {name: row[name] for name in ("priority", "window", "max_attempts")} == {
        "priority": 3,
        "window": "22:00-07:00 UTC",
        "max_attempts": 3,
    }
    assert policy_of(row) == (policy, ())
    assert report_of(row) == policy.model_dump(mode="json")
    assert report_of(row)["format"] == "png"


def test_keys_and_values_of_a_later_version_are_told_and_left_out() -> None:
    row = row_of(BatchPolicy()) | {"policy": {"quality": 80, "grain": 3, "format": "avif"}}
    assert policy_of(row) == (BatchPolicy(quality=80), ("format", "grain"))
    assert report_of(row) == BatchPolicy(quality=80).model_dump(mode="json") | {"grain": 3, "format": "avif"}


def test_what_was_stored_is_read_whatever_the_zones_and_the_clock_of_this_host() -> None:
    row = row_of(BatchPolicy()) | {"window": "22:00-07:00 Mars/Utopia"}
    assert policy_of(row)[0].window == "22:00-07:00 Mars/Utopia"


def test_each_key_is_told_in_the_reference() -> None:
    assert [name for name, field in fields().items() if not field.description] == []
    assert set(policy_keys()) == set(fields())


def test_only_the_schedule_can_be_changed() -> None:
    assert parse_changes({"priority": "7", "deadline": None}) == {"priority": 7, "deadline": None}
    with pytest.raises(
        UsageError, match=r"--set safety: only priority, window, not_before, deadline and on_end can be"
    ):
        parse_changes({"safety": "flag"})

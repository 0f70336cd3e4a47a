"""What `--set` may say of a whole batch."""

import pytest

from jobs.batches.policy import RENAMED, Policy, parse_policy
from jobs.errors import UsageError
from jobs.states import ImageFormat, SafetyAction, WatermarkPolicy


def test_nothing_given_withholds_what_is_flagged_and_requires_the_mark() -> None:
    policy = parse_policy({})
    assert policy == Policy()
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
    assert policy == Policy(
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
        ("safety", "none", "'block', 'flag', 'blacken' or 'blur'"),
        ("watermark", "", "'require', 'best-effort' or 'off'"),
        ("format", "gif", "'png', 'webp' or 'jpeg'"),
        ("quality", "0", "greater than or equal to 1"),
        ("quality", "95.5", "integer"),
        ("parameters", "perhaps", "boolean"),
        ("max_attempts", "0", "greater than or equal to 1"),
        ("max_attempts", "101", "less than or equal to 100"),
        ("priority", "high", "integer"),
        ("priority", "1001", "less than or equal to 1000"),
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


@pytest.mark.parametrize(("former", "name"), RENAMED.items())
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

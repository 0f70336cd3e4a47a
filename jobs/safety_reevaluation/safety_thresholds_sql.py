"""Safety scores judged in SQL, by the rules of `jobs.policy.safety_thresholds.SafetyThresholds`."""

from collections.abc import Sequence

from jobs.policy.safety_label_thresholds import LABELS
from jobs.policy.safety_thresholds import (
    CARE,
    CARE_ADJUSTMENT,
    CHECKER_REASON,
    CONCEPT,
    CONCEPTS,
    SPECIAL_CARE,
    SafetyThresholds,
)


def has_scores(scores: str) -> str:
    """Return the SQL of whether a JSONB value holds the scores of all concepts, and numbers only."""
    others = " OR ".join(
        f"""jsonb_path_exists({scores}, 'strict $.{name}[*] ? (@.type() != "number")')"""
        for name in (CONCEPT, CARE)
    )
    return f"""(CASE WHEN jsonb_typeof({scores} -> '{CONCEPT}') = 'array'
        AND jsonb_typeof({scores} -> '{CARE}') = 'array'
        THEN jsonb_array_length({scores} -> '{CONCEPT}') = {CONCEPTS}
            AND jsonb_array_length({scores} -> '{CARE}') = {SPECIAL_CARE} AND NOT ({others}) ELSE false END)"""


def score_arrays(scores: str) -> str:
    """Return the SQL of a subquery with the columns `concepts` and `care`: the scores of a JSONB value as arrays.

    Null where `has_scores` is false. Made once for a row, as each access to an element of JSONB reads the whole value.
    """
    return f"""(
        SELECT {_array(scores, CONCEPT)} AS concepts, {_array(scores, CARE)} AS care
        WHERE {has_scores(scores)} OFFSET 0)"""


def shift(adjustments: SafetyThresholds) -> str:
    """Return the SQL of what special care adds to the scores under these adjustments, less what it had added."""
    plain = [f"care[1] + {_sql(adjustments.special_care[0])}"]
    for number in range(1, SPECIAL_CARE):
        earlier = f"greatest({', '.join(f'care[{other}]' for other in range(1, number + 1))})"
        added = _sql(adjustments.special_care[number])
        plain.append(
            f"care[{number + 1}] + {added} - CASE WHEN {earlier} > 0 THEN {_sql(CARE_ADJUSTMENT)} ELSE 0 END"
        )
    before = f"greatest({', '.join(f'care[{number + 1}]' for number in range(SPECIAL_CARE))})"
    return (
        f"(CASE WHEN greatest({', '.join(plain)}) > 0 THEN {_sql(CARE_ADJUSTMENT)} ELSE 0 END"
        f" - CASE WHEN {before} > 0 THEN {_sql(CARE_ADJUSTMENT)} ELSE 0 END)"
    )


def adjusted(adjustments: SafetyThresholds, shifted: str = "shift") -> Sequence[str]:
    """Return the SQL of each concept's adjusted score; the column `shifted` holds the value of `shift`."""
    return [
        f"(concepts[{number + 1}] + {_sql(added)} + {shifted})"
        for number, added in enumerate(adjustments.concepts)
    ]


def is_flagged(adjustments: SafetyThresholds, labels: str) -> str:
    """Return the SQL of whether scores flag an image. Needs the columns of `score_arrays` and `shift`.

    `labels` is the SQL of whether those of further checkers do.
    """
    return f"(coalesce(greatest({', '.join(adjusted(adjustments))}) > 0, false) OR {labels})"


def reached_labels(scores: str, thresholds: str) -> str:
    """Return the SQL of a subquery with the column `name`: labels, as CHECKER:LABEL, whose scores reach a threshold.

    `scores` is a JSONB value of an image row, `thresholds` that of the policy's labels: {CHECKER: {LABEL: SCORE}}.
    """
    score = f"{scores} -> '{LABELS}' -> checker -> label"
    return f"""(
        SELECT checker || ':' || label AS name
        FROM jsonb_each(CAST({thresholds} AS jsonb)) AS c (checker, labels), jsonb_each(c.labels) AS l (label, least)
        WHERE CASE WHEN jsonb_typeof({score}) = 'number' THEN ({score})::numeric >= least::numeric ELSE false END)"""


def lacks_labels(scores: str, thresholds: str) -> str:
    """Return the SQL of whether a JSONB value lacks the score of a label of `thresholds`, as in `reached_labels`."""
    return f"""EXISTS (
        SELECT FROM jsonb_each(CAST({thresholds} AS jsonb)) AS c (checker, labels),
            jsonb_each(c.labels) AS l (label, least)
        WHERE coalesce(jsonb_typeof({scores} -> '{LABELS}' -> checker -> label), 'null') <> 'number')"""


def has_any_scores(scores: str) -> str:
    """Return the SQL of whether there are scores to judge by: of concepts, as in `score_arrays`, or of labels."""
    return f"(concepts IS NOT NULL OR coalesce(jsonb_typeof({scores} -> '{LABELS}') = 'object', false))"


def is_flagged_for_prompt(image: str) -> str:
    """Return the SQL of whether the prompt filter has flagged an image row, whatever its scores."""
    return f"""({image}.safety_verdict <> 'safe' AND {image}.safety_reason IS NOT NULL
        AND NOT starts_with({image}.safety_reason, '{CHECKER_REASON}'))"""


def is_judged_by_scores_alone(image: str) -> str:
    """Return the SQL of whether an image, JSONB of its columns, is as it was rendered, and only its scores flag it.

    An image that was blurred or blackened isn't, and neither is one that the prompt filter has flagged.
    """
    verdict, reason = f"{image} ->> 'safety_verdict'", f"{image} ->> 'safety_reason'"
    return (
        f"""({verdict} = 'safe' OR ({verdict} = 'flagged' AND starts_with({reason}, '{CHECKER_REASON}')))"""
    )


def _array(scores: str, name: str) -> str:
    return f"translate({scores} ->> '{name}', '[]', '{{}}')::numeric[]"


def _sql(thousandths: int) -> str:
    return f"({thousandths / 1000})"

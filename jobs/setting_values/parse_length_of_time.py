"""Lengths of time as people write them: 90s, 5m, 7h50m, 30d."""

import re

from jobs.errors import UsageError

LONGEST_S = 86_400 * 36_500
_UNITS_S = {"d": 86_400, "h": 3_600, "m": 60, "s": 1}
_UNITS = re.compile(r"(?=.)(?:(\d+)d)?(?:(\d+)h)?(?:(\d+)m)?(?:(\d+(?:\.\d+)?)s)?")


def parse_length(text: str, *, needs_unit: bool = False) -> float:
    """Return a length of time in seconds, written as "90", "90s", "5m", "7h50m" or "1d12h".

    A number alone is seconds, unless `needs_unit`. Raises UsageError that says what is wrong.
    """
    if re.fullmatch(r"\d+(\.\d+)?", text) and not needs_unit:
        total = float(text)
    elif (found := _UNITS.fullmatch(text)) is not None:
        pairs = zip(found.groups(), _UNITS_S.values(), strict=True)
        total = sum(float(number) * unit for number, unit in pairs if number is not None)
    else:
        examples = "90s, 5m, 7h50m or 1d12h" if needs_unit else "90, 5m, 7h50m or 1d12h"
        raise UsageError(f"a length of time, as in {examples}")
    if total > LONGEST_S:
        raise UsageError(f"at most {LONGEST_S / 86_400:,.0f} days")
    return total

"""Prices of devices by the hour, as the setting `hour_price` gives them."""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, field

FORM = "a price an hour, or prices by parts of device names, as in H200=3.5,A100=2,0.1"
_HOUR_S = 3600.0


@dataclass(frozen=True)
class DevicePrices:
    """Prices by the hour: of devices with a part in their names, and of all others; no currency is known."""

    by_part: Mapping[str, float] = field(default_factory=dict)
    others: float | None = None

    @classmethod
    def parse(cls, text: str) -> "DevicePrices":
        """Parse prices such as "2.5" or "H200=3.5,A100=2,0.1". Raises ValueError."""
        by_part, others = dict[str, float](), None
        for entry in filter(None, re.split(r"\s*,\s*", text.strip())):
            part, is_named, price = entry.rpartition("=")
            if is_named and part.strip():
                by_part[part.strip()] = _number(price)
            elif is_named or others is not None:
                raise ValueError(f"must be {FORM}")
            else:
                others = _number(price)
        return cls(by_part, others)

    def cost(self, device: str, seconds: float) -> float | None:
        """Return what so many seconds of the device cost; None if it has no price. The first part that fits counts."""
        fitting = (price for part, price in self.by_part.items() if part.lower() in device.lower())
        price = next(fitting, self.others)
        return None if price is None else price * seconds / _HOUR_S


def _number(text: str) -> float:
    try:
        price = float(text)
    except ValueError:
        raise ValueError(f"must be {FORM}") from None
    if not (math.isfinite(price) and price >= 0):
        raise ValueError(f"must be {FORM}")
    return price

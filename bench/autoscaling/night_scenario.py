"""The night that is simulated: who submits what and when, and which machines are taken away."""

from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta

BEGIN = datetime(2026, 11, 27, 18, 0, tzinfo=UTC)


def clock(text: str) -> datetime:
    """Return a time of the night, as in "22:00" or, in the morning, "07:00"."""
    hour, minute = map(int, text.split(":"))
    day = BEGIN + timedelta(days=hour < BEGIN.hour)
    return day.replace(hour=hour, minute=minute)


@dataclass(frozen=True)
class Batch:
    """A batch: when it comes, its images and the seconds that a worker takes for each."""

    name: str
    comes: str
    tenant: str
    images: int
    image_s: float
    deadline: str | None = None
    window: tuple[str, str] | None = None
    priority: int = 0


@dataclass(frozen=True)
class Night:
    """Batches, tenants' weights, and the times at which a machine is taken away without warning."""

    batches: tuple[Batch, ...]
    weights: dict[str, int] = field(default_factory=dict)
    kills: tuple[str, ...] = ()
    ends: str = "09:00"
    max_workers: int = 8
    target_s: float = 3 * 3600
    tick_s: float = 60.0
    """How often the number of workers is adjusted; KEDA does it every 30 s."""
    start_s: float = 300.0
    """From the wish for a worker until it asks for work: a machine is found, the image pulled, the model loaded."""


NIGHT = Night(
    batches=(
        Batch("thumbnails", "18:10", "ada", 120, 20),
        Batch("faces", "18:30", "ada", 300, 40, deadline="21:30"),
        Batch("rooms", "18:40", "bob", 400, 40, deadline="23:00"),
        Batch("preview", "19:30", "eve", 8, 30),
        Batch("posters", "20:00", "bob", 100, 60, priority=-10),
        Batch("night-1", "20:30", "eve", 800, 60, deadline="05:00", window=("22:00", "06:30")),
        Batch("night-2", "21:00", "ada", 400, 60, window=("22:00", "06:30")),
        Batch("urgent", "00:15", "bob", 120, 60, deadline="01:15", priority=10),
        Batch("late", "03:00", "ada", 100, 60, deadline="07:30"),
        Batch("morning", "07:30", "eve", 40, 30),
    ),
    weights={"eve": 2},
    kills=("18:50", "19:40", "20:40", "22:30", "23:15", "00:40", "02:10", "04:20"),
)

"""What a benchmark found: figures with their goals, as JSON tells them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from bench.harness.gpu_machine import GPUMachine
    from bench.harness.machine import Machine


@dataclass(frozen=True)
class Goal:
    """What a figure should reach, or stay under."""

    sign: Literal[">=", "<="]
    bound: float

    def is_met(self, value: float) -> bool:
        """Whether `value` is on the right side of the bound, or on it."""
        return value >= self.bound if self.sign == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


@dataclass(frozen=True)
class Figure:
    """One measured number; `against` says in words what it was held against in the same run."""

    value: float
    unit: str
    against: str | None = None
    goal: Goal | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the goal is met; None without one."""
        return None if self.goal is None else self.goal.is_met(self.value)

    def report(self) -> dict[str, Any]:
        """As `--json` prints it, the value with four significant digits."""
        return {
            "value": float(f"{self.value:.4g}"),
            "unit": self.unit,
            "against": self.against,
            "goal": self.goal and str(self.goal),
            "holds": self.holds,
        }


@dataclass(frozen=True)
class Result:
    """One benchmark's figures by key, and the machine that they are of."""

    name: str
    machine: "Machine | GPUMachine"
    figures: Mapping[str, Figure]

    def report(self) -> dict[str, Any]:
        """As `--json` prints it."""
        figures = {key: figure.report() for key, figure in self.figures.items()}
        return {"name": self.name, "machine": asdict(self.machine), "figures": figures}


def at_least(bound: float) -> Goal:
    """More is better."""
    return Goal(">=", bound)


def at_most(bound: float) -> Goal:
    """Less is better."""
    return Goal("<=", bound)


def shown(value: float) -> str:
    """A number for people: whole from a thousand on, else three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

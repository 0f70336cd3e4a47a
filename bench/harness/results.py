"""A benchmark's results: figures with their goals, and their JSON form."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, Any, Literal

if TYPE_CHECKING:
    from bench.harness.gpu_machine import GPUMachine
    from bench.harness.machine import Machine


@dataclass(frozen=True)
class Goal:
    """A bound that a figure should reach, or stay below."""

    sign: Literal[">=", "<="]
    bound: float

    def is_met(self, value: float) -> bool:
        """Whether `value` is within the bound, or on it."""
        return value >= self.bound if self.sign == ">=" else value <= self.bound

    def __str__(self) -> str:
        return f"{self.sign} {self.bound:g}"


@dataclass(frozen=True)
class Figure:
    """One measured number; `against` describes what it was compared with in the same run."""

    value: float
    unit: str
    against: str | None = None
    goal: Goal | None = None

    @property
    def holds(self) -> bool | None:
        """Whether the goal is met; None without one."""
        return None if self.goal is None else self.goal.is_met(self.value)

    def report(self) -> dict[str, Any]:
        """Return the figure as `--json` prints it, the value with four significant digits."""
        return {
            "value": float(f"{self.value:.4g}"),
            "unit": self.unit,
            "against": self.against,
            "goal": self.goal and str(self.goal),
            "holds": self.holds,
        }


@dataclass(frozen=True)
class Result:
    """One benchmark's figures by key, and the machine that they were measured on."""

    name: str
    machine: "Machine | GPUMachine"
    figures: Mapping[str, Figure]

    def report(self) -> dict[str, Any]:
        """Return the result as `--json` prints it."""
        figures = {key: figure.report() for key, figure in self.figures.items()}
        return {"name": self.name, "machine": asdict(self.machine), "figures": figures}


def at_least(bound: float) -> Goal:
    """A goal where more is better."""
    return Goal(">=", bound)


def at_most(bound: float) -> Goal:
    """A goal where less is better."""
    return Goal("<=", bound)


def shown(value: float) -> str:
    """Format a number for people: without decimals from a thousand on, else with three significant digits."""
    return f"{value:,.0f}" if abs(value) >= 1000 else f"{value:.3g}"

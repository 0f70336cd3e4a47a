"""The common training loop: optimiser, learning rate schedule, averaged weights, loss log, resumable state."""

import copy
import json
import math
import os
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, TextIO

import numpy as np
import torch

from models.shapes.training import data_parallel

_WARM_UP = 100
_LOG_EVERY = 50
_SAVE_EVERY = 500


@dataclass(frozen=True)
class Plan:
    """Length and learning rate of a training: `steps` batches of `rows`, at learning rate `rate`.

    The rate follows a cosine that ends after `horizon` steps, or after `steps` if it is 0; `decay` is that of the
    averaged weights.
    """

    steps: int
    rows: int
    rate: float
    decay: float = 0.999
    horizon: int = 0


@dataclass(frozen=True)
class Course:
    """One training: its plan, device and random seed, and the log file of its losses."""

    plan: Plan
    device: torch.device
    seed: int
    log: Path

    def chance(self) -> np.random.Generator:
        """Return a generator seeded with the seed; torch's generator is seeded, too."""
        torch.manual_seed(self.seed)
        return np.random.default_rng(self.seed)


def fit(module: torch.nn.Module, course: Course, loss_of: Callable[[int], dict[str, torch.Tensor]]) -> Any:
    """Minimise the sum of the losses from `loss_of(step)`; return a copy with averaged weights (Polyak 1992).

    With several training processes, `loss_of` covers the rows of this one, and all processes take the same steps.

    Uses AdamW (Loshchilov & Hutter 2019) with gradients clipped at norm 1. Every 50 steps a JSON line {"step",
    "seconds", "rate", losses…} is appended to the log; every 500, the state needed to resume is saved beside it. An
    interrupted training resumes there, with its random scenes restarted from the seed.
    """
    plan, log = course.plan, course.log
    data_parallel.begin_alike(module)
    optimiser = torch.optim.AdamW(module.parameters(), lr=plan.rate, weight_decay=1e-4)
    average = copy.deepcopy(module).eval().requires_grad_(False)
    saved = _Saved(log.with_suffix(".pt"), module, average, optimiser)
    first, spent = saved.restore()
    started = time.monotonic() - spent
    module.train()
    with _lines(log, bool(first)) as lines:
        for step in range(first, plan.steps):
            rate = plan.rate * _schedule(step, plan.horizon or plan.steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            losses = loss_of(step)
            optimiser.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            data_parallel.average_gradients(module)
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            _average(average, module, min(plan.decay, (step + 1) / (step + 10)))
            if step % _LOG_EVERY == 0 or step == plan.steps - 1:
                values = {name: round(value.item(), 5) for name, value in losses.items()}
                line = {"step": step, "seconds": round(time.monotonic() - started), "rate": rate} | values
                print(json.dumps(line), file=lines, flush=True)
            if (step + 1) % _SAVE_EVERY == 0 and data_parallel.is_first():
                saved.save(step + 1, time.monotonic() - started)
    data_parallel.wait()
    saved.forget()
    return average


def _lines(log: Path, goes_on: bool) -> TextIO:
    """Open the log of losses; only the first process writes it, with the losses of its own rows."""
    path = log if data_parallel.is_first() else Path(os.devnull)
    return path.open("a" if goes_on else "w", encoding="utf-8")


@dataclass(frozen=True)
class _Saved:
    """The saved state of an unfinished training."""

    path: Path
    module: torch.nn.Module
    average: torch.nn.Module
    optimiser: torch.optim.Optimizer

    def save(self, step: int, seconds: float) -> None:
        parts = {name: part.state_dict() for name, part in self._parts()}
        torch.save(parts | {"step": step, "seconds": seconds}, self.path.with_suffix(".new"))
        self.path.with_suffix(".new").rename(self.path)

    def restore(self) -> tuple[int, float]:
        """Load the state and return the step to resume at and the seconds spent; 0 and 0 if nothing is saved."""
        if not self.path.exists():
            return 0, 0
        kept = torch.load(self.path, weights_only=True)
        for name, part in self._parts():
            part.load_state_dict(kept[name])
        return int(kept["step"]), float(kept["seconds"])

    def forget(self) -> None:
        self.path.unlink(missing_ok=True)

    def _parts(self) -> list[tuple[str, Any]]:
        return [("module", self.module), ("average", self.average), ("optimiser", self.optimiser)]


def half(device: torch.device, on_cpu: bool = True) -> AbstractContextManager[Any]:
    """Run forward passes in bfloat16, with weights in float32.

    On a CPU, that is faster only for large convolutions: small ones and attention are slower than in float32.
    """
    return torch.autocast(device.type, torch.bfloat16, enabled=on_cpu or device.type != "cpu")


def _schedule(step: int, steps: int) -> float:
    return min(1.0, (step + 1) / _WARM_UP) * (0.02 + 0.98 * 0.5 * (1 + math.cos(math.pi * step / steps)))


@torch.no_grad()
def _average(average: torch.nn.Module, module: torch.nn.Module, decay: float) -> None:
    for kept, new in zip(average.parameters(), module.parameters(), strict=True):
        kept.lerp_(new, 1 - decay)
    for kept_buffer, buffer in zip(average.buffers(), module.buffers(), strict=True):
        kept_buffer.copy_(buffer)

"""What all trainings share: the optimiser, its schedule, averaged weights, a log of losses."""

import copy
import json
import math
import time
from collections.abc import Callable
from contextlib import AbstractContextManager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

_WARM_UP = 100
_LOG_EVERY = 50


@dataclass(frozen=True)
class Plan:
    """How long and how hard to train: `steps` batches of `rows`, at learning rate `rate`.

    The rate decays by a cosine that ends after `horizon` steps, which are `steps` if it is 0; `decay` is of the
    averaged weights.
    """

    steps: int
    rows: int
    rate: float
    decay: float = 0.999
    horizon: int = 0


def fit(
    module: torch.nn.Module,
    plan: Plan,
    loss_of: Callable[[int], dict[str, torch.Tensor]],
    log: Path,
) -> Any:
    """Minimises the sum of what `loss_of(step)` gives; returns a copy with averaged weights (Polyak 1992).

    AdamW (Loshchilov & Hutter 2019), gradients clipped at norm 1. Every 50 steps
    a JSON line {"step", "seconds", "rate", losses…} goes to `log`.
    """
    optimiser = torch.optim.AdamW(module.parameters(), lr=plan.rate, weight_decay=1e-4)
    average = copy.deepcopy(module).eval().requires_grad_(False)
    started = time.monotonic()
    module.train()
    with log.open("w", encoding="utf-8") as lines:
        for step in range(plan.steps):
            rate = plan.rate * _schedule(step, plan.horizon or plan.steps)
            for group in optimiser.param_groups:
                group["lr"] = rate
            losses = loss_of(step)
            optimiser.zero_grad(set_to_none=True)
            torch.stack(list(losses.values())).sum().backward()  # type: ignore[no-untyped-call]
            torch.nn.utils.clip_grad_norm_(module.parameters(), 1.0)
            optimiser.step()
            _average(average, module, min(plan.decay, (step + 1) / (step + 10)))
            if step % _LOG_EVERY == 0 or step == plan.steps - 1:
                values = {name: round(value.item(), 5) for name, value in losses.items()}
                line = {"step": step, "seconds": round(time.monotonic() - started), "rate": rate} | values
                print(json.dumps(line), file=lines, flush=True)
    return average


def half(device: torch.device, on_cpu: bool = True) -> AbstractContextManager[Any]:
    """Forward passes in bfloat16, where weights stay float32.

    On a CPU that pays for large convolutions alone: small ones and attention are slower than in float32.
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

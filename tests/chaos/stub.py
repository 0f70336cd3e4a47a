"""Models for the real worker that draw without torch, and go wrong where a job's prompt asks for it.

`fault:KIND` in a prompt does it at every attempt, `fault:KIND:once` only at the first. A worker may be broken as a
whole: its models can't be loaded (`load`), its device fails at everything but the simplest (`device`), or at that, too
(`lost`). `install` puts the stubs in place, in a worker's parent and in each of its children; `stubbed` has that done
in workers that commands start.
"""

import ctypes
import os
import resource
import signal
import sys
import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType, SimpleNamespace
from typing import Any
from unittest.mock import patch

import numpy as np

from jobs.job_dataclasses import Lane
from models.catalogue.card import Card
from models.catalogue.catalogue import Catalogue
from models.engine.rendered_image import RenderedImage
from models.errors import CheckpointError, ModelError, OutOfMemoryError
from models.runtime.compile_options import PLAIN
from models.runtime.memory_options import FULL
from models.store.resolve_checkpoint import Checkpoint, resolve
from tests.chaos.stub_safety_checker import StubSafetyChecker
from tests.paths import ROOT
from worker.lanes import worker_loop
from worker.model_cache import cache
from worker.model_cache.lane_models import LaneModels

FOLDER = "CHAOS_FOLDER"
STEP_S = "CHAOS_STEP_S"
LONGEST_S = "CHAOS_LONGEST_S"
BROKEN = "CHAOS_BROKEN"
RENDERS = "renders"
FAULT = "fault:"


class Fault:
    """The fault that a prompt asks for."""

    def __init__(self, prompt: str) -> None:
        asked = next((word for word in prompt.split() if word.startswith(FAULT)), FAULT)
        _, self.kind, *once = asked.split(":")
        self._prompt = prompt
        self._mark = Path(os.environ[FOLDER]) / f"had-{prompt.replace(' ', '-')}"
        self._is_once = bool(once)

    def quote(self) -> None:
        """Raise an error that tells the whole prompt, as those of libraries do."""
        raise RuntimeError(f"can't tokenise {self._prompt!r}")

    def strikes(self, kind: str) -> bool:
        """Whether it is of this kind and still to come; asking for one that comes once uses it up."""
        if self.kind != kind or (self._is_once and self._mark.exists()):
            return False
        if self._is_once:
            self._mark.touch()
        return True


@dataclass(frozen=True)
class StubDiffusion:
    """Noise by the job's seed; notes each picture that it drew, and how it fared with those it shall fail on."""

    folder: Path
    step_s: float
    checker: StubSafetyChecker

    def render(
        self,
        requests: Sequence[Any],
        *,
        rows: int,  # noqa: ARG002 - the number of rows changes nothing here
        on_step: Callable[[int], None],
        **_: int,
    ) -> list[RenderedImage]:
        engine = StubEngine(self, len(requests))
        for number, request in enumerate(requests):
            engine.add(number, request)
        step, rendered_images = 0, list[SimpleNamespace]()
        while not engine.is_empty:
            on_step(step)
            rendered_images, step = engine.step(), step + 1
        return [rendered.image for rendered in rendered_images]

    def latent_shape(self, width: int, height: int) -> tuple[int, int, int]:
        return 4, height, width

    def engine(self, _shape: tuple[int, int, int], *, rows: int, **_: object) -> "StubEngine":
        return StubEngine(self, rows)

    def _note(self, requests: Sequence[Any]) -> None:
        lines = "".join(f"{os.getpid()} {request.seed}\n" for request in requests)
        number = os.open(self.folder / RENDERS, os.O_WRONLY | os.O_APPEND | os.O_CREAT, 0o600)
        os.write(number, lines.encode())
        os.close(number)


class StubEngine:
    """Device batch after device batch: its requests begin and end together."""

    def __init__(self, model: StubDiffusion, rows: int) -> None:
        self._model, self._rows, self._steps = model, rows, 0
        self._requests: dict[object, Any] = {}

    @property
    def is_empty(self) -> bool:
        return not self._requests

    is_denoising = True

    def has_room(self) -> bool:
        return not self._steps and len(self._requests) < self._rows

    def add(self, key: object, request: Any) -> None:
        self._requests[key] = request

    def close(self) -> None:
        self._requests, self._steps = {}, 0

    def step(self) -> list[SimpleNamespace]:
        try:
            return self._step()
        except BaseException:
            self.close()
            raise

    def _step(self) -> list[SimpleNamespace]:
        if os.environ.get(BROKEN) in ("device", "lost"):
            raise RuntimeError("CUDA error: device-side assert triggered")
        requests = list(self._requests.values())
        time.sleep(self._model.step_s)
        if self._steps == 0:
            self._faults = [Fault(request.prompt) for request in requests]
            for fault in self._faults:
                _break(fault, len(requests))
        self._steps += 1
        if self._steps < requests[0].steps:
            return []
        self._model._note(requests)
        rendered = [
            SimpleNamespace(key=key, image=_image(request, fault, self._model.checker))
            for (key, request), fault in zip(self._requests.items(), self._faults, strict=True)
        ]
        self.close()
        return rendered


def _break(fault: Fault, company: int) -> None:
    if fault.strikes("oom") or (company > 1 and fault.kind == "narrow"):
        raise OutOfMemoryError(f"no memory left for {company} images")
    if fault.strikes("quote"):
        fault.quote()
    for kind, happen in _BREAKS.items():
        if fault.strikes(kind):
            happen()


def _raise() -> None:
    raise RuntimeError("index out of range in self")


def _hang() -> None:
    """Holds the interpreter, as a hung call to a device may; a signal only wakes C's sleep."""
    while True:
        ctypes.PyDLL(None).sleep(3600)


_BREAKS: dict[str, Callable[[], object]] = {
    "exception": _raise,
    "sys-exit": lambda: sys.exit(0),
    "exit": lambda: os._exit(0),
    "segfault": lambda: os.kill(os.getpid(), signal.SIGSEGV),
    "hang": _hang,
    "stall": lambda: time.sleep(
        3600
    ),  # lets go of the interpreter, so that the leases are renewed all the time
}


def _image(request: Any, fault: Fault, checker: StubSafetyChecker) -> RenderedImage:
    noise = np.random.default_rng(request.seed)
    pixels = noise.integers(0, 256, (request.height, request.width, 3), dtype=np.uint8)
    checker.note(pixels, request.prompt, fault)
    if fault.strikes("nan"):
        return RenderedImage(pixels, "nan")
    return RenderedImage(pixels, "black" if fault.strikes("black") else None)


@dataclass(frozen=True)
class StubUpscaler:
    """Each pixel four times as wide and high."""

    def render(
        self, requests: Sequence[Any], *, on_step: Callable[[int], None], **_: object
    ) -> list[RenderedImage]:
        on_step(0)
        return [
            RenderedImage(request.pixels.repeat(4, axis=0).repeat(4, axis=1), defect=None)
            for request in requests
        ]


@dataclass(frozen=True)
class _Tokens:
    limit: int = 77

    def count(self, prompts: Sequence[str]) -> list[int]:
        return [len(prompt.split()) + 2 for prompt in prompts]


@dataclass(frozen=True)
class _Device:
    name: str = "cpu"
    label: str = "stub"
    dtype: str = "float32"
    rows: int = 4

    def is_mostly_ours(self) -> bool:
        return True

    def check(self) -> None:
        if os.environ.get(BROKEN) == "lost":
            raise ModelError("stub doesn't compute any more")


class StubModelCache(cache.ModelCache):
    """The real one, which loads stubs."""

    def _has_room(self, _: Lane) -> bool:
        return True

    def _load(self, lane: Lane) -> LaneModels:
        if os.environ.get(BROKEN) == "load":
            raise CheckpointError("the model is not there: /models isn't mounted")
        catalogue = Catalogue.load(self.settings.models_path)
        card = catalogue.get(lane.model)
        checker = StubSafetyChecker()
        stubs: dict[str, Any] = {
            "device": _Device(),
            "tokens": _Tokens(),
            "safety": checker,
            "diffusion": StubDiffusion(Path(os.environ[FOLDER]), float(os.environ[STEP_S]), checker),
        }
        if lane.upscale:
            upscaler = self._resolve(catalogue.get(str(card.upscaler)))
            stubs |= {"upscaler": StubUpscaler(), "upscaler_checkpoint": upscaler}
        checkpoint = self._resolve(card)
        return LaneModels(
            card=card,
            checkpoint=checkpoint,
            memory_options=FULL,
            compile_options=PLAIN,
            **stubs,
        )

    def _resolve(self, card: Card) -> Checkpoint:
        """Of a model that comes with nightmill or is built by it, nothing but the name; others must be there."""
        if card.builder is None:
            return resolve(card, self.settings.models_path)
        return Checkpoint(card, Path("/"), "stub", "0" * 64)


def _module(name: str, **contents: object) -> None:
    module = ModuleType(name)
    module.__dict__.update(contents)
    sys.modules[name] = module


def _unused(*_: object) -> None:
    raise AssertionError("no test with these models blurs images")


def install() -> None:
    """Put stubs where the worker looks for models, before it does."""
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    _module("models.runtime.device", versions=lambda: {"stub": "1"})
    _module("models.assess.safety_checker", blacken=np.zeros_like, blur=_unused)
    _module("models.families.stable_diffusion", ImageRequest=SimpleNamespace)
    _module("models.families.upscaler", UpscaleRequest=SimpleNamespace)
    cache.ModelCache = StubModelCache  # type: ignore[misc]
    worker_loop.LONGEST_S = float(os.environ.get(LONGEST_S, worker_loop.LONGEST_S))


@contextmanager
def stubbed(folder: Path, *, step_s: float = 0.0) -> Iterator[None]:
    """Within the block, workers that are started draw with the stubs, a step in `step_s` seconds.

    For tests of which what is drawn is no part; `folder` takes the ledger of renders.
    """
    given = {
        "PYTHONPATH": os.pathsep.join((str(ROOT / "tests" / "stubbed"), str(ROOT))),
        FOLDER: str(folder),
        STEP_S: str(step_s),
    }
    with patch.dict(os.environ, given):
        yield

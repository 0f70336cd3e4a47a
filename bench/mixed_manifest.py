"""A shuffled manifest through the engine, compared with diffusers' pipeline: row by row, and grouped by settings."""

from collections.abc import Iterable, Sequence
from itertools import product
from typing import TYPE_CHECKING, Any

import numpy as np

from bench.harness.alternating_measurements import seconds, take_turns
from bench.harness.results import Figure, at_least
from bench.harness.unet_flops import Work, count_work

if TYPE_CHECKING:
    from models.diffusion.requests import ImageRequest
    from models.families.family import ModelFamily
    from models.store.resolve_checkpoint import Checkpoint

SAMPLERS = ("ddim", "euler", "dpmpp_2m", "unipc")
STEPS = (6, 10, 14, 20)
GUIDANCE = (1.0, 4.0, 7.5)
ROWS = 16
OF_EACH = 2


def measure_mixed(
    model: "ModelFamily[ImageRequest]", rounds: int, steps: Sequence[int] = STEPS
) -> dict[str, Figure]:
    """Measure images per second of all combinations of sampler, steps and guidance, shuffled, by each method."""
    mixed = shuffled(product(SAMPLERS, steps, GUIDANCE))
    alike = shuffled([("ddim", 10, 7.5)] * len(mixed))
    pipe = _Pipe(model.checkpoint)
    work = pipe.work(mixed[0].width)
    rates = take_turns(
        rounds,
        {
            "engine": lambda: len(mixed) / seconds(lambda: model.render(mixed, rows=ROWS)),
            "single": lambda: len(mixed) / seconds(lambda: [pipe.draw([request]) for request in mixed]),
            "grouped": lambda: len(mixed) / seconds(lambda: [pipe.draw(group) for group in _groups(mixed)]),
            "mixed work": lambda: unet_pace(model, mixed, ROWS, work),
            "alike work": lambda: unet_pace(model, alike, ROWS, work),
        },
    )
    kinds = f"{len(SAMPLERS)} samplers x {len(steps)} step counts x {len(GUIDANCE)} scales"
    what = f"{len(mixed)} images, {kinds}, shuffled"
    return {
        "mixed_images_per_s": Figure(rates.median("engine"), "images/s", f"{what}; {ROWS} at once"),
        "mixed_per_single": Figure(
            rates.ratio("engine", "single"),
            "ratio",
            f"diffusers' pipeline, one at a time: {rates.median('single'):.1f} images/s",
            at_least(4),
        ),
        "mixed_per_grouped": Figure(
            rates.ratio("engine", "grouped"),
            "ratio",
            f"diffusers' pipeline, identical rows together: {rates.median('grouped'):.1f} images/s",
            at_least(2),
        ),
        "mixed_per_alike": Figure(
            rates.ratio("mixed work", "alike work"),
            "ratio",
            f"the UNet's work in as many images that are alike: {rates.median('alike work') / 1e9:.3g} GFLOP/s",
            at_least(0.95),
        ),
    }


def shuffled(
    settings: Iterable[tuple[str, int, float]], *, side: int = 64, of_each: int = OF_EACH, first: int = 0
) -> "list[ImageRequest]":
    """Return requests of each sampler, steps and guidance, shuffled; seeds and prompts are numbered from `first` on."""
    from models.diffusion.requests import ImageRequest  # noqa: PLC0415 - imports torch

    found = [
        ImageRequest(
            prompt=f"a red circle, take {number}",
            width=side,
            height=side,
            steps=steps,
            guidance_scale=scale,
            sampler=sampler,
            seed=number,
        )
        for number, (sampler, steps, scale) in enumerate(list(settings) * of_each, first)
    ]
    order = np.random.default_rng(0).permutation(len(found))
    return [found[number] for number in order]


def _groups(requests: "Sequence[ImageRequest]") -> "list[list[ImageRequest]]":
    groups: dict[tuple[str, int, float], list[ImageRequest]] = {}
    for request in requests:
        groups.setdefault((request.sampler, request.steps, request.guidance_scale), []).append(request)
    return list(groups.values())


def unet_pace(
    model: "ModelFamily[ImageRequest]", requests: "Sequence[ImageRequest]", at_once: int, work: Work
) -> float:
    """Return FLOP/s of the UNet's `work` for the images, counting what they need, not what was actually computed."""
    flop = sum(request.steps * work.step(request.guidance_scale) for request in requests)
    return flop / seconds(lambda: model.render(requests, rows=at_once))


class _Pipe:
    """Diffusers' pipeline on the same checkpoint, with the same samplers."""

    def __init__(self, checkpoint: "Checkpoint") -> None:
        from models.diffusion.loader import load_pipeline  # noqa: PLC0415
        from models.runtime.device import pick_device  # noqa: PLC0415

        self._pipeline: Any = load_pipeline(checkpoint, pick_device("cpu"), "StableDiffusionPipeline")
        self._pipeline.set_progress_bar_config(disable=True)
        self._config = dict(self._pipeline.scheduler.config)

    def work(self, side: int) -> Work:
        """Return the work of its UNet for images of that side."""
        return count_work(self._pipeline.unet, side // self._pipeline.vae_scale_factor)

    def draw(self, requests: "Sequence[ImageRequest]") -> object:
        from models.engine.schedulers import make_scheduler  # noqa: PLC0415
        from models.runtime.padding_and_noise import seeded  # noqa: PLC0415

        first = requests[0]
        self._pipeline.scheduler = make_scheduler(first.sampler, self._config)
        return self._pipeline(
            [request.prompt for request in requests],
            negative_prompt=[request.negative_prompt for request in requests],
            width=first.width,
            height=first.height,
            num_inference_steps=first.steps,
            guidance_scale=first.guidance_scale,
            generator=[seeded(request.seed) for request in requests],
        ).images

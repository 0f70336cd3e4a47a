"""Mixed batches: the speed of a shuffled manifest against a uniform one, and whether batch-mates change an image."""

import math
from collections import Counter, deque
from collections.abc import Sequence
from contextlib import closing, suppress
from dataclasses import replace
from hashlib import sha256
from itertools import product

import numpy as np

from bench.gpu.drawing import Ours
from bench.harness.unet_flops import Work
from bench.mixed_manifest import GUIDANCE, SAMPLERS, shuffled, unet_pace
from models.diffusion.requests import ImageRequest
from models.engine.rendered_image import RenderedImage
from models.errors import InterruptedRender
from models.families.stable_diffusion import StableDiffusion

STEPS = (10, 20, 30, 40)
COMPANIES = 8
_WAVES = 6


def shuffled_per_alike(
    ours: Ours, rows: int, steps: Sequence[int], work: Work, pace: float, allowance_s: float
) -> tuple[float, str]:
    """Return the UNet's FLOP/s for a shuffled manifest relative to a uniform one of as many images, and a description.

    The uniform images take as much work each as those of the manifest do on average, so that both decode equally often.
    `pace` is the approximate speed in FLOP/s.
    """
    side, model = ours.architecture.side, ours.model
    settings = list(product(SAMPLERS, steps, GUIDANCE))
    of_each = sum(count * work.step(scale) for _, count, scale in settings)
    affordable = int(allowance_s * pace / (2 * of_each))
    times = max(1, min(math.ceil(_WAVES * rows / len(settings)), affordable))
    mixed = shuffled(settings, side=side, of_each=times)
    mean = round(of_each / len(settings) / work.step(7.5))
    uniform = [("ddim", mean, 7.5)]
    alike = shuffled(uniform, side=side, of_each=len(mixed), first=len(mixed))
    _prepare(model, mixed, rows)
    unet_pace(model, shuffled(uniform, side=side, of_each=rows, first=2 * len(mixed)), rows, work)
    alike_pace = unet_pace(model, alike, rows, work)
    ratio = unet_pace(model, mixed, rows, work) / alike_pace
    kinds = f"{len(SAMPLERS)} samplers x {len(steps)} step counts x {len(GUIDANCE)} guidance scales"
    return ratio, (
        f"the UNet's work in {len(mixed)} images, {kinds}, {rows} at once;"
        f" in as many alike, {mean} steps: {alike_pace / 1e12:.3g} TFLOP/s"
    )


def identical_hashes(ours: Ours, rows: int, longest: int) -> tuple[float, str]:
    """Return the share of images that equal, pixel by pixel, the same job's most frequent image, and a description.

    Three jobs, of `longest` steps or fewer, are generated alone and in eight mixed batches: with other batch-mates, in
    other rows, at other times, their prompts encoded anew. Raises RuntimeError where the images can't show a
    difference.
    """
    jobs = _jobs(ours.architecture.side, longest)
    streams = [[job] for job in jobs]
    streams += [_company(jobs, rows, longest, seed) for seed in range(COMPANIES)]
    found: dict[int, list[str]] = {number: [] for number in range(len(jobs))}
    for stream in streams:
        ours.model.forget_prompts()
        for number, digest in _hashes(ours.model, stream, jobs, rows):
            found[number].append(digest)
    usual = [Counter(digests).most_common(1)[0] for digests in found.values()]
    if len({digest for digest, _ in usual}) < len(jobs):
        raise RuntimeError("different jobs gave the same picture: its hash says nothing")
    total = sum(map(len, found.values()))
    alike = ", ".join(
        f"{job.sampler} at guidance {job.guidance_scale:g} {times} of {len(digests)} times"
        for job, (_, times), digests in zip(jobs, usual, found.values(), strict=True)
    )
    what = f"sha256 of the pixels of {len(jobs)} jobs, each alone and in {COMPANIES} companies of up to {3 * rows}"
    return sum(times for _, times in usual) / total, f"{what}: {alike}"


def _prepare(model: StableDiffusion, requests: Sequence[ImageRequest], rows: int) -> None:
    """Prepare the steps of all requests, as in a worker that has been running for a while."""

    def stop(_: int) -> None:
        raise InterruptedRender

    with suppress(InterruptedRender):
        model.render(requests, rows=rows, on_step=stop)


def _jobs(side: int, longest: int) -> list[ImageRequest]:
    plain = ImageRequest(
        prompt="a heron in morning fog",
        width=side,
        height=side,
        steps=longest,
        guidance_scale=7.5,
        sampler="euler_a",
        seed=100,
    )
    return [
        plain,
        replace(plain, sampler="dpmpp_2m", steps=max(2, longest - 2), guidance_scale=4.0, seed=101),
        replace(plain, sampler="ddim", guidance_scale=1.0, seed=102),
    ]


def _company(jobs: Sequence[ImageRequest], rows: int, longest: int, seed: int) -> list[ImageRequest]:
    """Return a stream with the jobs at random places among other requests, `rows` to three times as many."""
    random = np.random.default_rng(seed)
    stream = [
        replace(
            jobs[0],
            prompt=f"a stranger, take {random.integers(1000)}",
            steps=int(random.integers(2, longest + 1)),
            guidance_scale=float(random.choice(GUIDANCE)),
            sampler=str(random.choice(SAMPLERS)),
            seed=int(random.integers(1000, 2**32)),
        )
        for _ in range(int(random.integers(rows, 3 * rows)))
    ]
    for job in jobs:
        stream.insert(int(random.integers(len(stream) + 1)), job)
    return stream


def _hashes(
    model: StableDiffusion, stream: Sequence[ImageRequest], jobs: Sequence[ImageRequest], rows: int
) -> list[tuple[int, str]]:
    """Return the stream's jobs, by their index in `jobs`, with their images' hashes."""
    found: list[tuple[int, str]] = []
    waiting = deque(stream)
    with closing(model.engine(model.check(stream[0]), rows=rows)) as engine:
        while True:
            while engine.has_room() and waiting:
                engine.add(len(stream) - len(waiting), waiting.popleft())
            if engine.is_empty:
                return found
            found += [
                (jobs.index(request), _hash(rendered.image))
                for rendered in engine.step()
                if (request := stream[int(str(rendered.key))]) in jobs
            ]


def _hash(image: RenderedImage) -> str:
    if image.defect is not None:
        raise RuntimeError(f"a picture came out {image.defect}: its hash says nothing")
    return sha256(image.pixels.tobytes()).hexdigest()

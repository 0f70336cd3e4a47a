"""Convolutions that show a picture's place are found, and replaced by products that don't."""

from collections.abc import Callable
from typing import Any

import pytest
import torch

from models.catalogue.catalogue import Catalogue
from models.diffusion.requests import ImageRequest
from models.diffusion.tiny_decoder import SmallDecoder
from models.families.stable_diffusion import StableDiffusion
from models.runtime import batch_invariant_cuda_convolutions
from models.runtime.batch_invariant_cuda_convolutions import (
    depends_on_position,
    replace_batch_dependent_convolutions,
)
from models.runtime.compile_options import CompileOptions
from models.runtime.device import Device
from models.store.resolve_checkpoint import Checkpoint, resolve

Settings = dict[str, Any]


class Segmented(torch.nn.Conv2d):
    """Gives the last picture of a large batch other bits, as cuDNN may do; here on any processor."""

    share = 2.0**-20

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found = super().forward(values)
        if values.shape[0] >= 4:
            found[-1] *= 1 + self.share
        return found


def _network() -> torch.nn.Sequential:
    torch.manual_seed(0)
    return torch.nn.Sequential(
        torch.nn.Conv2d(4, 24, 3, padding=1), Segmented(24, 24, 3, padding=1), Segmented(24, 8, 1)
    )


@torch.inference_mode()
def test_a_place_shows_no_longer() -> None:
    network, values = _network(), torch.randn(4, 4, 9, 7)
    before = network(values)
    assert depends_on_position(network, values)
    assert replace_batch_dependent_convolutions(network, lambda: network(values)) == 2
    assert not depends_on_position(network, values)
    assert torch.allclose(network(values), before, atol=1e-5)
    assert replace_batch_dependent_convolutions(network, lambda: network(values)) == 0


@torch.inference_mode()
def test_other_shapes_stay_as_they_are() -> None:
    network, few, many = _network(), torch.randn(2, 4, 9, 7), torch.randn(6, 4, 8, 8)
    before, original = network(few), network[1].forward
    assert replace_batch_dependent_convolutions(network, lambda: network(few)) == 0
    assert network[1].forward == original
    replace_batch_dependent_convolutions(network, lambda: network(many))
    assert torch.equal(network(few), before)
    assert replace_batch_dependent_convolutions(network, lambda: network(torch.randn(4, 4, 9, 7))) == 2
    assert not depends_on_position(network, many)


@pytest.mark.parametrize("at_once", [2**30, 1])
@pytest.mark.parametrize("layout", [torch.contiguous_format, torch.channels_last])
@pytest.mark.parametrize(
    "settings",
    [
        {"kernel_size": 3, "padding": 1},
        {"kernel_size": 3, "padding": 1, "stride": 2},
        {"kernel_size": 1, "bias": False},
        {"kernel_size": (3, 5), "padding": (0, 2), "stride": (1, 2)},
    ],
)
@torch.inference_mode()
def test_a_product_is_the_convolution(
    settings: Settings, layout: torch.memory_format, at_once: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(batch_invariant_cuda_convolutions, "_AT_ONCE", at_once)
    torch.manual_seed(0)
    convolution = torch.nn.Conv2d(6, 10, **settings).to(memory_format=layout)
    values = torch.randn(4, 6, 9, 8).contiguous(memory_format=layout)
    expected = convolution(values)
    found = batch_invariant_cuda_convolutions._product(convolution, values)
    assert found.shape == expected.shape
    assert torch.allclose(found, expected, atol=1e-5)
    assert not depends_on_position(
        lambda given: batch_invariant_cuda_convolutions._product(convolution, given), values
    )


@torch.inference_mode()
def test_what_is_compiled_is_leveled_too() -> None:
    torch._dynamo.reset()
    network, values = _network(), torch.randn(4, 4, 9, 7)
    replace_batch_dependent_convolutions(network, lambda: network(values))
    compiled = torch.compile(network, backend="eager", fullgraph=True, dynamic=False)
    assert torch.allclose(compiled(values), network(values), atol=1e-6)
    assert not depends_on_position(compiled, values)


def test_pictures_do_not_depend_on_places_where_convolutions_would_show_them(
    tiny_checkpoint: Checkpoint,
    device: Device,
    image: Callable[..., ImageRequest],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """In UNet and decoder; without being leveled, they do, by more than the rounding to bytes hides."""
    monkeypatch.setattr(Segmented, "share", 0.25)

    def hashes(needed: bool) -> set[bytes]:
        monkeypatch.setattr(batch_invariant_cuda_convolutions, "is_needed", lambda _: needed)
        model = StableDiffusion.load(tiny_checkpoint, device)
        pipeline = model.pipeline
        for network in (pipeline.unet.mid_block.resnets[0], pipeline.vae.decoder.mid_block.resnets[0]):
            network.conv1.__class__ = Segmented
        asked, others = image(), [image(seed=seed) for seed in range(10, 13)]
        mixes = [[*others[:place], asked, *others[place:]] for place in range(4)]
        return {model.render(mix, rows=4)[mix.index(asked)].pixels.tobytes() for mix in mixes}

    assert len(hashes(needed=True)) == 1
    assert not caplog.records
    assert len(hashes(needed=False)) > 1


def test_another_decoder_of_the_same_batch_is_leveled_too(
    tiny_checkpoint: Checkpoint,
    catalogue: Catalogue,
    device: Device,
    image: Callable[..., ImageRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    monkeypatch.setattr(batch_invariant_cuda_convolutions, "is_needed", lambda _: True)
    model = StableDiffusion.load(tiny_checkpoint, device)
    checkpoint = resolve(catalogue.get("tiny-random-decoder"), catalogue.models_dir)
    decoder = SmallDecoder.load(checkpoint, device, vae_factor=8)
    convolutions = [each for each in decoder.network.decoder.modules() if type(each) is torch.nn.Conv2d]
    convolutions[1].__class__ = Segmented
    asked, others = image(), [image(seed=seed) for seed in range(10, 13)]
    model.render(others, rows=4)
    mixes = [[*others[:place], asked, *others[place:]] for place in range(4)]
    drawn = [model.render(mix, rows=4, decoder=decoder)[mix.index(asked)] for mix in mixes]
    assert len({picture.pixels.tobytes() for picture in drawn}) == 1
    assert convolutions[1].as_product


@pytest.fixture
def model(
    tiny_checkpoint: Checkpoint, device: Device, monkeypatch: pytest.MonkeyPatch
) -> Callable[[], StableDiffusion]:
    """What loads a model on a device where places may show."""
    monkeypatch.setattr(batch_invariant_cuda_convolutions, "is_needed", lambda _: True)
    return lambda: StableDiffusion.load(tiny_checkpoint, device)


def _said(caplog: pytest.LogCaptureFixture) -> bool:
    return [record.message for record in caplog.records] == [
        "a picture's last bits tell its place in a batch of 4 rows on cpu"
    ]


def test_what_shows_places_all_the_same_is_said(
    model: Callable[[], StableDiffusion], image: Callable[..., ImageRequest], caplog: pytest.LogCaptureFixture
) -> None:
    loaded = model()
    norm = loaded.pipeline.unet.conv_norm_out
    original = norm.forward
    norm.forward = lambda values: original(values) + torch.arange(len(values)).view(-1, 1, 1, 1)
    loaded.render([image(steps=1)], rows=2)
    assert _said(caplog)


@pytest.mark.parametrize("cache_interval", [1, 2])
def test_a_compiled_call_is_looked_at_as_it_is_done(
    cache_interval: int,
    model: Callable[[], StableDiffusion],
    image: Callable[..., ImageRequest],
    monkeypatch: pytest.MonkeyPatch,
    caplog: pytest.LogCaptureFixture,
) -> None:
    """What a compiler makes of a network may show what the network itself doesn't."""

    def compile(_: CompileOptions, work: Callable[..., Any]) -> Callable[..., Any]:
        def compiled(*given: Any, **named: Any) -> Any:
            first, *rest = work(*given, **named)
            return first + torch.arange(len(first)).view(-1, *[1] * (first.dim() - 1)), *rest

        return compiled

    monkeypatch.setattr(CompileOptions, "compile", compile)
    model().render([image(steps=1)], rows=2, cache_interval=cache_interval)
    assert _said(caplog)


def test_prompts_are_encoded_alone_where_places_would_show(model: Callable[[], StableDiffusion]) -> None:
    embeddings = model().networks.embeddings
    encoder, seen = embeddings._encoder, []
    original = encoder.forward

    def forward(ids: torch.Tensor, **named: Any) -> Any:
        seen.append(len(ids))
        return original(ids, **named)

    encoder.forward = forward
    prompts = [f"fox {number}" for number in range(6)]
    first = embeddings.embed(prompts)
    assert seen == [1] * 6
    assert all(map(torch.equal, embeddings.embed(prompts[::-1]), first[::-1]))
    embeddings.forget()
    assert torch.equal(embeddings.embed(prompts[3:])[0], first[3])
    assert seen == [1] * 9

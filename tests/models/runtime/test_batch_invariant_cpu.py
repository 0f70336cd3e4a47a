"""A row of a network has the same bits wherever it stands, on any number of threads, also where activations round
otherwise at the ends of what a thread computes."""

import copy
from collections.abc import Callable, Iterator

import pytest
import torch

from models.families.stable_diffusion import StableDiffusion
from models.runtime.batch_invariant_cpu import make_batch_invariant
from models.runtime.device import Device
from models.store.resolve_checkpoint import Checkpoint

VECTOR = 16
"""Values of the widest vectors there are."""


@pytest.fixture
def threads() -> Iterator[None]:
    before = torch.get_num_threads()
    yield
    torch.set_num_threads(before)


def is_steady(tiny: StableDiffusion, sides: tuple[int, int], rows: int) -> bool:
    """Whether the UNet and the VAE's decoder give the first of some rows the same at other places."""
    unet, vae = tiny.pipeline.unet, tiny.pipeline.vae
    generator = torch.Generator().manual_seed(0)
    latents = torch.randn(rows, 4, *sides, generator=generator)
    text = torch.randn(rows, 77, unet.config.cross_attention_dim, generator=generator)
    timesteps = 900 * torch.rand(rows, generator=generator)
    found = []
    with torch.inference_mode():
        for place in sorted({0, 1, rows // 2, rows - 1}):
            moved = [values.roll(place, 0) for values in (latents, timesteps, text)]
            drawn = unet(*moved[:2], encoder_hidden_states=moved[2]).sample[place]
            found.append(torch.cat([drawn.flatten(), vae.decode(moved[0]).sample[place].flatten()]))
    return all(torch.equal(one, found[0]) for one in found)


@pytest.mark.parametrize("sides", [(8, 8), (12, 16)])
@pytest.mark.parametrize("count", [1, 2, 3, 5])
@pytest.mark.usefixtures("threads")
def test_rows_are_the_same_anywhere(tiny: StableDiffusion, sides: tuple[int, int], count: int) -> None:
    torch.set_num_threads(count)
    assert all(is_steady(tiny, sides, rows) for rows in (2, 8, 16))


class Chunked(torch.nn.SiLU):
    """Rounds otherwise what is left at the end of a thread's chunk, by more than any processor does."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found = torch.nn.functional.silu(values).flatten()
        for chunk in found.split(-(-found.numel() // torch.get_num_threads())):
            left = chunk.numel() % VECTOR
            chunk[chunk.numel() - left :] *= 1 + 2.0**-10
        return found.view(values.shape)


@pytest.mark.parametrize("count", [3, 5])
@pytest.mark.usefixtures("threads")
def test_rows_are_the_same_where_the_ends_of_chunks_show(
    tiny_checkpoint: Checkpoint, device: Device, count: int, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And they are not where activations are taken for even that aren't."""
    torch.set_num_threads(count)
    monkeypatch.setattr(torch.nn.SiLU, "forward", Chunked.forward)
    tiny = StableDiffusion.load(tiny_checkpoint, device)
    assert is_steady(tiny, (8, 8), 8)
    monkeypatch.setattr("models.runtime.batch_invariant_cpu._is_even", lambda _: True)
    assert not is_steady(tiny, (8, 8), 8)


@pytest.mark.parametrize("count", [2, 3])
@pytest.mark.parametrize("side", [8, 12])
@pytest.mark.usefixtures("threads")
def test_attention_of_few_tokens_is_the_same_anywhere(
    load: Callable[[str], StableDiffusion], side: int, count: int
) -> None:
    """At its lowest resolution this UNet has one token, or nine."""
    torch.set_num_threads(count)
    unet, generator = load("v2-depth").pipeline.unet, torch.Generator().manual_seed(0)
    shapes = (unet.config.in_channels, side, side), (77, unet.config.cross_attention_dim)
    latents, text = (
        torch.randn(1, *shape, generator=generator).repeat(8, *[1] * len(shape)) for shape in shapes
    )
    with torch.inference_mode():
        drawn = unet(latents, torch.full((8,), 500), encoder_hidden_states=text).sample
    assert all(torch.equal(row, drawn[0]) for row in drawn)


class Attention(torch.nn.Module):
    """Like the library's of that name, but the rows of other threads than the first come out otherwise."""

    def forward(
        self, hidden_states: torch.Tensor, encoder_hidden_states: torch.Tensor | None = None
    ) -> torch.Tensor:
        beside = hidden_states if encoder_hidden_states is None else encoder_hidden_states
        found = hidden_states + beside.mean(1, keepdim=True)
        found[found.shape[0] // torch.get_num_threads() :] *= 1 + 2.0**-10
        return found


@pytest.mark.usefixtures("threads")
def test_attention_takes_few_queries_row_by_row() -> None:
    torch.set_num_threads(2)
    network = torch.nn.Sequential(Attention())
    make_batch_invariant(network)
    for queries, is_steady in ((1, True), (31, True), (32, False)):
        values, beside = torch.ones(4, queries, 8), torch.ones(4, 77, 8)
        for found in (network[0](values, beside), network[0](values, encoder_hidden_states=beside)):
            assert found.shape == values.shape
            assert all(torch.equal(row, found[0]) for row in found) == is_steady


class Linear(torch.nn.Linear):
    """Rounds every second row otherwise, as some processors do where there are few outputs."""

    def forward(self, values: torch.Tensor) -> torch.Tensor:
        found = super().forward(values)
        found[1::2] *= 1 + 2.0**-10
        return found


@pytest.mark.parametrize("kind", [Linear, torch.nn.Linear])
@pytest.mark.parametrize("outputs", [1, 2, 3])
def test_linear_layers_with_few_outputs_are_the_same_anywhere(kind: type[Linear], outputs: int) -> None:
    """Also where the rows are a part of others' tokens."""
    generator = torch.Generator().manual_seed(0)
    for inputs in (47, 48, 64, 768):
        network = torch.nn.Sequential(kind(inputs, outputs))
        values = torch.randn(1, inputs, generator=generator).repeat(8, 1)
        make_batch_invariant(network)
        with torch.inference_mode():
            for rows in (values, values.unsqueeze(1).repeat(1, 5, 1)[:, 0]):
                found = network(rows)
                assert found.shape == (8, outputs)
                assert all(torch.equal(row, found[0]) for row in found)
                assert torch.equal(network(rows[5:6]), found[:1])


@pytest.mark.usefixtures("threads")
def test_the_values_are_those_of_torch() -> None:
    torch.set_num_threads(3)
    layers = torch.nn.Sequential(torch.nn.SiLU(), torch.nn.GroupNorm(8, 16), torch.nn.GELU())
    ours = copy.deepcopy(layers)
    make_batch_invariant(ours)
    values = torch.randn(5, 16, 31, 17, generator=torch.Generator().manual_seed(0))
    assert (ours(values) - layers(values)).abs().max() < 1e-5
    assert torch.equal(ours(values)[4:], ours(values[4:]))


@pytest.mark.usefixtures("threads")
def test_a_copy_has_weights_of_its_own() -> None:
    torch.set_num_threads(3)
    network = torch.nn.Sequential(torch.nn.GroupNorm(8, 16))
    make_batch_invariant(network)
    copied = copy.deepcopy(network)
    with torch.no_grad():
        network[0].weight.zero_()
    assert copied(torch.randn(5, 16, 31, 17)).abs().max() > 0

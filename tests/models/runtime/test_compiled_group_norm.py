"""Group norms as they are compiled: the same values but for rounding."""

from functools import partial

import pytest
import torch

from models.runtime.compiled_group_norm import order_norms

COMPILE = partial(torch.compile, backend="eager", fullgraph=True, dynamic=False)


@pytest.fixture(autouse=True)
def _nothing_is_compiled_yet() -> None:
    torch._dynamo.reset()


@pytest.mark.parametrize("dtype", [torch.float32, torch.float16, torch.bfloat16])
@pytest.mark.parametrize(("shape", "groups"), [((2, 24, 5, 7), 8), ((3, 32, 16, 16), 32), ((1, 30, 1, 1), 2)])
@pytest.mark.parametrize("offset", [0.0, 100.0])
def test_values_are_the_librarys(
    dtype: torch.dtype, shape: tuple[int, ...], groups: int, offset: float
) -> None:
    torch.manual_seed(0)
    norm = torch.nn.GroupNorm(groups, shape[1]).to(dtype)
    torch.nn.init.normal_(norm.weight)
    torch.nn.init.normal_(norm.bias)
    values = (offset + torch.randn(shape)).to(dtype).contiguous(memory_format=torch.channels_last)
    expected = torch.nn.functional.group_norm(
        values.double(), groups, norm.weight.double(), norm.bias.double()
    )
    with torch.inference_mode():
        eager = norm(values)
        order_norms(norm)
        found = COMPILE(norm)(values)
        assert torch.equal(norm(values), eager), "what isn't compiled stays as it is"
    assert (found.shape, found.dtype) == (values.shape, dtype)
    assert found.is_contiguous(memory_format=torch.channels_last)
    exact = torch.finfo(dtype).eps * (1 + offset * (dtype == torch.float32))
    assert torch.allclose(found.double(), expected, rtol=4 * exact, atol=4 * exact)


def test_it_is_what_is_compiled() -> None:
    norm = torch.nn.GroupNorm(4, 8)
    order_norms(norm)
    seen: list[str] = []

    def look(graph: torch.fx.GraphModule, _: object) -> object:
        seen.extend(str(node.target) for node in graph.graph.nodes)
        return graph.forward

    with torch.inference_mode():
        torch.compile(norm, backend=look)(torch.randn(2, 8, 4, 4))
        torch.compile(norm, backend=look)(torch.randn(2, 8, 4))
    assert "as_strided" in seen
    assert any("group_norm" in name for name in seen), "other shapes are left to the library"

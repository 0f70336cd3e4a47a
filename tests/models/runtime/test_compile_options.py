"""What may be compiled and recorded, and that what is compiled is whole graphs that draw the same."""

from collections.abc import Callable
from functools import partial

import numpy as np
import pytest
import torch

from models.diffusion.requests import ImageRequest
from models.errors import ModelError
from models.families.stable_diffusion import StableDiffusion
from models.runtime.compile_options import PLAIN, CompileOptions
from models.runtime.device import Device, pick_device
from models.runtime.memory_options import FULL, MemoryOptions
from models.store.resolve_checkpoint import Checkpoint


class _GPU(Device):
    """A device of a known age."""

    def compiles_float8(self) -> bool:
        return self.label != "an old GPU"


GPU = _GPU("cuda:0", torch.bfloat16, "a GPU", rows=8)
OLD = _GPU("cuda:0", torch.bfloat16, "an old GPU", rows=8)
_GPUS = {"cuda": GPU, "old": OLD}
COMPILED = CompileOptions(compiled=True, vae_compiled=True)
ALL = CompileOptions(compiled=True, vae_compiled=True, recorded=True, channels_last=True)


@pytest.mark.parametrize(
    ("word", "memory_options", "device", "expected"),
    [
        ("auto", FULL, "cpu", PLAIN),
        ("on", FULL, "cpu", COMPILED),
        ("off", FULL, "cpu", PLAIN),
        ("auto", FULL, "cuda", ALL),
        ("off", FULL, "cuda", CompileOptions(recorded=True, channels_last=True)),
        ("auto", MemoryOptions("int8"), "cuda", PLAIN),
        ("on", MemoryOptions("fp8"), "cpu", COMPILED),
        ("on", MemoryOptions(vae_tiling=True), "cpu", CompileOptions(compiled=True)),
        ("auto", MemoryOptions("fp8"), "cuda", ALL),
        ("auto", MemoryOptions("fp8"), "old", CompileOptions(recorded=True, channels_last=True)),
        ("auto", MemoryOptions(attention_slicing=True), "cpu", PLAIN),
    ],
)
def test_what_is_done_where(
    word: str, memory_options: MemoryOptions, device: str, expected: CompileOptions
) -> None:
    found = CompileOptions.choose(word, memory_options, _GPUS.get(device) or pick_device("cpu"))
    assert found == expected
    parts = {"unet": expected.compiled, "vae": expected.vae_compiled}
    assert found.notes() == {name: "compiled" for name, is_so in parts.items() if is_so}


def test_what_cannot_be_done_is_said() -> None:
    with pytest.raises(ModelError, match="unknown compile 'fast'; there are auto, on, off"):
        CompileOptions.choose("fast", FULL, GPU)
    with pytest.raises(ModelError, match="packed weights and sliced attention can't be compiled"):
        CompileOptions.choose("on", MemoryOptions("int4"), GPU)
    with pytest.raises(ModelError, match="weights 'fp8' can't be compiled for an old GPU"):
        CompileOptions.choose("on", MemoryOptions("fp8"), OLD)


def test_unet_and_decoder_compile_without_a_break(
    tiny: StableDiffusion,
    tiny_checkpoint: Checkpoint,
    device: Device,
    image: Callable[..., ImageRequest],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    """By a backend that only looks at the graph: making kernels of it takes half a minute."""
    monkeypatch.setattr(torch, "compile", partial(torch.compile, backend="eager"))
    compiled = StableDiffusion.load(tiny_checkpoint, device, compile_options=COMPILED)
    requests = [image(seed=seed, sampler=sampler) for seed, sampler in enumerate(["ddim", "heun", "euler_a"])]
    for rows in (1, 2):
        expected = [picture.pixels for picture in tiny.render(requests, rows=rows)]
        assert np.array_equal([picture.pixels for picture in compiled.render(requests, rows=rows)], expected)
    monkeypatch.setattr(torch, "compile", None)
    uncompiled = compiled.render(requests, rows=2, compile_options=COMPILED.uncompiled())
    assert np.array_equal([picture.pixels for picture in uncompiled], expected)

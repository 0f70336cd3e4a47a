"""`memory`: peak memory of the largest attention layers, and the size of quantised weights, on the CPU."""

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from bench.harness.peak_memory import watch_memory
from bench.harness.results import Figure, at_most
from bench.harness.services import Place

if TYPE_CHECKING:
    import torch

_CHUNKS_IN_FULL = 2
_FEW_KEYS = 64


def measure(_place: Place, is_quick: bool) -> Mapping[str, Figure]:
    """Measure ratios to the memory without chunked and fused attention, and to the size of unquantised weights."""
    return {
        "vae_attention_held": _vae_attention(side=64 if is_quick else 512),
        "unet_attention_held": _unet_attention(side=64 if is_quick else 128),
        "int8_bytes": _packed(8, width=128 if is_quick else 1280),
        "int4_bytes": _packed(4, width=128 if is_quick else 1280),
    }


def _vae_attention(side: int) -> Figure:
    """Measure the VAE's mid-block attention over `side` x `side` latents, a fourth of the x4 upscaler's output side."""
    from models.diffusion.vae_attention import ChunkedAttention  # noqa: PLC0415 - imports torch

    attention = _attention(512, heads=1, norm_num_groups=32, residual_connection=True)
    with _few_keys_later():
        held = _held(attention, ChunkedAttention(), (1, 512, side, side))
    return _against_scores(held, 4 * side**4, f"{side}x{side} latents, 512 channels, 1 head", 0.05)


def _unet_attention(side: int) -> Figure:
    """Measure a UNet's first self-attention over `side` x `side` latents, an eighth of the image's side."""
    from diffusers.models.attention_processor import AttnProcessor2_0  # noqa: PLC0415

    held = _held(_attention(320, heads=8), AttnProcessor2_0(), (1, side**2, 320))
    return _against_scores(held, 8 * 4 * side**4, f"{side}x{side} latents, 320 channels, 8 heads", 0.05)


def _packed(bits: Any, width: int) -> Figure:
    """Measure the middle of Stable Diffusion's UNet (97 million weights at width 1280) with quantised weights."""
    import torch  # noqa: PLC0415
    from diffusers.models.unets.unet_2d_blocks import UNetMidBlock2DCrossAttn  # noqa: PLC0415

    from models.runtime.quantised_weights import quantise, stored_bytes  # noqa: PLC0415

    torch.manual_seed(0)
    block = UNetMidBlock2DCrossAttn(width, width, num_attention_heads=8, cross_attention_dim=768).eval()
    given = torch.randn(1, width, 8, 8), torch.randn(1, width), torch.randn(1, 77, 768)
    with torch.inference_mode():
        whole, half_bytes = block(*given), stored_bytes(block) / 2
        quantise(block, bits, "cpu")
        error = float((block(*given) - whole).norm() / whole.norm())
    what = f"float16; {width} channels of random weights, whose output differs by {error:.2%}"
    return Figure(stored_bytes(block) / half_bytes, "ratio", what, at_most({8: 0.55, 4: 0.3}[bits]))


def _attention(channels: int, heads: int, **config: Any) -> Any:
    from diffusers.models.attention_processor import Attention  # noqa: PLC0415

    return Attention(channels, heads=heads, dim_head=channels // heads, **config).eval()


def _held(attention: Any, processor: Any, shape: tuple[int, ...]) -> float:
    """Return the peak growth of the process in bytes while `processor` attends over random values."""
    import torch  # noqa: PLC0415

    hidden = torch.randn(shape)
    with torch.inference_mode(), watch_memory() as growth:
        processor(attention, hidden)
    return growth.megabytes * 1e6


def _against_scores(held: float, scores: int, what: str, bound: float) -> Figure:
    sizes = f"held: {held / 1e9:.3g} GB of float32; all scores: {scores / 1e9:.3g} GB"
    return Figure(held / scores, "ratio", f"{what}; {sizes}", at_most(bound))


@contextmanager
def _few_keys_later() -> Iterator[None]:
    """Let only the first chunks in this block attend to all keys: later ones hold as much, and take most of an hour."""
    from torch.nn import functional  # noqa: PLC0415

    name, calls = "scaled_dot_product_attention", 0
    whole = getattr(functional, name)

    def attend(query: "torch.Tensor", key: "torch.Tensor", value: "torch.Tensor") -> "torch.Tensor":
        nonlocal calls
        calls += 1
        keys = key.shape[2] if calls <= _CHUNKS_IN_FULL else _FEW_KEYS
        mixed: torch.Tensor = whole(query, key[:, :, :keys], value[:, :, :keys])
        return mixed

    setattr(functional, name, attend)
    try:
        yield
    finally:
        setattr(functional, name, whole)

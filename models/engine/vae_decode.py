"""Decode latents to pixels with the VAE, in batches of one shape, and detect defective images."""

from collections.abc import Callable, Sequence
from copy import deepcopy
from typing import Any

import torch

from models.engine.rendered_image import Defect, RenderedImage
from models.runtime import batch_invariant_cuda_convolutions
from models.runtime.compile_options import PLAIN, CompileOptions
from models.runtime.cuda_graphs_and_streams import event_now

PIXELS_AT_ONCE = 2**20

Part = tuple[torch.Tensor, torch.Tensor]


class PendingDecode:
    """Images that are being decoded on the device and copied to the host."""

    def __init__(
        self, parts: Sequence[Part], count: int, again: Callable[[int], RenderedImage] | None
    ) -> None:
        """Take `parts`, tensors on the host or being copied to it, and `again`, which decodes one image again.

        Each part is uint8 pixels (N, H, W, 3) and flags (2, N): finite and black. `again(number)` decodes that image
        in a wider number format.
        """
        self._parts, self._count, self._again, self._event = parts, count, again, _event(parts)

    @property
    def is_done(self) -> bool:
        """Whether all copies to the host are finished."""
        return self._event is None or bool(self._event.query())

    def result(self) -> list[RenderedImage]:
        """Wait for the images and return all of them."""
        if self._event is not None:
            self._event.synchronize()
        found = [
            RenderedImage(array, _defect(good, dark))
            for pixels, flags in self._parts
            for array, good, dark in zip(pixels.numpy(), *flags.tolist(), strict=True)
        ]
        return [
            self._decoded_again_if_nan(number, image) for number, image in enumerate(found[: self._count])
        ]

    def _decoded_again_if_nan(self, number: int, image: RenderedImage) -> RenderedImage:
        return self._again(number) if self._again and image.defect == "nan" else image


class Decoder:
    """The decoder of diffusers' AutoencoderKL or AutoencoderTiny.

    A float32 VAE beside a UNet in float16 `dtype` (the VAE's configuration doesn't say that float16 is safe for it) is
    run in float16, which is faster, and again in float32 for images whose values overflowed.
    """

    def __init__(self, vae: Any, dtype: torch.dtype) -> None:
        is_half = dtype == torch.float16 != vae.dtype
        self._vae = _in_half(vae) if is_half else vae
        self._wide = Decoder(vae, vae.dtype) if is_half else None
        self._compiled: Callable[[Any, torch.Tensor], Part] | None = None
        self._prepared: set[tuple[CompileOptions, int, tuple[int, ...]]] = set()
        self._factor = 2 ** (len(vae.config.block_out_channels) - 1)

    def prepare(self, shape: tuple[int, ...], *, at_once: int, compile_options: CompileOptions) -> None:
        """Replace convolutions that depend on the batch position and compile, ahead of decoding latents (C, h, w)."""
        rows = self._at_once(at_once, shape)
        if (compile_options, rows, shape) in self._prepared:
            return
        latents = torch.zeros(rows, *shape, device=self._vae.device)
        if batch_invariant_cuda_convolutions.is_needed(latents.device):
            batch_invariant_cuda_convolutions.replace_batch_dependent_convolutions(
                self._vae, lambda: _decoded(self._vae, latents)
            )
        if compile_options.vae_compiled:
            self._work(compile_options)(self._vae, latents)
        self._prepared.add((compile_options, rows, shape))

    def decode(
        self, latents: list[torch.Tensor], *, at_once: int, compile_options: CompileOptions = PLAIN
    ) -> list[RenderedImage]:
        """Decode as `start_decode` does, and wait for the images."""
        return self.start_decode(latents, at_once=at_once, compile_options=compile_options).result()

    def start_decode(
        self, latents: list[torch.Tensor], *, at_once: int, compile_options: CompileOptions = PLAIN
    ) -> PendingDecode:
        """Decode latents (C, h, w) float32 of one size into images, whose defects are detected on the device.

        Latents are decoded in batches of `at_once`, or fewer where that many have more than a million pixels together.
        The last batch is padded, so that no image depends on the number of images. Doesn't wait for the device.
        """
        at_once = self._at_once(at_once, latents[0].shape)
        filled = [*latents, *latents[-1:] * (-len(latents) % at_once)]
        work = self._work(compile_options)
        parts = [
            work(self._vae, torch.stack(filled[start : start + at_once]))
            for start in range(0, len(filled), at_once)
        ]
        sent = [(_to_host(pixels), _to_host(flags)) for pixels, flags in parts]
        return PendingDecode(sent, len(latents), self._again(latents))

    def _work(self, compile_options: CompileOptions) -> Callable[[Any, torch.Tensor], Part]:
        if not compile_options.vae_compiled:
            return _decoded
        self._compiled = self._compiled or compile_options.compile(_decoded)
        return self._compiled

    def _at_once(self, most: int, shape: Sequence[int]) -> int:
        area: int = shape[1] * shape[2] * self._factor**2
        return max(1, min(most, PIXELS_AT_ONCE // area))

    def _again(self, latents: list[torch.Tensor]) -> Callable[[int], RenderedImage] | None:
        wide = self._wide
        return None if wide is None else lambda number: wide.decode([latents[number]], at_once=1)[0]


def _in_half(vae: Any) -> Any:
    """Return a float16 copy of the VAE without its encoder."""
    encoder, vae.encoder = vae.encoder, None
    try:
        return deepcopy(vae).half()
    finally:
        vae.encoder = encoder


def _decoded(vae: Any, latents: torch.Tensor) -> Part:
    image = vae.decode((latents / vae.config.scaling_factor).to(vae.dtype), return_dict=False)[0].float()
    unit = (image.nan_to_num(0.0) / 2 + 0.5).clamp(0, 1)
    pixels = (unit * 255).round().to(torch.uint8).permute(0, 2, 3, 1).contiguous()
    finite = _all_finite(image) & _all_finite(latents)
    return pixels, torch.stack([finite, pixels.flatten(1).amax(dim=1) <= 2])


def _to_host(values: torch.Tensor) -> torch.Tensor:
    if values.device.type != "cuda":
        return values.cpu()
    return torch.empty_like(values, device="cpu", pin_memory=True).copy_(values, non_blocking=True)


def _event(parts: Sequence[Part]) -> Any:
    """Return a CUDA event that completes with the copies to pinned memory, or None if there are no such copies."""
    if not any(pixels.is_pinned() for pixels, _ in parts):
        return None
    return event_now()


def _all_finite(values: torch.Tensor) -> torch.Tensor:
    return torch.isfinite(values).flatten(1).all(dim=1)


def _defect(finite: bool, black: bool) -> Defect | None:
    if not finite:
        return "nan"
    return "black" if black else None

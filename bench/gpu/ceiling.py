"""The device's matrix multiplication speed: the limit for all other figures."""

import time

import torch

_AT_ONCE = 20


def matmul_ceiling(device: str, dtype: torch.dtype, *, size: int, duration_s: float) -> float:
    """Return the FLOP/s of square products of random matrices over `duration_s`, after a warm-up of a third of it."""
    left, right = (torch.randn(size, size, device=device).to(dtype) for _ in range(2))
    out = torch.empty_like(left)
    _multiply(left, right, out, duration_s / 3)
    return _multiply(left, right, out, duration_s)


def _multiply(left: torch.Tensor, right: torch.Tensor, out: torch.Tensor, duration_s: float) -> float:
    _wait(out)
    started, count = time.perf_counter(), 0
    while (elapsed := time.perf_counter() - started) < duration_s or not count:
        for _ in range(_AT_ONCE):
            torch.mm(left, right, out=out)
        _wait(out)
        count += _AT_ONCE
    elapsed = time.perf_counter() - started
    return 2 * left.shape[0] ** 3 * count / elapsed


def _wait(tensor: torch.Tensor) -> None:
    if tensor.is_cuda:
        torch.cuda.synchronize(tensor.device)

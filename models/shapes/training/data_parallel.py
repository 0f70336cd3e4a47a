"""Data-parallel training in several processes, which on CPUs is much faster here than threads."""

import tempfile
from collections.abc import Callable
from pathlib import Path

import torch
from torch import distributed
from torch.multiprocessing.spawn import spawn

_SEEDS_APART = 1000


def run(number: int, work: Callable[..., None], *given: object) -> None:
    """Call `work(*given)` in `number` processes of one process group, or in this process if `number` is 1."""
    if number == 1:
        work(*given)
        return
    with tempfile.TemporaryDirectory() as folder:
        spawn(_join, (number, str(Path(folder) / "meeting"), work, given), number)  # type: ignore[no-untyped-call]


def _join(rank: int, number: int, meeting: str, work: Callable[..., None], given: tuple[object, ...]) -> None:
    torch.set_num_threads(max(1, torch.get_num_threads() // number))
    distributed.init_process_group("gloo", init_method=f"file://{meeting}", rank=rank, world_size=number)
    try:
        work(*given)
    finally:
        distributed.destroy_process_group()


def size() -> int:
    """Return the number of training processes."""
    return distributed.get_world_size() if distributed.is_initialized() else 1


def is_first() -> bool:
    """Whether this is the process that writes files."""
    return not distributed.is_initialized() or distributed.get_rank() == 0


def own_seed(seed: int) -> int:
    """Return a different seed in each process, so that their rows differ."""
    return seed + (_SEEDS_APART * distributed.get_rank() if distributed.is_initialized() else 0)


def wait() -> None:
    """Wait until all processes arrive here."""
    if distributed.is_initialized():
        distributed.barrier()


@torch.no_grad()
def begin_alike(module: torch.nn.Module) -> None:
    """Copy the first process's weights to all processes."""
    if distributed.is_initialized():
        for tensor in module.state_dict().values():
            distributed.broadcast(tensor, 0)


@torch.no_grad()
def average_gradients(module: torch.nn.Module) -> None:
    """Replace each gradient by its mean over all processes, in one message."""
    if size() == 1:
        return
    found = [weight.grad for weight in module.parameters() if weight.grad is not None]
    flat = torch.cat([gradient.reshape(-1) for gradient in found])
    distributed.all_reduce(flat)
    flat /= size()
    means = flat.split_with_sizes([gradient.numel() for gradient in found])
    for gradient, mean in zip(found, means, strict=True):
        gradient.copy_(mean.view_as(gradient))

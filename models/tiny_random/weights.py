"""Random weights that depend only on a seed and the parameter's name, not on the order of creation."""

import math
import zlib

import numpy as np
import torch


def fill(module: torch.nn.Module, seed: int) -> None:
    """Fill every parameter of `module` and put it into evaluation mode.

    Matrices and kernels are normal with variance 1/fan-in (He et al. 2015, without the factor 2), embeddings normal
    with standard deviation 0.5, norms the identity, and other vectors zero.
    """
    with torch.no_grad():
        for name, parameter in module.named_parameters():
            parameter.copy_(torch.from_numpy(_values(name, tuple(parameter.shape), seed)))
    module.eval()


def _values(
    name: str, shape: tuple[int, ...], seed: int
) -> np.ndarray[tuple[int, ...], np.dtype[np.float32]]:
    if len(shape) < 2 and "class_embedding" not in name:
        return np.full(shape, 1.0 if name.endswith("weight") else 0.0, dtype=np.float32)
    deviation = 0.5 if "embedding" in name and len(shape) == 2 else 1 / math.sqrt(math.prod(shape[1:]))
    generator = np.random.default_rng([seed, zlib.crc32(name.encode())])
    return generator.standard_normal(shape, dtype=np.float32) * np.float32(deviation)

"""Frames as tiles: their mean, its frequencies, and frames filled with a tile."""

import numpy as np

from models.watermark.tiled.keyed_carriers import TILE, Carriers, Complex
from models.watermark.tiled.perceptual_analysis import Floats


def folded(plane: Floats) -> Floats:
    """Return the mean of the tiles of (h, w), the ones at the right and lower edges filled with zeros: (128, 128)."""
    height, width = plane.shape
    padded = np.zeros((-(-height // TILE) * TILE, -(-width // TILE) * TILE), np.float32)
    padded[:height, :width] = plane
    tiles = padded.reshape(-1, TILE, padded.shape[1] // TILE, TILE)
    mean: Floats = tiles.sum(axis=(0, 2)) * np.float32(TILE * TILE / (height * width))
    return mean


def frequencies(tile: Floats, at: Carriers) -> Complex:
    """Return the amplitudes (n,) of a tile at the carriers, without the carriers' phases."""
    found = np.fft.fft2(tile, norm="ortho")[at.rows, at.columns]
    return (found * at.phases.conj()).astype(np.complex64)


def tile_of(amplitudes: Complex, at: Carriers) -> Floats:
    """Return the tile whose carriers have these amplitudes: the inverse of `frequencies`."""
    spectrum = np.zeros((TILE, TILE), np.complex64)
    values = amplitudes * at.phases
    spectrum[at.rows, at.columns] = values
    spectrum[-at.rows % TILE, -at.columns % TILE] = values.conj()
    return np.ascontiguousarray(np.fft.ifft2(spectrum, norm="ortho").real.astype(np.float32))


def tiled(tile: Floats, height: int, width: int) -> Floats:
    """Fill (height, width) with a tile, from the upper left on."""
    return np.tile(tile, (-(-height // TILE), -(-width // TILE)))[:height, :width]

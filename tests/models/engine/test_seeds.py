"""All 64 bits of a seed count; those below 2**32 draw what torch draws."""

import numpy as np
import pytest
import torch

from models.runtime.padding_and_noise import draw, seeded

SMALL = [0, 1, 7, 2**31, 2**32 - 1]
LARGE = [7 + 2**32, 7 + 2**33, 7 + 2**63, 2**32, 2**63, 2**64 - 1, (7 << 32) + 1]


@pytest.mark.parametrize("seed", SMALL)
def test_seeds_of_32_bits_draw_what_torch_draws(seed: int) -> None:
    assert torch.equal(draw(seeded(seed), (4, 8, 8)), torch.randn(4, 8, 8, generator=torch.manual_seed(seed)))


def test_no_two_seeds_draw_the_same() -> None:
    noises = {seed: draw(seeded(seed), (4, 8, 8)) for seed in [*SMALL, *LARGE]}
    for seed, noise in noises.items():
        assert torch.equal(noise, draw(seeded(seed), (4, 8, 8)))
        assert not any(torch.equal(noise, other) for key, other in noises.items() if key != seed)
        assert abs(float(noise.mean())) < 0.3
        assert 0.7 < float(noise.std()) < 1.3


def test_a_large_seed_is_the_twister_of_both_its_halves() -> None:
    """Which NumPy seeds by the same published algorithm; torch's int64 of two words ends in the second."""
    twin = np.random.RandomState([7, 1])
    words = np.frombuffer(twin.bytes(4 * 32), "<u4")
    drawn = torch.randint(0, 2**31, (16,), generator=seeded(7 + 2**32)).tolist()
    assert drawn == (words[1::2] % 2**31).tolist()


def test_torchs_state_is_where_it_is_looked_for() -> None:
    words = seeded(5).get_state().view(torch.int64)[3:627].tolist()
    assert words == np.random.RandomState(5).get_state(legacy=False)["state"]["key"].tolist()

"""Noise as the trainings put it on latents is that of diffusers' samplers."""

import pytest
import torch

from models.engine.schedulers import noise_schedule
from models.shapes.training.noising import Noising, spread_steps

CPU = torch.device("cpu")


def test_velocity_is_that_of_the_schedule() -> None:
    latents, noise = torch.randn(2, 8, 4, 8, 8)
    steps, schedule = spread_steps(8, CPU), noise_schedule("v_prediction")
    found = Noising(CPU).velocity(schedule.add_noise(latents, noise, steps), latents, steps)
    assert torch.allclose(found, schedule.get_velocity(latents, noise, steps), atol=2e-4)


def test_a_stride_is_a_step_of_ddim() -> None:
    schedule = noise_schedule("v_prediction", "trailing")
    schedule.set_timesteps(4)
    noisy, velocity = torch.randn(2, 3, 4, 8, 8)
    steps, to = (torch.full((3,), step) for step in (749, 499))
    expected = schedule.step(velocity, 749, noisy).prev_sample
    assert torch.allclose(Noising(CPU).stride(noisy, velocity, steps, to), expected, atol=1e-5)


@pytest.mark.parametrize("rows", [1, 2, 64])
def test_steps_lie_one_in_each_part(rows: int) -> None:
    steps, begin = spread_steps(rows, CPU), torch.arange(rows) * 1000 / rows
    assert (steps >= begin.floor()).all()
    assert (steps < begin + 1000 / rows).all()


def test_every_second_row_comes_from_a_noisier_one_and_keeps_its_picture() -> None:
    noising, latents = Noising(CPU), torch.randn(64, 4, 8, 8)
    steps, met = spread_steps(64, CPU), {}

    def predict(noisy: torch.Tensor, before: torch.Tensor, rows: torch.Tensor) -> torch.Tensor:
        met.update(rows=rows, before=before)
        return noising.velocity(noisy, latents[rows], before)

    noisy = noising.as_sampled(latents, steps, predict)
    assert met["rows"].nonzero().flatten().tolist() == [row for row in range(1, 64, 2) if steps[row] >= 100]
    assert (met["before"] >= steps[met["rows"]]).all()
    noise = (noisy - noising.signal[steps] * latents) / noising.noise[steps]
    assert noise.std() == pytest.approx(1, abs=0.05)


def test_a_single_row_is_a_picture_with_noise() -> None:
    noising = Noising(CPU)
    noisy = noising.as_sampled(torch.zeros(1, 4, 8, 8), torch.tensor([999]), pytest.fail)
    assert noisy.shape == (1, 4, 8, 8)

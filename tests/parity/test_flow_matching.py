"""Flow matching against formulas written out again, and against diffusers' Euler scheduler."""

import numpy as np
import pytest
import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from egem.models.flow_matching import guide, integrate, interpolate, velocity_error


def reference_loss(
    velocity: np.ndarray, data: np.ndarray, noise: np.ndarray, weight: np.ndarray
) -> list[float]:
    """Value by value, in float64."""
    losses = []
    for one, clean, dirt, counts in zip(velocity, data, noise, weight, strict=True):
        total, number = 0.0, 0
        for index in np.ndindex(*one.shape):
            if counts[index]:
                total += float(one[index] - (dirt[index] - clean[index])) ** 2
                number += 1
        losses.append(total / number if number else 0.0)
    return losses


def test_loss_equals_the_formula_written_out() -> None:
    generator = torch.Generator().manual_seed(0)
    velocity, data, noise = (torch.randn(3, 4, 3, 5, generator=generator) for _ in range(3))
    weight = (torch.rand(3, 4, 3, 5, generator=generator) < 0.6).float()
    weight[2] = 0
    expected = reference_loss(velocity.numpy(), data.numpy(), noise.numpy(), weight.numpy())
    torch.testing.assert_close(velocity_error(velocity, data, noise, weight), torch.tensor(expected))
    assert expected[2] == 0.0


def test_one_weight_channel_stands_for_all() -> None:
    velocity, data, noise = (torch.randn(2, 4, 3, 5) for _ in range(3))
    weight = (torch.rand(2, 1, 3, 5) < 0.5).float()
    expected = velocity_error(velocity, data, noise, weight.expand(-1, 4, -1, -1))
    torch.testing.assert_close(velocity_error(velocity, data, noise, weight), expected)


def test_the_velocity_is_the_derivative_of_the_path() -> None:
    data, noise = torch.randn(1, 2, 3, 3, dtype=torch.float64), torch.randn(1, 2, 3, 3, dtype=torch.float64)
    early, late = (interpolate(data, noise, torch.tensor([t], dtype=torch.float64)) for t in (0.4, 0.4001))
    torch.testing.assert_close((late - early) / 0.0001, noise - data, rtol=1e-6, atol=1e-8)


@pytest.mark.parametrize("num_steps", [1, 2, 7, 30])
@pytest.mark.parametrize("shift", [1.0, 8.0])
def test_sampler_equals_diffusers_euler_scheduler(num_steps: int, shift: float) -> None:
    """Sigmas linspace(1, 1 / steps, steps), as the released GEM samples (with shift 1)."""
    scheduler = FlowMatchEulerDiscreteScheduler(shift=shift)
    scheduler.set_timesteps(sigmas=np.linspace(1.0, 1.0 / num_steps, num_steps))
    noise = torch.randn(2, 3, 4, 4, generator=torch.Generator().manual_seed(1))
    expected, seen = noise, []
    for timestep in scheduler.timesteps:
        velocity = torch.sin(expected) + timestep / 1000
        expected = scheduler.step(velocity, timestep, expected, return_dict=False)[0]

    def field(state: torch.Tensor, time: float) -> torch.Tensor:
        seen.append(1000 * time)
        return torch.sin(state) + time

    torch.testing.assert_close(
        integrate(field, noise, num_steps=num_steps, time_shift=shift), expected, rtol=1e-5, atol=1e-5
    )
    np.testing.assert_allclose(seen, scheduler.timesteps.numpy(), rtol=1e-5)


def test_exact_velocity_leads_to_the_data_in_any_number_of_steps() -> None:
    data, noise = torch.randn(1, 2, 3, 3), torch.randn(1, 2, 3, 3)
    for num_steps in (1, 3, 10):
        drawn = integrate(lambda state, time: noise - data, noise, num_steps=num_steps)
        torch.testing.assert_close(drawn, data, rtol=1e-5, atol=1e-5)


def test_guidance() -> None:
    conditional, null = torch.tensor([3.0]), torch.tensor([1.0])
    assert guide(conditional, null, 1.0).item() == 3.0
    assert guide(conditional, null, 0.0).item() == 1.0
    assert guide(conditional, null, 5.0).item() == 11.0

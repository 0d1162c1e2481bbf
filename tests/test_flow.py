"""The flow-matching conventions of Wan and of the DiT-Mem release."""

import torch
from diffusers import FlowMatchEulerDiscreteScheduler

from memkit.flow import add_noise, bell_weight, flow_loss, release_timesteps, shift_sigma


def test_sigmas_are_those_of_the_stock_scheduler():
    scheduler = FlowMatchEulerDiscreteScheduler(shift=5.0)
    ours = release_timesteps(5.0)
    torch.testing.assert_close(ours, scheduler.timesteps, rtol=1e-5, atol=1e-3)


def test_shift_fixes_the_ends_and_moves_the_rest_up():
    u = torch.linspace(0, 1, 11)
    assert torch.equal(shift_sigma(u, 1.0), u)
    shifted = shift_sigma(u, 5.0)
    assert shifted[0] == 0 and shifted[-1] == 1 and (shifted[1:-1] > u[1:-1]).all()


def test_noising_is_what_the_scheduler_does():
    x, noise, sigma = torch.randn(3, 2, 2, 2, 2), torch.randn(3, 2, 2, 2, 2), torch.tensor([0.0, 0.3, 1.0])
    noisy = add_noise(x, noise, sigma)
    assert torch.equal(noisy[0], x[0]) and torch.equal(noisy[2], noise[2])
    torch.testing.assert_close(noisy[1], 0.7 * x[1] + 0.3 * noise[1])


def test_the_true_velocity_has_no_loss_and_integrates_back_to_the_data():
    x, noise = torch.randn(2, 1, 1, 2, 2), torch.randn(2, 1, 1, 2, 2)
    assert (flow_loss(noise - x, x, noise) == 0).all()
    assert (flow_loss(x - noise, x, noise) > 0).all()
    z = noise
    for _ in range(10):
        z = z - (noise - x) / 10
    torch.testing.assert_close(z, x, rtol=1e-5, atol=1e-5)


def test_the_bell_has_mean_one_on_the_releases_timesteps_and_its_top_in_the_middle():
    grid = release_timesteps(5.0)
    weight = bell_weight(grid)
    torch.testing.assert_close(weight.mean(), torch.tensor(1.0))
    assert abs(grid[weight.argmax()] - 500) < 5 and weight.min() == 0

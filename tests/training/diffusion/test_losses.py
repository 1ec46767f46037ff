"""Targets and weights of the diffusion loss against their formulas, for noise and v prediction."""

import numpy as np
import pytest
import torch

from dgkit.diffusion.random_model import SD15_SCHEDULER
from dgkit.errors import ModelError
from dgkit.training.city.small_networks import SCHEDULER
from dgkit.training.diffusion.losses import (
    diffusion_loss,
    diffusion_target,
    draw_timestep,
    kl_loss,
    noise_schedule,
    psnr,
    reconstruction_loss,
    snr_weights,
)

EPSILON, VELOCITY = noise_schedule(SD15_SCHEDULER), noise_schedule(SCHEDULER)
TIMES = torch.tensor([0, 250, 700, 998])


def _latents():
    generator = torch.Generator().manual_seed(0)
    return torch.randn(4, 2, 3, 3, generator=generator), torch.randn(4, 2, 3, 3, generator=generator)


def test_sd15_noise_levels_are_the_published_ones():
    assert float(EPSILON.alphas_cumprod[0]) == pytest.approx(0.99915, abs=1e-5)
    assert float(EPSILON.alphas_cumprod[999]) == pytest.approx(0.0046601, abs=1e-6)


def test_a_perfect_prediction_gives_back_the_latents():
    latents, noise = _latents()
    for schedule in (EPSILON, VELOCITY):
        alpha = schedule.alphas_cumprod[TIMES].reshape(-1, 1, 1, 1)
        noisy = schedule.add_noise(latents, noise, TIMES)
        target = diffusion_target(schedule, latents, noise, TIMES)
        if schedule is EPSILON:
            found = (noisy - (1 - alpha).sqrt() * target) / alpha.sqrt()
        else:
            found = alpha.sqrt() * noisy - (1 - alpha).sqrt() * target
        assert torch.allclose(found, latents, atol=1e-3)


@pytest.mark.parametrize("schedule", [EPSILON, VELOCITY])
def test_min_snr_weights_cap_the_error_of_the_clean_image_at_gamma(schedule):
    """In terms of the clean image the loss is min(SNR, gamma) times its error, whatever is predicted."""
    snr = schedule.alphas_cumprod[TIMES] / (1 - schedule.alphas_cumprod[TIMES])
    of_the_clean_image = snr if schedule is EPSILON else snr + 1  # error of the prediction / error of the clean image
    weights = snr_weights(schedule, TIMES, 5.0)
    assert torch.allclose(weights * of_the_clean_image, snr.clamp(max=5.0), rtol=1e-3)


def test_without_gamma_all_weights_are_one():
    assert snr_weights(VELOCITY, TIMES, None).tolist() == [1, 1, 1, 1]


def test_weights_are_finite_at_zero_terminal_snr():
    assert torch.isfinite(snr_weights(VELOCITY, torch.tensor([999]), 5.0)).all()
    assert torch.isfinite(snr_weights(noise_schedule({**SCHEDULER, "prediction_type": "epsilon"}), TIMES, 5.0)).all()


def test_the_loss_is_the_weighted_mean_over_samples():
    prediction, target = torch.zeros(2, 1, 2, 2), torch.tensor([1.0, 3.0]).reshape(2, 1, 1, 1).expand(2, 1, 2, 2)
    assert float(diffusion_loss(prediction, target, torch.tensor([1.0, 1.0]))) == 5.0
    assert float(diffusion_loss(prediction, target, torch.tensor([1.0, 0.0]))) == 0.5


def test_an_unknown_prediction_type_is_refused():
    with pytest.raises(ModelError, match="'sample'"):
        noise_schedule({**SD15_SCHEDULER, "prediction_type": "sample"})


def test_timesteps_are_uniform_and_a_share_is_drawn_from_high_noise():
    def high(share: float) -> float:
        rng = np.random.default_rng(0)
        draws = np.array([draw_timestep(rng, share, 600, 1000) for _ in range(4000)])
        assert draws.min() >= 0 and draws.max() <= 999
        return float((draws >= 600).mean())

    assert high(0.0) == pytest.approx(0.4, abs=0.03)
    assert high(0.5) == pytest.approx(0.7, abs=0.03)
    assert high(1.0) == 1.0


def test_reconstruction_penalises_a_colour_shift_more_than_a_grey_one():
    target = torch.zeros(1, 3, 4, 4)
    grey, red = target + 0.3, target.clone()
    red[:, 0] += 0.9
    assert float(reconstruction_loss(grey, target, 0.5, 0.5)) == pytest.approx(0.3)
    assert float(reconstruction_loss(red, target, 0.5, 0.5)) == pytest.approx(0.3 + 0.5 * 0.9)


def test_reconstruction_penalises_edges():
    step = torch.zeros(1, 3, 4, 4)
    step[..., 2:] = 0.6  # one edge in three columns of differences
    assert float(reconstruction_loss(step, torch.zeros_like(step), 0.5, 0.0)) == pytest.approx(0.3 + 0.5 * 0.2)


def test_kl_is_zero_for_a_standard_posterior_and_matches_torch():
    mean, logvar = torch.randn(2, 3, 4, 4), torch.randn(2, 3, 4, 4)
    normal = torch.distributions.Normal
    expected = torch.distributions.kl_divergence(normal(mean, (0.5 * logvar).exp()), normal(0.0, 1.0)).mean()
    assert float(kl_loss(mean, logvar)) == pytest.approx(float(expected), rel=1e-5)
    assert float(kl_loss(torch.zeros(1), torch.zeros(1))) == 0


def test_psnr_of_an_error_of_a_tenth_of_the_range():
    assert psnr(torch.full((1, 3, 2, 2), 0.2), torch.zeros(1, 3, 2, 2)) == pytest.approx(20.0, abs=1e-3)

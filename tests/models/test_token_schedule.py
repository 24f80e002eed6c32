"""The schedule, its transitions and posteriors against explicit transition matrices and sums, in float64."""

from __future__ import annotations

import pytest
import torch
from token_matrices import K, T, bayes, log_one_hot, one_step, product, seeds

from seada_core.models.token_diffusion import (
    TokenSchedule,
    guide,
    log_posterior,
    q_sample,
    sample_categorical,
    truncate,
)


@pytest.mark.parametrize("codes", [1, 7, 1024])
def test_schedule_values(codes):
    schedule = TokenSchedule(codes)
    assert len(schedule.alpha_bar) == len(schedule.beta_bar) == len(schedule.gamma_bar) == 101
    assert all(bar.dtype == torch.float64 for bar in (schedule.alpha_bar, schedule.beta_bar, schedule.gamma_bar))
    assert (schedule.alpha_bar[0], schedule.beta_bar[0], schedule.gamma_bar[0]) == (1, 0, 0)
    assert schedule.gamma_bar[-1].item() == pytest.approx(0.9, abs=1e-4)
    assert codes * schedule.beta_bar[-1].item() == pytest.approx(0.1, abs=1e-4)
    assert 0 < schedule.alpha_bar[-1] < 1e-4
    total = schedule.alpha_bar + codes * schedule.beta_bar + schedule.gamma_bar
    torch.testing.assert_close(total, torch.ones_like(total), rtol=0, atol=1e-14)
    linear = torch.linspace(0, 0.9, 101, dtype=torch.float64)
    torch.testing.assert_close(schedule.gamma_bar, linear, rtol=2e-5, atol=0)


def test_single_steps_are_transition_matrices_whose_product_is_the_closed_form(schedule, cumulative):
    for t in range(1, T + 1):
        matrix = one_step(schedule, t)
        assert (matrix >= 0).all()
        torch.testing.assert_close(matrix.sum(1), torch.ones(K + 1, dtype=torch.float64), rtol=0, atol=1e-14)
        closed = torch.full((K + 1, K + 1), schedule.beta_bar[t].item(), dtype=torch.float64)
        closed[:K, :K] += schedule.alpha_bar[t] * torch.eye(K, dtype=torch.float64)
        closed[:, K] = schedule.gamma_bar[t]
        closed[K] = torch.eye(K + 1)[K]
        torch.testing.assert_close(cumulative[t], closed, rtol=0, atol=1e-13)


@pytest.mark.parametrize("stride", [1, 2, 7, 33, T])
def test_posterior_is_bayes_on_transition_matrices(schedule, cumulative, stride):
    """All t, all x_0, all x_t, all x_s; strides down to s = 0."""
    for t in range(1, T + 1):
        s = max(t - stride, 0)
        expected = bayes(cumulative, product(schedule, s, t), s, t)
        x_t = torch.arange(K + 1).expand(K, -1)
        log_x0 = log_one_hot(K)[:, :, None].expand(K, K, K + 1)
        actual = log_posterior(schedule, log_x0, x_t, t, s).exp().transpose(1, 2)  # (j, m, k)
        # s = 0 is exact even for pairs of probability about 1e-16, where Bayes divides by that
        torch.testing.assert_close(actual, expected, rtol=0, atol=1e-9)
        torch.testing.assert_close(actual.sum(-1), torch.ones(K, K + 1, dtype=torch.float64), rtol=0, atol=1e-9)


def test_posterior_of_a_distribution_is_the_sum_over_x0(schedule, cumulative):
    p = torch.softmax(3 * torch.randn(5, K, K + 1, dtype=torch.float64, generator=seeds(0)[0]), 1)
    x_t = torch.arange(K + 1).expand(5, -1)
    t = torch.tensor([1, 2, 40, 99, 100])
    s = torch.tensor([0, 1, 11, 50, 0])
    actual = log_posterior(schedule, p.log(), x_t, t, s).exp()
    for b in range(5):
        table = bayes(cumulative, product(schedule, s[b], t[b]), s[b], t[b])
        for n in range(K + 1):
            expected = sum(p[b, j, n] * table[j, x_t[b, n]] for j in range(K))
            torch.testing.assert_close(actual[b, :, n], expected, rtol=0, atol=1e-10)


@pytest.mark.parametrize("t, s", [(100, 60), (57, 0), (30, 27)])
def test_cross_step_is_the_composition_of_single_steps(schedule, t, s):
    """Posterior steps t -> t-1 -> ... -> s, chained by summing over the states between, for every x_0 and x_t."""
    log_x0 = log_one_hot(K)[:, :, None].expand(K, K, K + 1)
    x_t = torch.arange(K + 1).expand(K, -1)
    chain = torch.eye(K + 1, dtype=torch.float64).expand(K, -1, -1)  # (x_0, x_t, x_s)
    for step in range(t, s, -1):
        chain = chain @ log_posterior(schedule, log_x0, x_t, step, step - 1).exp().mT
    torch.testing.assert_close(log_posterior(schedule, log_x0, x_t, t, s).exp().mT, chain, rtol=0, atol=1e-9)


def test_posterior_in_float32_stays_a_distribution_with_gradients(schedule):
    big = TokenSchedule(1024, T)
    logits = (30 * torch.randn(2, 1024, 6, generator=seeds(1)[0])).requires_grad_()
    x_t = torch.tensor([[0, 5, 1023, 1024, 1024, 7]] * 2)
    for t, s in ((1, 0), (100, 99), (100, 0), (50, 25)):
        log_p = log_posterior(big, logits.log_softmax(1), x_t, t, s)
        torch.testing.assert_close(log_p.exp().sum(1), torch.ones(2, 6), rtol=0, atol=2e-5)
        assert log_p.min() >= -70
        (gradient,) = torch.autograd.grad(log_p[:, :1024].clamp(min=-60).sum(), logits)
        assert gradient.isfinite().all()
    certain = torch.zeros(1, 1024, 6).log()
    certain[:, 3] = 0
    assert log_posterior(big, certain, x_t[:1], 50, 25).isfinite().all()


@pytest.mark.parametrize("t, s", [(5, 5), (5, 6), (0, 0), (101, 3), (4, -1)])
def test_posterior_refuses_impossible_times(schedule, t, s):
    with pytest.raises(ValueError, match="0 <= s < t <= 100"):
        log_posterior(schedule, torch.zeros(1, K, 2), torch.zeros(1, 2, dtype=torch.long), t, s)


@pytest.mark.parametrize("t", [0, 1, 30, 77, 100])
def test_q_sample_frequencies_are_the_cumulative_matrix(schedule, cumulative, t):
    number = 40000
    x0 = torch.arange(K)[:, None].expand(K, number)
    x_t = q_sample(schedule, x0, torch.full((K,), t), seeds(*range(K)))
    frequency = torch.stack([torch.bincount(row, minlength=K + 1) for row in x_t]).double() / number
    expected = cumulative[t][:K]
    deviation = (expected * (1 - expected) / number).sqrt()
    assert ((frequency - expected).abs() <= 5 * deviation + 1e-12).all()


def test_q_sample_times_are_per_picture(schedule):
    torch.manual_seed(0)
    x_t = q_sample(schedule, torch.zeros(2, 5000, dtype=torch.long), torch.tensor([0, 100]))
    assert (x_t[0] == 0).all() and (x_t[1] == K).float().mean() > 0.85


def test_truncation_keeps_the_smallest_set_that_reaches_r():
    p = torch.softmax(2 * torch.randn(3, K, 50, dtype=torch.float64, generator=seeds(2)[0]), 1)
    for r in (0.05, 0.5, 0.86, 1.0):
        actual = truncate(p.log(), r).exp()
        for b in range(3):
            for n in range(50):
                kept, total = [], 0.0
                for k in sorted(range(K), key=lambda k: -p[b, k, n]):
                    if kept and total >= r:
                        break
                    kept.append(k)
                    total += p[b, k, n].item()
                expected = torch.zeros(K, dtype=torch.float64)
                expected[kept] = p[b, kept, n] / total
                torch.testing.assert_close(actual[b, :, n], expected, rtol=0, atol=1e-12)


def test_guidance_formula():
    p, free = torch.softmax(torch.randn(2, 4, K, 3, dtype=torch.float64, generator=seeds(3)[0]), 2)
    expected = free * (p / free) ** 2.5
    torch.testing.assert_close(guide(p.log(), free.log(), 2.5).exp(), expected / expected.sum(1, keepdim=True))
    torch.testing.assert_close(guide(p.log(), free.log(), 1.0).exp(), p)
    torch.testing.assert_close(guide(p.log(), free.log(), 0.0).exp(), free)


def test_categorical_frequencies():
    p = torch.tensor([0.5, 0.3, 0.2, 0.0, 1e-31])
    draws = sample_categorical(p.log().clamp(min=-70)[None, :, None].expand(1, 5, 40000), seeds(4))
    frequency = torch.bincount(draws[0], minlength=5) / 40000
    assert ((frequency - p).abs() < 5 * (p * (1 - p) / 40000).sqrt() + 1e-12).all()

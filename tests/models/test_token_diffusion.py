"""Mask-and-replace diffusion against explicit (K + 1) x (K + 1) transition matrices, sums and loops, in float64."""

from __future__ import annotations

import functools
import math

import pytest
import torch
from torch import Tensor, nn

from seada_core.models.token_diffusion import (
    TokenDiffusion,
    TokenSchedule,
    guide,
    log_posterior,
    q_sample,
    sample_categorical,
    truncate,
)
from seada_core.presets import TokenConfig

K, T = 7, 100
TINY = TokenConfig(codes=K, width=32, layers=2, heads=2, context_dim=12, steps=T, gray_channels=5)


def seeds(*numbers: int) -> list[torch.Generator]:
    return [torch.Generator().manual_seed(n) for n in numbers]


@functools.cache
def one_step(schedule: TokenSchedule, t: int) -> Tensor:
    """Q_t[i, j] = q(x_t = j | x_{t-1} = i), written out from alpha_t, beta_t, gamma_t of the cumulative values."""
    k = schedule.num_codes
    alpha = (schedule.alpha_bar[t] / schedule.alpha_bar[t - 1]).item()
    gamma = 1 - ((1 - schedule.gamma_bar[t]) / (1 - schedule.gamma_bar[t - 1])).item()
    beta = (1 - alpha - gamma) / k
    rows = [[beta + alpha * (i == j) for j in range(k)] + [gamma] for i in range(k)]
    return torch.tensor([*rows, [0] * k + [1]], dtype=torch.float64)


def product(schedule: TokenSchedule, s: int, t: int) -> Tensor:
    """q(x_t | x_s), the product of single steps."""
    matrix = torch.eye(schedule.num_codes + 1, dtype=torch.float64)
    for step in range(s + 1, t + 1):
        matrix = matrix @ one_step(schedule, step)
    return matrix


@pytest.fixture(scope="module")
def schedule() -> TokenSchedule:
    return TokenSchedule(K, T)


@pytest.fixture(scope="module")
def cumulative(schedule) -> list[Tensor]:
    matrices = [torch.eye(K + 1, dtype=torch.float64)]
    for t in range(1, T + 1):
        matrices.append(matrices[-1] @ one_step(schedule, t))
    return matrices


def log_one_hot(codes: int) -> Tensor:
    """(codes, codes): row j is log of x_0 = j."""
    return torch.eye(codes, dtype=torch.float64).log()


def bayes(cumulative: list[Tensor], between: Tensor, s: int, t: int) -> Tensor:
    """q(x_s = k | x_t = m, x_0 = j) as (j, m, k), by Bayes on matrices."""
    joint = cumulative[s][:K, None, :] * between.T[None]  # q(k | j) q(m | k)
    return joint / cumulative[t][:K, :, None]


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


class Constant(TokenDiffusion):
    """Always predicts the given logits; records the calls."""

    def __init__(self, logits: Tensor):
        super().__init__(TINY)
        self.logits = nn.Parameter(logits)
        self.calls = []

    def forward(self, x_t, t, z_tokens, gray_features, context):
        self.calls.append((x_t.clone(), t, z_tokens, context))
        return self.logits.expand(len(x_t), -1, -1)


def test_loss_is_the_hand_written_kl(schedule, cumulative):
    generator = seeds(5)[0]
    x0 = torch.randint(K, (4, 6), generator=generator)
    gray = torch.zeros(4, 5, 2, 3)
    model = Constant(torch.randn(1, K, 6, generator=generator)).eval()
    p = model.logits.detach().double().softmax(1)[0]
    for t in (1, 2, 50, 100):
        terms = model.loss(x0, x0, gray, None, t=torch.full((4,), t))
        x_t = model.calls[-1][0]
        table = bayes(cumulative, one_step(schedule, t), t - 1, t)
        kl, auxiliary = 0.0, 0.0
        for b in range(4):
            for n in range(6):
                q = table[x0[b, n], x_t[b, n]]
                p_theta = sum(p[j, n] * table[j, x_t[b, n]] for j in range(K))
                if t == 1:
                    kl -= math.log(p_theta[x0[b, n]])
                else:
                    kl += sum(a * math.log(a / c) for a, c in zip(q.tolist(), p_theta.tolist()) if a > 1e-20)
                auxiliary -= math.log(p[x0[b, n], n])
        assert terms["kl"].item() == pytest.approx(T * kl / 24, rel=1e-4, abs=1e-5)
        assert terms["auxiliary"].item() == pytest.approx(T * auxiliary / 24, rel=1e-4)
        assert terms["loss"].item() == pytest.approx((terms["kl"] + 5e-4 * terms["auxiliary"]).item(), rel=1e-6)


class Exact(TokenDiffusion):
    """The exact model for tokens of distribution p: predicts p(x_0 | x_t) by Bayes from the cumulative matrices."""

    def __init__(self, p: Tensor, cumulative: list[Tensor]):
        super().__init__(TINY)
        self.log_table = (torch.stack(cumulative)[:, :K] * p[:, None]).log().clamp(min=-100).float()  # (t, x_0, x_t)

    def forward(self, x_t, t, z_tokens, gray_features, context):
        return self.log_table[t].gather(2, x_t[:, None].expand(-1, K, -1))


def test_the_bound_is_tight_for_the_exact_model_and_importance_sampling_is_unbiased(cumulative):
    """The exact reverse process closes the variational gap: the sum of all terms is the entropy of x_0."""
    torch.manual_seed(0)
    p = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.02], dtype=torch.float64)
    entropy = -(p * p.log()).sum().item()
    x0 = torch.multinomial(p, 2000 * 16, replacement=True).view(2000, 16)
    gray, model = torch.zeros(2000, 5, 4, 4), Exact(p, cumulative).eval()
    every_t = torch.arange(2000) % T + 1
    assert model.loss(x0, x0, gray, None, t=every_t)["kl"].item() == pytest.approx(entropy, rel=0.05)
    model.log_table -= torch.linspace(0, 6, K)[None, :, None]  # a wrong model is above
    wrong = model.loss(x0, x0, gray, None, t=every_t)["kl"].item()
    assert wrong > 1.1 * entropy
    model.loss_count.fill_(100)
    model.loss_square.copy_(torch.linspace(2, 0.05, T) ** 2)
    probabilities = model.time_probabilities()
    assert probabilities.sum().item() == pytest.approx(1, abs=1e-5) and probabilities.min() >= 0.1 / T * 0.999
    assert probabilities[0] > 5 * probabilities[-1]
    assert model.loss(x0, x0, gray, None)["kl"].item() == pytest.approx(wrong, rel=0.1)


def test_importance_statistics_learn_in_training_alone_and_are_saved():
    torch.manual_seed(0)
    model = TokenDiffusion(TINY)
    x0, gray = torch.randint(K, (50, 4)), torch.randn(50, 5, 2, 2)
    model.eval().loss(x0, x0, gray, None)
    assert model.loss_count.sum() == 0
    model.train()
    for _ in range(60):
        with torch.no_grad():
            model.loss(x0, x0, gray, None)
    assert model.loss_count.sum() == 3000 and (model.loss_count > 10).all()
    probabilities = model.time_probabilities()
    assert probabilities.max() > 1.2 * probabilities.min()
    copy = TokenDiffusion(TINY)
    copy.load_state_dict(model.state_dict())
    for m in (model, copy):
        torch.manual_seed(7)
        m.result = m.loss(x0, x0, gray, None)["loss"]
    assert torch.equal(model.result, copy.result)


def test_conditions_are_dropped_at_the_stated_rates():
    torch.manual_seed(0)
    model = Constant(torch.zeros(1, K, 4)).train()
    number = 4000
    x0, gray = torch.randint(K, (number, 4)), torch.zeros(number, 5, 2, 2)
    model.loss(x0, x0, gray, torch.ones(number, 3, 12))
    _, _, z_tokens, context = model.calls[-1]
    no_z, no_text = (z_tokens == K).all(1), (context == model.null_context).all(2).all(1)
    assert no_z.float().mean().item() == pytest.approx(0.1, abs=0.02)
    assert no_text.float().mean().item() == pytest.approx(0.2, abs=0.03)
    assert (no_text | ~no_z).all() and ((context == 1).all(2).all(1) | no_text).all()
    model.eval().loss(x0, x0, gray, torch.ones(number, 3, 12))
    assert (model.calls[-1][2] == x0).all() and (model.calls[-1][3] == 1).all()


@pytest.mark.parametrize("steps", [1, 4, 25, 100])
@pytest.mark.parametrize("strength", [0.3, 1.0])
def test_an_oracle_recovers_the_truth_and_corrects_replaced_tokens(steps, strength):
    generator = seeds(6)[0]
    truth = torch.randint(K, (2, 12), generator=generator)
    wrong = (truth + 1) % K
    oracle = Constant(40.0 * nn.functional.one_hot(truth, K).mT.float())
    sampled = oracle.sample(wrong, torch.zeros(2, 5, 3, 4), None, steps, seeds(1, 2), strength=strength)
    assert torch.equal(sampled, truth)
    replaced = oracle.calls[0][0]
    assert (replaced != truth).any() and (replaced < K).any()  # the start has unmasked tokens that are wrong


def test_strides_and_start_of_sampling():
    model = Constant(torch.zeros(1, K, 400))
    z = torch.zeros(1, 400, dtype=torch.long)
    gray = torch.zeros(1, 5, 20, 20)
    tokens = model.sample(z, gray, None, 5, seeds(0), truncation=1.0)
    assert [int(t) for _, t, _, _ in model.calls] == [100, 80, 60, 40, 20]
    assert (model.calls[0][0] == K).float().mean().item() == pytest.approx(0.9, abs=0.06)
    assert tokens.min() >= 0 and tokens.max() < K
    masked = [(x == K).float().mean().item() for x, *_ in model.calls]
    assert masked == pytest.approx([0.9, 0.72, 0.54, 0.36, 0.18], abs=0.08)  # gamma_bar's own values
    model.calls.clear()
    model.sample(z, gray, None, 50, seeds(0), strength=0.1)
    assert [int(t) for _, t, _, _ in model.calls] == list(range(10, 0, -1))
    assert torch.equal(model.sample(z, gray, None, 0, seeds(0)), z)
    assert torch.equal(model.sample(z, gray, None, 9, seeds(0), strength=0.0), z)


def test_samples_have_the_true_distribution_whatever_the_number_of_steps(cumulative):
    """A chain of cross-steps with the exact prediction draws from p, even in few strides."""
    p = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.02], dtype=torch.float64)
    model = Exact(p, cumulative)
    for steps in (1, 3, 20):
        z = torch.zeros(1, 16384, dtype=torch.long)
        tokens = model.sample(z, torch.zeros(1, 5, 128, 128), None, steps, seeds(steps), truncation=1.0)
        frequency = torch.bincount(tokens[0], minlength=K) / 16384
        assert ((frequency - p).abs() < 5 * (p * (1 - p) / 16384).sqrt()).all()


def test_temperature_divides_the_logits_and_truncation_follows():
    p = torch.tensor([0.4, 0.3, 0.1, 0.1, 0.05, 0.03, 0.02])
    model = Constant(p.log()[None, :, None])
    log_p = model._log_x0(torch.full((1, 1), K), 100, (torch.zeros(1, 1, dtype=torch.long), None, None), 1.0, 1.0, 1.0)
    torch.testing.assert_close(log_p.exp()[0, :, 0], p)
    sharp = model._log_x0(torch.full((1, 1), K), 100, (torch.zeros(1, 1, dtype=torch.long), None, None), 0.8, 1.0, 1.0)
    torch.testing.assert_close(sharp.exp()[0, :, 0], p**1.25 / (p**1.25).sum())
    top = model._log_x0(torch.full((1, 1), K), 100, (torch.zeros(1, 1, dtype=torch.long), None, None), 1.0, 0.65, 1.0)
    torch.testing.assert_close(top.exp()[0, :, 0], torch.tensor([4 / 7, 3 / 7, 0, 0, 0, 0, 0]))


def random_model(seed: int = 0) -> TokenDiffusion:
    """A model without zero-initialised weights, with which conditions would have no influence."""
    torch.manual_seed(seed)
    model = TokenDiffusion(TINY).eval()
    with torch.no_grad():
        for parameter in model.parameters():
            parameter.add_(0.2 * torch.randn_like(parameter))
    return model


def test_a_batch_gives_the_same_as_its_pictures_one_by_one():
    model, generator = random_model(), seeds(8)[0]
    z = torch.randint(K, (3, 35), generator=generator)
    gray, context = torch.randn(3, 5, 5, 7, generator=generator), torch.randn(3, 4, 12, generator=generator)
    together = model.sample(z, gray, context, 7, seeds(11, 12, 11), guidance=2.0)
    for i, seed in enumerate((11, 12, 11)):
        one = slice(i, i + 1)
        assert torch.equal(model.sample(z[one], gray[one], context[one], 7, seeds(seed), guidance=2.0), together[one])
    assert not torch.equal(together[0], model.sample(z[:1], gray[:1], context[:1], 7, seeds(13), guidance=2.0)[0])


def test_every_condition_and_the_position_matter():
    model, generator = random_model(), seeds(9)[0]
    x = torch.full((1, 6), K)
    t, z = torch.tensor([60]), torch.randint(K, (1, 6), generator=generator)
    gray, context = torch.randn(1, 5, 2, 3, generator=generator), torch.randn(1, 4, 12, generator=generator)
    base = model(x, t, z, gray, context)
    assert base.shape == (1, K, 6)
    for other in (
        model(torch.where(torch.arange(6) == 2, 1, x), t, z, gray, context),
        model(x, t - 30, z, gray, context),
        model(x, t, (z + 1) % K, gray, context),
        model(x, t, z, gray + 1, context),
        model(x, t, z, gray, context.flip(2)),
        model(x, t, z, gray, None),
        model(x, t, z, gray.reshape(1, 5, 3, 2), context),  # the same sequence, other positions
    ):
        assert (base - other).abs().max() > 1e-3
    turned = model(x, t, z.view(1, 2, 3).mT.flatten(1), gray.mT, context).view(1, K, 3, 2).mT.flatten(2)
    assert (base - turned).abs().max() > 1e-3  # y and x are distinguished


@pytest.mark.parametrize("height, width", [(1, 1), (1, 9), (13, 4), (40, 40)])
def test_any_size(height, width):
    model = random_model()
    z = torch.zeros(1, height * width, dtype=torch.long)
    tokens = model.sample(z, torch.randn(1, 5, height, width, generator=seeds(0)[0]), None, 3, seeds(0))
    assert tokens.shape == z.shape and tokens.min() >= 0 and tokens.max() < K


def test_bad_values_are_refused():
    model, z, gray = random_model(), torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 5, 2, 2)
    for match, arguments, options in (
        ("steps must be 0 to 100", (z, gray, None, -1, seeds(0)), {}),
        ("steps must be 0 to 100", (z, gray, None, 101, seeds(0)), {}),
        ("temperature", (z, gray, None, 5, seeds(0)), {"temperature": 0.0}),
        ("truncation", (z, gray, None, 5, seeds(0)), {"truncation": 0.0}),
        ("strength", (z, gray, None, 5, seeds(0)), {"strength": 1.5}),
        ("one generator per picture", (z, gray, None, 5, seeds(0, 1)), {}),
        (r"must be \(1, 4\), one token for each position", (z[:, :3], gray, None, 5, seeds(0)), {}),
    ):
        with pytest.raises(ValueError, match=match):
            model.sample(*arguments, **options)
    with pytest.raises(ValueError, match="multiple of 4"):
        TokenDiffusion(TokenConfig(codes=K, width=30, heads=3))


def test_tiny_training_learns_tokens_from_their_conditions():
    """Four pictures that differ only in their text, with half of their z_c tokens wrong: sampling restores them."""
    torch.manual_seed(0)
    model = TokenDiffusion(TINY).train()
    x0 = torch.randint(K, (4, 12))
    z = torch.where(torch.rand(4, 12) < 0.5, torch.randint(K, (4, 12)), x0)
    gray, context = torch.randn(1, 5, 3, 4).expand(4, -1, -1, -1), torch.randn(4, 3, 12)
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    before = model.eval().loss(x0, z, gray, context, t=torch.tensor([5, 30, 60, 90]))["kl"].item()
    model.train()
    reached = set()  # the empty text's embedding only gets gradients from batches in which a text was dropped
    for _ in range(250):
        optimizer.zero_grad()
        model.loss(*(a.repeat(4, *[1] * (a.ndim - 1)) for a in (x0, z, gray, context)))["loss"].backward()
        reached |= {name for name, p in model.named_parameters() if p.grad is not None and p.grad.abs().sum() > 0}
        nn.utils.clip_grad_norm_(model.parameters(), 1.0)
        optimizer.step()
    after = model.eval().loss(x0, z, gray, context, t=torch.tensor([5, 30, 60, 90]))["kl"].item()
    assert after < 0.1 * before
    assert reached == {name for name, _ in model.named_parameters()}
    sampled = model.sample(z, gray, context, 20, seeds(1, 2, 3, 4))
    assert (sampled == x0).float().mean() > 0.95 > (z == x0).float().mean()

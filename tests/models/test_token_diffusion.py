"""Mask-and-replace diffusion against explicit (K + 1) x (K + 1) transition matrices, sums and loops, in float64."""

from __future__ import annotations

import math

import pytest
import torch
from token_matrices import TINY, K, T, bayes, one_step, seeds
from torch import Tensor, nn

from seada_core.models.token_diffusion import (
    TokenDiffusion,
)
from seada_core.presets import TokenConfig


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


@pytest.mark.slow
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


def test_started_from_a_codebook_it_predicts_the_given_token_and_then_its_neighbours():
    torch.manual_seed(0)
    side = 8
    codebook = (
        torch.stack(torch.meshgrid(torch.arange(side), torch.arange(side), indexing="ij"), -1).flatten(0, 1) * 0.3
    )
    model = TokenDiffusion(TokenConfig(codes=side**2, width=128, layers=1, heads=4, context_dim=12, gray_channels=5))
    model.start_from(codebook)
    tokens = torch.arange(side**2)[None]
    logits = model.eval()(tokens, torch.ones(1), tokens, torch.zeros(1, 5, side, side), None)[0].mT  # (N, K)
    assert (logits.argmax(1) == tokens[0]).float().mean() > 0.9
    apart = (codebook[:, None] - codebook[None]).norm(dim=2)
    near, middle, far = (
        logits[(apart > low) & (apart < high)].mean() for low, high in ((0.2, 0.4), (0.6, 1), (1.5, 9))
    )
    assert logits.diagonal().mean() > near + 0.3 > middle + 0.6 > far + 0.9


@pytest.mark.parametrize("different", [1, 3])
def test_a_codebook_may_repeat_its_codes(different):
    """Few and small pictures give a codebook of which most codes are the same."""
    model = TokenDiffusion(TokenConfig(codes=16, width=32, layers=1, heads=4, context_dim=12, gray_channels=5))
    codebook = torch.randn(different, 4, generator=torch.Generator().manual_seed(0))
    model.start_from(codebook[torch.arange(16).clamp(max=different - 1)])
    weights = model.embed.weight
    assert weights.isfinite().all() and model.head.weight.isfinite().all()
    assert torch.equal(weights[different - 1], weights[-2])
    assert different == 1 or (weights[0] - weights[1]).norm() > 0.5

"""Mask-and-replace diffusion over the decoder's codebook tokens: EDN Eq. 6, after VQ-Diffusion (Gu et al. 2022).

K codes are 0..K-1 and the mask token is K. A step keeps a token with probability alpha + beta, replaces it by any other
code with beta each, and masks it with gamma; a mask stays. The network predicts the clean tokens from a noisy token
map, given the tokens of the colour latent of the first diffusion (z_c), grey features and text.
"""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..presets import TokenConfig

LOG_ZERO = -70.0  # below any probability that matters, above what float32 loses in exp
COPIED = 12.0  # logits by which an untrained network prefers a token that it is given, see `TokenDiffusion.start_from`
UNIFORM_SHARE = 0.1  # of the draws of t are uniform, which bounds the importance weights to 10


class TokenSchedule:
    """Cumulative probabilities of mask-and-replace diffusion; float64, `steps + 1` long, index 0 is clean.

    After t steps a token is masked with `gamma_bar[t]`, unchanged with `alpha_bar[t]`, or resampled from all K codes
    with `beta_bar[t]` each: alpha_bar + K beta_bar + gamma_bar = 1. All are linear in t; at the end 0.9 of the tokens
    are masked and 0.1 uniform, except for a small alpha_bar that keeps every ratio finite.
    """

    def __init__(self, num_codes: int, steps: int = 100, mask: float = 0.9, trace: float = 1e-5):
        if num_codes < 1 or steps < 1:
            raise ValueError(f"a token schedule needs at least one code and one step, got {num_codes} and {steps}")
        self.num_codes = num_codes
        self.steps = steps
        # on the CPU even where a model is being built without memory
        gone = (1 - trace) * torch.arange(steps + 1, dtype=torch.float64, device="cpu") / steps
        self.alpha_bar = 1 - gone
        self.gamma_bar = mask * gone
        self.beta_bar = (1 - mask) * gone / num_codes

    def between(self, t: Tensor, s: Tensor) -> tuple[Tensor, Tensor, Tensor]:
        """alpha, beta, gamma of the transition from s to t, s <= t: one step of it, or many at once."""
        alpha = self.alpha_bar[t] / self.alpha_bar[s]
        gamma = 1 - (1 - self.gamma_bar[t]) / (1 - self.gamma_bar[s])
        return alpha, (1 - alpha - gamma) / self.num_codes, gamma


def _rand(shape: Sequence[int], generators: Sequence[torch.Generator] | None, device: torch.device) -> Tensor:
    """Uniform float32 in [0, 1): row i from its own generator, so that draws do not depend on the batch."""
    if generators is None:
        return torch.rand(*shape, device=device)
    return torch.stack([torch.rand(*shape[1:], generator=g, device=g.device).to(device) for g in generators])


def _times(t: int | Tensor, batch: int) -> Tensor:
    """(B,) long on the CPU, which always supports float64."""
    return torch.as_tensor(t, dtype=torch.long, device="cpu").expand(batch)


def q_sample(
    schedule: TokenSchedule, x0: Tensor, t: int | Tensor, generators: Sequence[torch.Generator] | None = None
) -> Tensor:
    """x_t ~ q(x_t | x_0): tokens (B, N) long in 0..K-1 to (B, N) in 0..K, at times t, a number or (B,) in 0..T.

    generators: one for each picture; None draws from torch's global generator.
    """
    times = _times(t, len(x0))
    draws = _rand((len(x0), 2, x0.shape[1]), generators, x0.device)
    fate, code = draws.unbind(1)
    keep = schedule.alpha_bar[times].to(fate)[:, None]
    unmasked = (1 - schedule.gamma_bar[times]).to(fate)[:, None]
    uniform = (code * schedule.num_codes).long().clamp(max=schedule.num_codes - 1)  # float32 may round up to K
    return torch.where(fate < keep, x0, torch.where(fate < unmasked, uniform, schedule.num_codes))


def log_posterior(schedule: TokenSchedule, log_x0: Tensor, x_t: Tensor, t: int | Tensor, s: int | Tensor) -> Tensor:
    """log of the sum over x_0 of q(x_s | x_t, x_0) p(x_0), for any 0 <= s < t: (B, K + 1, N), the mask last.

    With log_x0 a (log) one-hot this is the posterior itself; with the network's prediction it is p_theta(x_s | x_t).
    Exact for strides over many steps, in closed form, without any K x K table.

    log_x0: (B, K, N) log-probabilities; x_t: (B, N) in 0..K; t, s: numbers or (B,).
    """
    batch, num_codes, _ = log_x0.shape
    t, s = _times(t, batch), _times(s, batch)
    if not ((s >= 0) & (s < t) & (t <= schedule.steps)).all():
        raise ValueError(f"times must be 0 <= s < t <= {schedule.steps}, got s = {s.tolist()}, t = {t.tolist()}")

    def log(probability: Tensor) -> Tensor:
        return probability.clamp(min=0).log().to(log_x0)[:, None, None]

    alpha, beta, gamma = schedule.between(t, s)
    alpha_t, beta_t, gamma_t = schedule.alpha_bar[t], schedule.beta_bar[t], schedule.gamma_bar[t]
    alpha_s, beta_s, gamma_s = schedule.alpha_bar[s], schedule.beta_bar[s], schedule.gamma_bar[s]

    x_t = x_t[:, None]
    masked = x_t == num_codes  # (B, 1, N)
    own = x_t == torch.arange(num_codes, device=x_t.device)[:, None]  # (B, K, N)
    # w_j = p(x_0 = j) / q(x_t | x_0 = j);  p(x_s = k) = q(x_t | x_s = k) (alpha_bar_s w_k + beta_bar_s sum_j w_j)
    likelihood_0 = torch.where(own, log(alpha_t + beta_t), torch.where(masked, log(gamma_t), log(beta_t)))
    likelihood_s = torch.where(own, log(alpha + beta), torch.where(masked, log(gamma), log(beta)))
    log_w = log_x0.clamp(min=LOG_ZERO) - likelihood_0
    log_sum = log_w.logsumexp(1, keepdim=True)
    codes = torch.logaddexp(log_w + log(alpha_s), log_sum + log(beta_s)) + likelihood_s
    mask = torch.where(masked, log_sum + log(gamma_s), -torch.inf)
    return torch.cat([codes, mask], 1).clamp(min=LOG_ZERO)


def truncate(log_p: Tensor, r: float) -> Tensor:
    """Keep the likeliest codes (dim 1) until their probabilities reach r, at least one; the rest goes to 0."""
    ordered, order = log_p.sort(dim=1, descending=True)
    before = ordered.exp().cumsum(1) - ordered.exp()
    dropped = torch.zeros_like(before, dtype=torch.bool).scatter_(1, order, before >= r)
    dropped.scatter_(1, order[:, :1], False)
    return log_p.masked_fill(dropped, -torch.inf).log_softmax(1).clamp(min=LOG_ZERO)


def guide(log_p: Tensor, log_p_free: Tensor, scale: float) -> Tensor:
    """Classifier-free guidance on log-probabilities over dim 1: free + scale (conditional - free), normalised."""
    return torch.lerp(log_p_free, log_p, scale).log_softmax(1)


def sample_categorical(log_p: Tensor, generators: Sequence[torch.Generator] | None) -> Tensor:
    """One draw over dim 1 of (B, K, N), by the Gumbel-max trick; each picture with its own generator."""
    uniform = _rand(log_p.shape, generators, log_p.device)
    return (log_p - (-uniform.log()).log()).argmax(1)


def rotary_angles(height: int, width: int, head_dim: int, device: torch.device) -> tuple[Tensor, Tensor]:
    """cos and sin, (h * w, head_dim / 2), of 2-D rotary positions: half of the pairs rotate with y, half with x.

    The wavelengths run from 6 to about 600 tokens: attention depends on offsets alone, so any picture size works.
    """
    frequency = 100.0 ** -torch.linspace(0, 1, head_dim // 4, device=device)
    y = torch.arange(height, device=device)[:, None, None] * frequency
    x = torch.arange(width, device=device)[None, :, None] * frequency
    angle = torch.cat([y.expand(height, width, -1), x.expand(height, width, -1)], -1).flatten(0, 1)
    return angle.cos(), angle.sin()


def rotate(x: Tensor, angles: tuple[Tensor, Tensor]) -> Tensor:
    """Rotate the pairs (i, i + d/2) of (B, heads, N, d) by their positions' angles."""
    cos, sin = (a.to(x.dtype) for a in angles)
    a, b = x.chunk(2, -1)
    return torch.cat([a * cos - b * sin, a * sin + b * cos], -1)


def time_embedding(t: Tensor, width: int) -> Tensor:
    """Sinusoids (B, width) of the step numbers t (B,)."""
    frequency = torch.exp(-math.log(10000) * torch.arange(width // 2, device=t.device) / (width // 2))
    angle = t[:, None] * frequency
    return torch.cat([angle.cos(), angle.sin()], -1)


class TokenBlock(nn.Module):
    """Self-attention and MLP modulated by time (AdaLN, starting at zero), text cross-attention between them."""

    def __init__(self, width: int, heads: int, context_dim: int):
        super().__init__()
        self.heads = heads
        self.norm = nn.LayerNorm(width, elementwise_affine=False)
        self.qkv = nn.Linear(width, 3 * width)
        self.proj = nn.Linear(width, width)
        self.cross_norm = nn.LayerNorm(width)
        self.cross_q = nn.Linear(width, width)
        self.cross_kv = nn.Linear(context_dim, 2 * width)
        self.cross_proj = nn.Linear(width, width)
        self.mlp = nn.Sequential(nn.Linear(width, 4 * width), nn.GELU(approximate="tanh"), nn.Linear(4 * width, width))
        self.modulation = nn.Parameter(torch.zeros(6, width))  # added to the modulation that all blocks share
        nn.init.zeros_(self.cross_proj.weight)
        nn.init.zeros_(self.cross_proj.bias)

    def _heads(self, x: Tensor) -> Tensor:
        return x.unflatten(-1, (self.heads, -1)).transpose(1, 2)

    def forward(self, h: Tensor, modulation: Tensor, angles: tuple[Tensor, Tensor], context: Tensor) -> Tensor:
        shift, scale, gate, shift_mlp, scale_mlp, gate_mlp = (modulation + self.modulation)[:, :, None].unbind(1)
        q, k, v = map(self._heads, self.qkv(self.norm(h) * (1 + scale) + shift).chunk(3, -1))
        attended = F.scaled_dot_product_attention(rotate(q, angles), rotate(k, angles), v)
        h = h + gate * self.proj(attended.transpose(1, 2).flatten(2))
        k, v = map(self._heads, self.cross_kv(context).chunk(2, -1))
        attended = F.scaled_dot_product_attention(self._heads(self.cross_q(self.cross_norm(h))), k, v)
        h = h + self.cross_proj(attended.transpose(1, 2).flatten(2))
        return h + gate_mlp * self.mlp(self.norm(h) * (1 + scale_mlp) + shift_mlp)


class TokenDiffusion(nn.Module):
    """The network of EDN Eq. 6, a transformer over N = h * w tokens of any h and w, with its loss and its sampler.

    Conditions: z_tokens (B, N) of the first diffusion's colour latent (K where not given), grey features
    (B, gray_channels, h, w) at 1/8 of the picture, and text context (B, L, context_dim), or None.
    """

    loss_square: Tensor
    loss_count: Tensor

    def __init__(self, config: TokenConfig):
        super().__init__()
        if config.width % (4 * config.heads):
            raise ValueError(f"width must be a multiple of 4 * heads (2-D rotary), got {config.width}, {config.heads}")
        self.config = config
        self.schedule = TokenSchedule(config.codes, config.steps)
        width = config.width
        self.embed = nn.Embedding(config.codes + 1, width)
        self.embed_z = nn.Embedding(config.codes + 1, width)
        self.embed_gray = nn.Conv2d(config.gray_channels, width, 1)
        self.embed_time = nn.Sequential(nn.Linear(width, width), nn.SiLU(), nn.Linear(width, width), nn.SiLU())
        self.modulation = nn.Linear(width, 6 * width)
        self.null_context = nn.Parameter(torch.zeros(1, 1, config.context_dim))
        self.blocks = nn.ModuleList(TokenBlock(width, config.heads, config.context_dim) for _ in range(config.layers))
        self.norm = nn.LayerNorm(width)
        self.head = nn.Linear(width, config.codes)
        for zero in (self.modulation, self.head):
            nn.init.zeros_(zero.weight)
            nn.init.zeros_(zero.bias)
        for embedding in (self.embed, self.embed_z):
            nn.init.normal_(embedding.weight, std=0.5)
        # For importance sampling of t: buffers, so that a resumed training draws the same t. Index 0 is t = 1.
        self.register_buffer("loss_square", torch.zeros(config.steps))
        self.register_buffer("loss_count", torch.zeros(config.steps))

    @torch.no_grad()
    def start_from(self, codebook: Tensor) -> None:
        """Before training, make codes that lie close together in the codebook (K, code_dim) look alike.

        Embeddings and the last layer become random Fourier features of the codes (Rahimi and Recht 2007), of which the
        product falls with the codes' distance: from the start the network predicts the token that it is given, and its
        neighbours. From random embeddings it has to learn from examples which of the K codes are near each other.
        """
        codes = codebook.float()
        distinct = codes.unique(dim=0)  # a codebook of few pictures repeats its codes
        some = distinct[:: max(1, len(distinct) // 256)]
        apart = torch.cdist(distinct, some, compute_mode="donot_use_mm_for_euclid_dist").sort(0).values  # 0 comes first
        spacing = apart[1].median() if len(distinct) > 1 else codes.new_ones(())
        number = -(-self.config.width // 2)
        generator = torch.Generator().manual_seed(0)
        widths = spacing * torch.logspace(0, 3, number, base=2.0).to(codes)  # from the spacing to eight times as wide
        angles = codes @ (torch.randn(number, codes.shape[1], generator=generator).to(codes) / widths[:, None]).mT
        features = torch.cat([angles.cos(), angles.sin()], 1)[:, : self.config.width]
        for embedding in (self.embed, self.embed_z):
            embedding.weight[:-1] = features / 2**0.5  # of the same size as random ones; the mask's stays
        self.head.weight.copy_(features * (COPIED / (0.7 * self.config.width)))

    def forward(
        self, x_t: Tensor, t: Tensor, z_tokens: Tensor, gray_features: Tensor, context: Tensor | None
    ) -> Tensor:
        """Logits (B, K, N) of the clean tokens; x_t (B, N) in 0..K, t (B,)."""
        batch, _, height, width = gray_features.shape
        for name, tokens in (("x_t", x_t), ("z_tokens", z_tokens)):
            if tokens.shape != (batch, height * width):
                raise ValueError(
                    f"{name} must be ({batch}, {height * width}), one token for each position of the {height} x {width}"
                    f" grey features, got {tuple(tokens.shape)}"
                )
        if context is None:
            context = self.null_context.expand(batch, -1, -1)
        h = self.embed(x_t) + self.embed_z(z_tokens) + self.embed_gray(gray_features).flatten(2).mT
        time = self.embed_time(time_embedding(t, h.shape[-1]).to(h.dtype))
        modulation = self.modulation(time).unflatten(-1, (6, -1))
        angles = rotary_angles(height, width, h.shape[-1] // self.config.heads, h.device)
        for block in self.blocks:
            h = block(h, modulation, angles, context)
        return self.head(self.norm(h)).mT

    def time_probabilities(self) -> Tensor:
        """(T,) chances of drawing t = 1..T: proportional to the rms loss at t (VQ-Diffusion), uniform at first."""
        uniform = torch.full_like(self.loss_square, 1 / self.config.steps)
        if (self.loss_count <= 10).any():
            return uniform
        rms = self.loss_square.sqrt() + 1e-6
        return torch.lerp(rms / rms.sum(), uniform, UNIFORM_SHARE)

    def _remember(self, kl: Tensor, t: Tensor) -> None:
        hit = F.one_hot(t - 1, self.config.steps).to(kl)  # a scatter's order varies on a GPU
        sums = torch.stack([hit.sum(0), (kl.square()[:, None] * hit).sum(0)])
        if torch.distributed.is_initialized():  # all processes draw t from the same loss statistics
            torch.distributed.all_reduce(sums)
        number, squares = sums
        mean = squares / number.clamp(min=1)
        rate = torch.where(self.loss_count == 0, 1.0, 0.1) * (number > 0)
        self.loss_square.lerp_(mean, rate)
        self.loss_count.add_(number)

    def loss(
        self,
        x0: Tensor,
        z_tokens: Tensor,
        gray_features: Tensor,
        context: Tensor | None,
        t: Tensor | None = None,
        generators: Sequence[torch.Generator] | None = None,
    ) -> dict[str, Tensor]:
        """Scalar terms of the variational bound, in nats a token.

        `kl`, an unbiased estimate of sum_t KL(q(x_{t-1} | x_t, x_0) || p_theta(x_{t-1} | x_t)), whose term t = 1 is the
        negative log-likelihood; `auxiliary`, the same with KL(x_0 || p_theta(x_0 | x_t)); `loss`, their weighted sum;
        `accuracy`, the share of clean tokens that the network predicts correctly (no gradient).

        x0: (B, N) clean tokens. t: (B,) in 1..T; None uses importance sampling. generators: one per picture, on the
        CPU; None draws from torch's global generator. In training mode the conditions are dropped at random (text
        alone, or text and z_tokens), for guidance and for use without text, and the statistics for t are updated.
        """
        batch = len(x0)
        probabilities = self.time_probabilities()
        if t is None:
            u = _rand((batch, 1), generators, x0.device).double()
            t = torch.searchsorted(probabilities.double().cumsum(0), u).clamp(max=self.config.steps - 1)[:, 0] + 1
            weight = 1 / (self.config.steps * probabilities[t - 1])
        else:
            weight = torch.ones_like(probabilities[t - 1])
        if self.training:
            chance = _rand((batch, 1), generators, x0.device)[:, 0]
            dropout = self.config.condition_dropout
            z_tokens = torch.where((chance < dropout)[:, None], self.config.codes, z_tokens)
            if context is not None:
                context = torch.where((chance < 2 * dropout)[:, None, None], self.null_context, context)

        x_t = q_sample(self.schedule, x0, t, generators)
        log_hat = self(x_t, t, z_tokens, gray_features, context).float().log_softmax(1)
        with torch.no_grad():
            log_true = F.one_hot(x0, self.config.codes).mT.to(log_hat).log()
            log_q = log_posterior(self.schedule, log_true, x_t, t, t - 1)
        log_p = log_posterior(self.schedule, log_hat, x_t, t, t - 1)
        kl = (log_q.exp() * (log_q - log_p)).sum(1).mean(1)
        auxiliary = F.nll_loss(log_hat, x0, reduction="none").mean(1)
        if self.training:
            self._remember(kl.detach(), t)

        scale = self.config.steps * weight / batch
        kl, auxiliary = (kl * scale).sum(), (auxiliary * scale).sum()
        return {
            "loss": kl + self.config.auxiliary_weight * auxiliary,
            "kl": kl,
            "auxiliary": auxiliary,
            "accuracy": (log_hat.argmax(1) == x0).float().mean(),
        }

    def _log_x0(
        self, x_t: Tensor, t: int, conditions: tuple, temperature: float, truncation: float, guidance: float
    ) -> Tensor:
        z_tokens, gray_features, context = conditions
        times = torch.full((len(x_t),), t, device=x_t.device)
        log_hat = (self(x_t, times, z_tokens, gray_features, context).float() / temperature).log_softmax(1)
        if guidance != 1:
            free = torch.full_like(z_tokens, self.config.codes)
            log_free = (self(x_t, times, free, gray_features, None).float() / temperature).log_softmax(1)
            log_hat = guide(log_hat, log_free, guidance)
        return truncate(log_hat, truncation)

    @torch.no_grad()
    def sample(
        self,
        z_tokens: Tensor,
        gray_features: Tensor,
        context: Tensor | None,
        steps: int,
        generators: Sequence[torch.Generator],
        *,
        temperature: float = 1.0,
        truncation: float = 0.86,
        guidance: float = 1.0,
        strength: float = 1.0,
    ) -> Tensor:
        """Tokens (B, N) in 0..K-1 drawn by `steps` exact strides of the reverse process; 0 steps give z_tokens.

        The process starts from z_tokens diffused to `strength` of the way; at 1, that is pure noise (0.9 mask, 0.1
        uniform) and z_tokens act only as a condition. `temperature` (above 0) divides the logits, `truncation` is the
        share r of probability that is kept, in (0, 1]; `guidance` applies to z_tokens and text together, 1 is off.
        generators: one per picture, so that a batch gives the same results as single pictures.

        Raises ValueError for values outside these ranges.
        """
        if not 0 <= steps <= self.config.steps:
            raise ValueError(f"token steps must be 0 to {self.config.steps}, got {steps}")
        if temperature <= 0:
            raise ValueError(f"temperature must be above 0, got {temperature}")
        if not 0 < truncation <= 1:
            raise ValueError(f"truncation must be above 0 and at most 1, got {truncation}")
        if not 0 <= strength <= 1:
            raise ValueError(f"strength must be 0 to 1, got {strength}")
        if len(generators) != len(z_tokens):
            raise ValueError(f"expected one generator per picture, {len(z_tokens)} in all, got {len(generators)}")
        start = round(strength * self.config.steps)
        if steps == 0 or start == 0:
            return z_tokens
        strides = min(steps, start)
        times = [round(start * i / strides) for i in range(strides, -1, -1)]
        conditions = (z_tokens, gray_features, context)
        x = q_sample(self.schedule, z_tokens, start, generators)
        for t, s in itertools.pairwise(times):
            log_x0 = self._log_x0(x, t, conditions, temperature, truncation, guidance)
            x = sample_categorical(log_posterior(self.schedule, log_x0, x, t, s), generators)
        return x

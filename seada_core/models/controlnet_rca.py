"""SeAda's controller (Fig. 4): mapper, conditional encoder and representation cross-attention (RCA)."""

from __future__ import annotations

import copy
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import torch
import torch.nn.functional as F
from einops import rearrange
from torch import Tensor, nn

from ..color.sizes import size_of
from ..presets import ControlConfig
from .backbone import FewerLaunches, Fixed, Modules, decoder_sites, encode, encoder_features, time_embedding
from .efficientnet import CHANNELS, EfficientNetLite0

if TYPE_CHECKING:
    from .unet import UNet


class Mapper(nn.Sequential):
    """Condition picture (B, 3, 8h, 8w) in [0, 1] to c_f (B, out_channels, h, w).

    The paper's "four convolutions, 4x4, stride 2, 512 -> 64" is inconsistent: here three have stride 2, the fourth 1.
    """

    def __init__(self, in_channels: int = 3, channels: tuple[int, ...] = (16, 32, 64), out_channels: int = 4):
        layers: list[nn.Module] = []
        for width in channels:
            layers += [nn.Conv2d(in_channels, width, 4, stride=2, padding=1), nn.SiLU()]
            in_channels = width
        # an even kernel keeps the size if the padding has one more row below and column to the right
        super().__init__(*layers, nn.ZeroPad2d((1, 2, 1, 2)), nn.Conv2d(in_channels, out_channels, 4))

    def forward(self, picture: Tensor) -> Tensor:
        return super().forward(picture * 2 - 1)


def recognize(classifier: EfficientNetLite0, picture: Tensor) -> list[Tensor]:
    """The classifier's maps of a picture (B, 3, 8h, 8w) in [0, 1]: (B, 112, h, w) and (B, 320, h / 2, w / 2).

    The picture is enlarged twofold, so that the map at 1/16 has a latent's size. Gradients are kept only for a
    trainable classifier, see `EfficientNetLite.learn`.
    """
    learns = any(p.requires_grad for p in classifier.parameters())
    with torch.set_grad_enabled(learns and torch.is_grad_enabled()):
        return classifier(F.interpolate(picture, scale_factor=2, mode="bilinear"))


class RecognizingMapper(nn.Module):
    """A mapper that also takes a classifier's features of the picture, which a small model without SD's prior needs.

    Where the classifier is frozen, its maps of a training photo are computed only once.
    """

    def __init__(self, config: ControlConfig):
        super().__init__()
        width = config.recognition_width
        self.picture = Mapper(config.condition_channels, config.mapper_channels, width)
        self.classifier = EfficientNetLite0()
        self.maps = nn.ModuleList(nn.Conv2d(channels, width, 1) for channels in CHANNELS)
        self.blocks = nn.ModuleList(
            nn.Sequential(
                nn.SiLU(), nn.Conv2d(width, width, 3, padding=1), nn.SiLU(), nn.Conv2d(width, width, 3, padding=1)
            )
            for _ in range(config.recognition_blocks)
        )
        self.out = nn.Conv2d(width, config.condition_latent, 3, padding=1)

    def forward(self, picture: Tensor, recognized: list[Tensor] | None = None) -> Tensor:
        """Picture (B, 3, 8h, 8w) in [0, 1], and its maps where they are known, to c_f (B, condition_latent, h, w)."""
        x = self.picture(picture)
        recognized = recognize(self.classifier, picture) if recognized is None else recognized
        for convolution, seen in zip(self.maps, recognized):
            x = x + F.interpolate(convolution(seen.to(x.dtype)), size=x.shape[-2:], mode="bilinear")
        for block in self.blocks:
            x = x + block(x)
        return self.out(F.silu(x))


class ConditionalEncoder(nn.Module):
    """E_con: a trainable copy of a UNet's encoder that also takes c_f, through a widened `conv_in`.

    The columns of `conv_in` for z_t keep the UNet's weights and those for c_f start at zero; the mapper's last layer
    does not, or no gradient would ever reach either.
    """

    def __init__(self, unet: UNet, condition_latent: int = 4):
        super().__init__()
        old: Any = unet.conv_in
        self.conv_in = nn.Conv2d(
            old.in_channels + condition_latent, old.out_channels, old.kernel_size, padding=old.padding
        )
        with torch.no_grad():
            self.conv_in.weight.zero_()
            self.conv_in.weight[:, : old.in_channels] = old.weight
            self.conv_in.get_parameter("bias").copy_(old.bias)
        self.time_proj = copy.deepcopy(unet.time_proj)
        self.time_embedding = copy.deepcopy(unet.time_embedding)
        self.down_blocks = copy.deepcopy(unet.down_blocks)
        self.mid_block = copy.deepcopy(unet.mid_block)

    def forward(
        self, z_t: Tensor, timesteps: Tensor, context: Tensor, c_f: Tensor, fixed: Fixed | None = None
    ) -> list[Tensor]:
        """Features at every resolution, see `backbone.encode`; with `fixed`, timesteps and context are not used."""
        x = torch.cat([z_t, c_f], dim=1)
        if fixed is not None:
            return encode(self, x, FewerLaunches(self, fixed))
        return encode(self, x, Modules(time_embedding(self, timesteps.expand(x.shape[0]), x.dtype), context))


class RCA(nn.Module):
    """Representation cross-attention: the decoder's state attends to the controller's feature (PASD; SeAda Fig. 4).

    Query (B, C, h, w); key and value come from a feature (B, C', h, w) of the same resolution, taken before any zero
    convolution. Residual with a zero-initialised projection: at the start it changes nothing.
    """

    def __init__(self, channels: int, feature_channels: int, head_dim: int = 64, groups: int = 32):
        super().__init__()
        self.heads = max(1, channels // head_dim)
        self.norm_h = nn.GroupNorm(groups, channels)
        self.norm_f = nn.GroupNorm(groups, feature_channels)
        self.to_q = nn.Linear(channels, channels, bias=False)
        self.to_k = nn.Linear(feature_channels, channels, bias=False)
        self.to_v = nn.Linear(feature_channels, channels, bias=False)
        self.to_out = nn.Linear(channels, channels)
        nn.init.zeros_(self.to_out.weight)
        nn.init.zeros_(self.to_out.bias)

    def forward(self, h: Tensor, feature: Tensor) -> Tensor:
        """The update to add to `h`, same shape. A feature with a smaller batch is repeated (see `sampling.predict`)."""
        query = rearrange(self.norm_h(h), "b c y x -> b (y x) c")
        keys = rearrange(self.norm_f(feature), "b c y x -> b (y x) c")
        q, k, v = (
            rearrange(t, "b n (m d) -> b m n d", m=self.heads)
            for t in (self.to_q(query), self.to_k(keys), self.to_v(keys))
        )
        if len(k) != len(q):
            k, v = (repeat_rows(t, len(q) // len(t)) for t in (k, v))
        if h.device.type == "cpu" and torch.is_autocast_enabled("cpu"):  # bf16 attention is 2.5 times slower there
            with torch.autocast("cpu", enabled=False):
                out = F.scaled_dot_product_attention(q.float(), k.float(), v.float())
        else:
            out = F.scaled_dot_product_attention(q, k, v)
        out = rearrange(out, "b m n d -> b n (m d)")
        return rearrange(self.to_out(out), "b (y x) c -> b c y x", y=h.shape[2])


def repeat_rows(x: Tensor, times: int) -> Tensor:
    """(B, ...) to (times B, ...), without a copy where one of the two is 1."""
    if times == 1:
        return x
    return x.expand(times, *x.shape[1:]) if len(x) == 1 else x.repeat(times, *[1] * (x.ndim - 1))


@dataclass
class ControlFeatures:
    """The output of one pass of the controller: E_con's maps (skips, then middle) and how strongly to apply them."""

    condition: Tensor  # c_f, the mapper's output
    maps: list[Tensor]
    residuals: list[Tensor] | None  # for `backbone.denoise`; None in the paper's literal reading
    strength: float


class ControlNetRCA(nn.Module):
    """Mapper, conditional encoder and RCA around a UNet with SD1.5's architecture.

    Args:
        unet: the UNet whose encoder is copied and whose decoder is attended to; not kept.
        config: `sites` "all" puts RCA after each decoder sub-block (12 in SD1.5), "blocks" after each decoder block
            (4); `additive` also adds zero-convolved features to the skips, as PASD does.
    """

    def __init__(self, unet: UNet, config: ControlConfig):
        super().__init__()
        self.config = config
        self.mapper = (
            RecognizingMapper(config)
            if config.recognition
            else Mapper(config.condition_channels, config.mapper_channels, config.condition_latent)
        )
        self.encoder = ConditionalEncoder(unet, config.condition_latent)
        groups = unet.conv_norm_out.num_groups
        features = encoder_features(unet)
        sites = decoder_sites(unet)
        self.pairs = _pair_sites(sites, features, config.sites)
        self.rca = nn.ModuleDict(
            {
                str(site): RCA(sites[site][0], features[feature][0], config.head_dim, groups)
                for site, feature in self.pairs.items()
            }
            if config.rca
            else {}
        )
        self.zero_convs = nn.ModuleList(_zero_conv(c) for c, _ in features) if config.additive else None

    def encode(
        self,
        z_t: Tensor,
        timesteps: Tensor,
        context: Tensor,
        condition: Tensor | None = None,
        strength: float = 1.0,
        recognized: list[Tensor] | None = None,
        c_f: Tensor | None = None,
        fixed: Fixed | None = None,
    ) -> ControlFeatures:
        """Run E_con once for a step.

        Args:
            z_t: noisy latents (B, 4, h, w).
            timesteps: (B,) or scalar tensor.
            context: (B, L, d).
            condition: picture (B, 3, 8h, 8w) in [0, 1]; grey pictures repeat their channel.
            strength: scales residuals and attention; callers skip the controller altogether at 0.
            recognized: the classifier's maps of `condition`, if the mapper takes them and they are computed already.
            c_f: `condense(condition)`, the same at every step, if computed already; `condition` is then not needed.
            fixed: of `encoder`, in place of timesteps and context, for inference.
        Raises:
            ValueError: `condition` is not 8 times the latent's size, or neither it nor `c_f` is given.
        """
        if c_f is None:
            if condition is None:
                raise ValueError("expected a condition picture or c_f")
            c_f = self.condense(condition, size_of(z_t), recognized)
        maps = self.encoder(z_t, timesteps, context, c_f, fixed)
        residuals = None
        if self.zero_convs is not None:
            residuals = [conv(m) for conv, m in zip(self.zero_convs, maps)]
            if strength != 1:
                residuals = [r * strength for r in residuals]
        return ControlFeatures(c_f, maps, residuals, strength)

    def condense(
        self, condition: Tensor, latent_size: tuple[int, int], recognized: list[Tensor] | None = None
    ) -> Tensor:
        """c_f (B, C, h, w), the mapper's output for a condition picture (B, 3, 8h, 8w); see `encode`."""
        expected = (latent_size[0] * 8, latent_size[1] * 8)
        if tuple(condition.shape[-2:]) != expected:
            raise ValueError(
                f"condition picture is {tuple(condition.shape[-2:])}, expected 8 times the latent: {expected}"
            )
        return self.mapper(condition) if recognized is None else self.mapper(condition, recognized)

    def attend(self, i: int, h: Tensor, features: ControlFeatures) -> Tensor:
        """Apply the RCA of decoder site `i`, if there is one, to the hidden state `h`."""
        if str(i) not in self.rca:
            return h
        return torch.add(h, self.rca[str(i)](h, features.maps[self.pairs[i]]), alpha=features.strength)


def _zero_conv(channels: int) -> nn.Conv2d:
    conv = nn.Conv2d(channels, channels, 1)
    nn.init.zeros_(conv.weight)
    nn.init.zeros_(conv.get_parameter("bias"))
    return conv


def _pair_sites(sites: list[tuple[int, int]], features: list[tuple[int, int]], which: str) -> dict[int, int]:
    """Decoder site -> index of the controller's feature of the same resolution, the deepest ones first.

    `conv_in`'s output (feature 0) is too shallow and is never attended to.
    """
    if which not in ("all", "blocks"):
        raise ValueError(f'sites must be "all" or "blocks", not {which!r}')
    pairs = {}
    for level in {level for _, level in sites}:
        here = [i for i, (_, site_level) in enumerate(sites) if site_level == level]
        if which == "blocks":
            here = here[-1:]
        candidates = [j for j in range(len(features) - 1, 0, -1) if features[j][1] == level]
        for rank, site in enumerate(here):
            pairs[site] = candidates[rank * len(candidates) // len(here)]
    return dict(sorted(pairs.items()))

"""EDN's controllable creative diffusion: x0 guidance (Eq. 3, 4) and the learned modulation by grey photo and hints."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color.sizes import size_of
from ..color.spaces import luminance, rgb_to_ycbcr, ycbcr_to_rgb
from ..presets import HintConfig
from .backbone import decoder_sites
from .captured import Graphs

if TYPE_CHECKING:
    from .unet import UNet
    from .vq_decoder import VQDecoder

# Weights of `losses` for guidance. Constancy stays small: grey world desaturates.
WEIGHTS = {"exposure": 0.2, "constancy": 0.01, "smoothness": 0.01, "hint": 1.0, "luminance": 0.2, "palette": 0.3}

PIXEL_TERMS = ("exposure", "constancy", "smoothness")  # computed on pixels: these need a decoded picture
HINT_SCALE = 6.0  # step length of `Guidance`
HINT_MOVES = 4  # its gradient steps at each sampling step
PROBE_GAIN = 1.14  # decoded chroma over the estimate of `VQDecoder.cell_chroma`, where guidance has moved a latent
SCHEME_WEIGHT = 0.65  # of `scheme_distance` for guidance at strength 1
LIGHTNESS = 0.2  # weight of squared lightness beside squared chroma
SOFTNESS = 0.003  # temperature of the soft minimum over colours, in squared chroma


def predict_x0(x_t: Tensor, eps: Tensor, alpha_bar_t: Tensor | float) -> Tensor:
    """Eq. 3: x0 = x_t / sqrt(alpha_bar_t) - sqrt(1 - alpha_bar_t) / sqrt(alpha_bar_t) eps; alpha_bar_t > 0."""
    alpha_bar_t = torch.as_tensor(alpha_bar_t, dtype=x_t.dtype, device=x_t.device)
    return (x_t - (1 - alpha_bar_t).sqrt() * eps) / alpha_bar_t.sqrt()


def losses(
    rgb: Tensor, gray: Tensor, hint_map: Tensor | None = None, palette: Tensor | None = None, patch: int = 16
) -> dict[str, Tensor]:
    """The terms of L_CCD, Eq. 4, each (B,) and a mean over pixels, so that weights do not depend on the resolution.

    Args:
        rgb: decoded x0 (B, 3, H, W).
        gray: the photo's luminance (B, 1, H, W).
        hint_map: (B, 3, H, W): Cb, Cr, mask; None skips the hint term.
        palette: (N, 2) chroma, or (N, 3) Y, Cb, Cr of a colour scheme; None skips the palette term.
        patch: side of the exposure term's patches, px.

    exposure: mean |R_k - R_E| over patches, R_k the patch's mean intensity and R_E the photo's own there.
    constancy: sum over {RG, RB, GB} of (Y_m - Y_n)^2, Y the picture's mean channel intensities (grey world).
    smoothness: mean over pixels, summed over (Cb, Cr), of (|horizontal| + |vertical gradient|)^2.
    hint: squared chroma distance to the hints, weighted by the mask. luminance: squared distance to `gray`.
    palette: see `palette_distance` and `scheme_distance`.
    """
    chroma = rgb_to_ycbcr(rgb)[:, 1:]
    size = min(patch, *rgb.shape[-2:])
    exposure = (F.avg_pool2d(rgb.mean(1, keepdim=True), size) - F.avg_pool2d(gray, size)).abs().mean((1, 2, 3))
    r, g, b = rgb.mean((2, 3)).unbind(1)
    horizontal = F.pad(chroma.diff(dim=-1), (0, 1)).abs()
    vertical = F.pad(chroma.diff(dim=-2), (0, 0, 0, 1)).abs()
    terms = {
        "exposure": exposure,
        "constancy": (r - g) ** 2 + (r - b) ** 2 + (g - b) ** 2,
        "smoothness": (horizontal + vertical).pow(2).sum(1).mean((1, 2)),
        "luminance": (luminance(rgb) - gray).pow(2).mean((1, 2, 3)),
    }
    return terms | chroma_losses(chroma, gray, hint_map, palette)


def chroma_losses(
    chroma: Tensor, gray: Tensor, hint_map: Tensor | None = None, palette: Tensor | None = None
) -> dict[str, Tensor]:
    """The terms hint and palette of `losses`, which need only chroma (B, 2, H, W) beside `gray` (B, 1, H, W)."""
    terms = {}
    if hint_map is not None:
        terms["hint"] = ((chroma - hint_map[:, :2]).pow(2) * hint_map[:, 2:]).sum(1).mean((1, 2))
    if palette is not None:
        by_chroma = palette.shape[1] == 2
        terms["palette"] = palette_distance(chroma, palette) if by_chroma else scheme_distance(chroma, gray, palette)
    return terms


def palette_distance(chroma: Tensor, palette: Tensor) -> Tensor:
    """(B,) mean squared distance of chroma (B, 2, H, W) to the nearest of the palette's colours (N, 2)."""
    distances = (chroma[:, None] - palette[None, :, :, None, None]).pow(2).sum(2)
    return distances.amin(1).mean((1, 2))


def scheme_distance(chroma: Tensor, gray: Tensor, colors: Tensor) -> Tensor:
    """(B,) mean squared distance of chroma (B, 2, H, W) to the colours (N, 3: Y, Cb, Cr) of similar lightness.

    The grey photo (B, 1, H, W) gives each pixel's lightness. The minimum over colours is a soft one: a pixel between
    two colours gets some of both. It may be a little below 0.
    """
    y, target = colors[None, :, 0, None, None], colors[None, :, 1:, None, None]
    distances = (chroma[:, None] - target).pow(2).sum(2) + LIGHTNESS * (gray - y).pow(2)
    return -SOFTNESS * torch.logsumexp(-distances / SOFTNESS, dim=1).mean((1, 2))


def weighted(terms: Mapping[str, Tensor], weights: Mapping[str, float] | None = None) -> Tensor:
    """(B,) weighted sum of `losses`' terms; `weights` replaces single entries of `WEIGHTS`."""
    weights = {**WEIGHTS, **(weights or {})}
    return torch.stack([weights[name] * value for name, value in terms.items()]).sum(0)


def guide(x0: Tensor, loss: Callable[[Tensor], Tensor], scale: float, times: int = 1) -> Tensor:
    """Move x0 down the gradient of a loss, without back-propagation through the UNet.

    Args:
        x0: estimate (B, 4, h, w); detached here.
        loss: x0 to (B,) losses, each a mean over pixels.
        scale: step length. The gradient is multiplied by the number of latent cells, so that a cell moves equally far
            at any resolution. The posterior variance is not used (EDN removes it).
        times: the number of gradient steps.
    Returns:
        x0 - scale h w grad, same dtype.
    """
    for _ in range(times):
        with torch.inference_mode(False), torch.enable_grad():
            leaf = x0.detach().clone().requires_grad_(True)
            (gradient,) = torch.autograd.grad(loss(leaf).sum(), leaf)
        x0 = x0 - scale * x0.shape[-2] * x0.shape[-1] * gradient.to(x0.dtype)
    return x0


class Guidance:
    """Moves x0 towards hints, a palette and natural colour statistics, once per sampling step (Eq. 3 and 4).

    Hints and palette use the mean chroma of latent cells (`VQDecoder.cell_chroma`), at a hundredth of the cost of
    decoding; the terms of `PIXEL_TERMS` use the decoded picture, with one gradient step per sampling step.

    Args:
        decoder: gives the colours of a latent.
        gray: the photos (B or 1, 1, 8h, 8w) in [0, 1], the luminance of the result.
        target: hints per latent cell (B or 1, 3, h, w): Cb, Cr, mask.
        colors: the palette, see `losses`.
        weights: by term; by default those of `WEIGHTS` for hints and palette, 0 for the others.
        saturation: factor on chroma in the result.
        scale, moves: see `guide`.
        graphs: captures `move_x0`.
    """

    @torch.inference_mode(False)
    @torch.no_grad()
    def __init__(
        self,
        decoder: VQDecoder,
        gray: Tensor,
        target: Tensor | None = None,
        colors: Tensor | None = None,
        weights: Mapping[str, float] | None = None,
        saturation: float = 1.0,
        scale: float = HINT_SCALE,
        moves: int = HINT_MOVES,
        graphs: Graphs | None = None,
    ):
        gray = gray.clone()  # gradients do not pass through what a caller made in inference mode
        self.decoder, self.gray, self.target, self.colors = decoder, gray, _copied(target), _copied(colors)
        self.weights = {**dict.fromkeys((*PIXEL_TERMS, "luminance"), 0.0), **(weights or {})}
        self.gain, self.scale, self.moves = PROBE_GAIN * saturation, scale, moves
        self.graphs = graphs or Graphs(False)
        features = decoder.gray_features(gray)
        self.features = features if any(self.weights[name] for name in PIXEL_TERMS) else features[-1:]
        self.cells = F.adaptive_avg_pool2d(gray, size_of(features[-1]))

    @torch.inference_mode(False)
    @torch.no_grad()
    def __call__(self, x0: Tensor) -> Tensor:
        """The guided x0, (B, 4, h, w)."""
        of_photo = self.gray, self.cells, self.target, self.colors, self.features
        how = tuple(self.weights.items()), self.gain, self.scale, self.moves
        return self.graphs(move_x0, self.decoder)(self.decoder, x0, *of_photo, *how)


def _copied(x: Tensor | None) -> Tensor | None:
    return None if x is None else x.clone()


def move_x0(
    decoder: VQDecoder,
    x0: Tensor,
    gray: Tensor,
    cells: Tensor,
    target: Tensor | None,
    colors: Tensor | None,
    features: list[Tensor],
    weights: Sequence[tuple[str, float]],
    gain: float,
    scale: float,
    moves: int,
) -> Tensor:
    """The guided x0 of `Guidance`, a function of tensors that can be captured.

    Args:
        cells: the grey photos' means over latent cells (B or 1, 1, h, w).
        features: their grey features, the coarsest ones alone where no term uses pixels.
        gain: decoded chroma over `VQDecoder.cell_chroma`.
    """
    by_term = dict(weights)

    def each(tensor: Tensor) -> Tensor:
        return tensor.expand(len(x0), *tensor.shape[1:])

    gray, cells, features = each(gray), each(cells), [each(f) for f in features]
    target = None if target is None else each(target)

    def by_cell(z: Tensor) -> Tensor:
        chroma = gain * decoder.cell_chroma(z, features)
        return weighted(chroma_losses(chroma, cells, target, colors), by_term)

    def by_pixel(z: Tensor) -> Tensor:
        rgb = ycbcr_to_rgb(torch.cat([gray, decoder.chroma(z, gray, features)], dim=1))
        return weighted(losses(rgb, gray), by_term)

    if target is not None or colors is not None:
        x0 = guide(x0, by_cell, scale, moves)
    return guide(x0, by_pixel, scale) if any(by_term[name] for name in PIXEL_TERMS) else x0


class HintEncoder(nn.Module):
    """The learned modulation: features of [grey, hint chroma, hint mask] scale and shift (SFT) the UNet's decoder.

    One zero-initialised projection per decoder sub-block, at every resolution: at the start it changes nothing. It
    projects the features minus those without hints: far from all hints nothing ever changes.

    Args:
        unet: the UNet to modulate; only its shapes are used.
        config: widths of the stem at 1/2, 1/4 and 1/8 of the picture; deeper levels keep the last.
    """

    def __init__(self, unet: UNet, config: HintConfig):
        super().__init__()
        sites = decoder_sites(unet)
        stem: list[nn.Module] = []
        before = 4
        for width in config.channels:
            stem += [nn.Conv2d(before, width, 3, stride=2, padding=1), nn.SiLU()]
            before = width
        stem += [nn.Conv2d(before, before, 3, padding=1), nn.SiLU()]
        self.stem = nn.Sequential(*stem)
        self.downs = nn.ModuleList(
            nn.Sequential(nn.Conv2d(before, before, 3, stride=2, padding=1), nn.SiLU())
            for _ in range(max(level for _, level in sites))
        )
        self.levels = [level for _, level in sites]
        self.projections = nn.ModuleList(nn.Conv2d(before, 2 * channels, 1, bias=False) for channels, _ in sites)
        for projection in self.projections:
            nn.init.zeros_(projection.get_parameter("weight"))

    def encode(self, gray: Tensor, hint_map: Tensor) -> list[Tensor]:
        """Features at the latent's resolution, its half, and so on, minus those without hints; valid for all steps.

        Args:
            gray: (B, 1, 8h, 8w) in [0, 1].
            hint_map: (B, 3, 8h, 8w): Cb, Cr in [-0.5, 0.5], mask in [0, 1].
        """
        # chroma is small beside luminance: bring both to the order of 1
        hints = torch.cat([hint_map[:, :2] * 4, hint_map[:, 2:]], dim=1)
        hints = torch.cat([hints, torch.zeros_like(hints)])
        h = self.stem(torch.cat([(gray * 2 - 1).repeat(2, 1, 1, 1), hints], dim=1))
        features = [h]
        for down in self.downs:
            features.append(down(features[-1]))
        return [torch.sub(*f.chunk(2)) for f in features]

    def modulate(self, i: int, h: Tensor, features: list[Tensor]) -> Tensor:
        """h (1 + scale) + shift at decoder site `i`."""
        scale, shift = self.projections[i](features[self.levels[i]]).chunk(2, dim=1)
        return h * (1 + scale) + shift

    def scales_and_shifts(self, features: list[Tensor]) -> list[tuple[Tensor, Tensor]]:
        """1 + scale and shift of `modulate`, (B, C, h, w) each, at every decoder site; valid for all steps."""
        both = [project(features[level]).chunk(2, dim=1) for project, level in zip(self.projections, self.levels)]
        return [(1 + scale, shift) for scale, shift in both]

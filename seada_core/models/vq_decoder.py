"""The luminance-aware VQ decoder (EDN Eq. 5): a latent and the photo's own luminance in, a colour photo out.

The decoder outputs chroma only; the luminance is exactly the grey photo's. Grey features predict a conditional mean of
the latent, and only the residual is quantised, so that the codebook holds only what the grey photo does not determine.
"""

from __future__ import annotations

from itertools import pairwise

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color.merging import merge_chroma
from ..presets import CodecConfig
from .convolution import convolve

_NEAREST_CHUNK = 16384  # positions compared with the codebook at once; bounds memory for large photos


class Residual(nn.Module):
    """`x + conv(relu(conv(relu(x))))`, 3x3 at constant width. No norms: a pixel depends only on its neighbourhood."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1 = nn.Conv2d(channels, channels, 3, padding=1)
        self.conv2 = nn.Conv2d(channels, channels, 3, padding=1)
        nn.init.normal_(self.conv2.weight, std=0.1 * (9 * channels) ** -0.5)
        nn.init.zeros_(self.conv2.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        return convolve(self.conv2, convolve(self.conv1, F.relu(x), "relu"), added=x)


class GrayEncoder(nn.Module):
    """Features F_G of a grey picture at 1, 1/2, 1/4, 1/8 of its size: the mirror of the decoder."""

    def __init__(self, channels: tuple[int, ...], blocks: tuple[int, ...]):
        super().__init__()
        self.inputs = nn.ModuleList(
            nn.Conv2d(before, here, 3, stride=1 if level == 0 else 2, padding=1)
            for level, (before, here) in enumerate(zip((1, *channels), channels))
        )
        self.blocks = nn.ModuleList(
            nn.Sequential(*(Residual(width) for _ in range(count))) for width, count in zip(channels, blocks)
        )

    def forward(self, gray: Tensor) -> list[Tensor]:
        """(B, 1, 8h, 8w) in [0, 1] to a list of (B, C_i, 8h / 2^i, 8w / 2^i), finest first."""
        x, features = gray - 0.5, []
        for convolution, blocks in zip(self.inputs, self.blocks):
            x = blocks(convolution(x))
            features.append(x)
            x = F.relu(x)
        return features


class Block(nn.Module):
    """`relu(x + conv(relu(conv(relu(conv(x))))))`, 3x3 at constant width: the block of TAESD's decoder."""

    def __init__(self, channels: int):
        super().__init__()
        self.conv1, self.conv2, self.conv3 = (nn.Conv2d(channels, channels, 3, padding=1) for _ in range(3))
        nn.init.normal_(self.conv3.weight, std=0.1 * (9 * channels) ** -0.5)
        nn.init.zeros_(self.conv3.get_parameter("bias"))

    def forward(self, x: Tensor) -> Tensor:
        hidden = convolve(self.conv2, convolve(self.conv1, x, "relu"), "relu")
        return convolve(self.conv3, hidden, "relu", added=x)


class Decoder(nn.Module):
    """A latent to chroma, coarse to fine. `F_D' = F_D + Conv1x1(F_G)` at every level (Eq. 5), zero-initialised.

    F_D is the input of a level's residual blocks, so that these get both: the chroma that a latent cell encodes depends
    on its luminance (a linear map of z predicts the cells' mean chroma on Kodak to only 30 dB). The architecture is
    TAESD's decoder, so that training can start from its weights, as EDN's starts from the base model's decoder.
    """

    def __init__(self, config: CodecConfig):
        super().__init__()
        channels, gray_channels = config.channels, config.gray_channels
        self.stem = nn.Conv2d(config.latent_channels, channels[-1], 3, padding=1)
        self.ups = nn.ModuleList(
            nn.Conv2d(coarse, fine, 3, padding=1, bias=False) for fine, coarse in pairwise(channels)
        )
        self.maps = nn.ModuleList(nn.Conv2d(gray, width, 1) for gray, width in zip(gray_channels, channels))
        self.levels = nn.ModuleList(
            nn.Sequential(*(Block(width) for _ in range(count))) for width, count in zip(channels, config.blocks)
        )
        self.chroma = nn.Conv2d(channels[0], 2, 3, padding=1)
        for convolution in self.maps:
            nn.init.zeros_(convolution.get_parameter("weight"))
            nn.init.zeros_(convolution.get_parameter("bias"))

    def forward(self, z: Tensor, features: list[Tensor]) -> Tensor:
        """z (B, 4, h, w) and grey features, finest first, to (Cb, Cr) (B, 2, 8h, 8w), unbounded."""
        return self.chroma(self.hidden(z, features))

    def hidden(self, z: Tensor, features: list[Tensor], finest: int = 0) -> Tensor:
        """The hidden state after the levels down to `finest`: (B, C_finest, 8h / 2^finest, 8w / 2^finest)."""
        x = convolve(self.stem, torch.tanh(z / 3) * 3, "relu")
        for level in reversed(range(finest, len(self.levels))):
            x = self.levels[level](convolve(self.maps[level], features[level], added=x))
            if level > finest:
                x = self.ups[level - 1](F.interpolate(x, scale_factor=2, mode="nearest"))
        return x


class CellChroma(nn.Module):
    """The mean (Cb, Cr) of each latent cell, from the latent and the grey features there.

    Guidance needs a latent's colours and their gradient at every step: this costs a hundredth of decoding.
    """

    def __init__(self, config: CodecConfig, width: int = 64):
        super().__init__()
        self.latent = nn.Conv2d(config.latent_channels, width, 3, padding=1)
        self.gray = nn.Conv2d(config.gray_channels[-1], width, 1)
        self.chroma = nn.Conv2d(width, 2, 3, padding=1)

    def forward(self, z: Tensor, features: list[Tensor]) -> Tensor:
        """z (B, 4, h, w) and grey features, finest first, to (B, 2, h, w)."""
        return self.chroma(F.relu(self.latent(z) + self.gray(features[-1])))


class VQDecoder(nn.Module):
    """EDN's first-step decoder and its codebook, on the scaled SD latent (f = 8, 4 channels).

    Pictures may have any size: the grey photo is padded to whole latent cells, the result cropped. Where the latent's
    grid is not the grey photo's own (ceil(H / 8), ceil(W / 8)), the latent is resized to it bilinearly.
    """

    codebook: Tensor
    usage: Tensor

    def __init__(self, config: CodecConfig):
        super().__init__()
        if not 1 <= config.code_dim <= config.latent_channels:
            raise ValueError(
                f"code_dim must lie in 1..{config.latent_channels} (latent_channels), not {config.code_dim}"
            )
        self.config = config
        self.gray_encoder = GrayEncoder(config.gray_channels, config.gray_blocks)
        self.decoder = Decoder(config)
        self.cells = CellChroma(config)
        self.mean = nn.Conv2d(config.gray_channels[-1], config.latent_channels, 3, padding=1)
        self.projection = nn.Parameter(torch.zeros(config.code_dim, config.latent_channels).fill_diagonal_(1))
        self.register_buffer("codebook", torch.randn(config.codes, config.code_dim))
        self.register_buffer("usage", torch.zeros(config.codes))  # positions per training step that use each code

    def gray_features(self, gray: Tensor) -> list[Tensor]:
        """F_G of a grey photo (B, 1, H, W) in [0, 1]: (B, C_i, ceil(H / 8) 8 / 2^i, ...), finest first."""
        if gray.ndim != 4 or gray.shape[1] != 1 or 0 in gray.shape:
            raise ValueError(f"gray must be (B, 1, H, W) and not empty, not {tuple(gray.shape)}")
        height, width = gray.shape[-2:]
        gray = F.pad(gray.to(self.projection.dtype), (0, -width % 8, 0, -height % 8), mode="replicate")
        return self.gray_encoder(gray)

    def decode(self, z: Tensor, gray: Tensor) -> Tensor:
        """Eq. 5 on the continuous latent: z (B, 4, h, w) and grey (B, 1, H, W) in [0, 1] to sRGB (B, 3, H, W)."""
        return merge_chroma(self.chroma(z, gray).to(gray.dtype), gray)

    def chroma(self, z: Tensor, gray: Tensor, features: list[Tensor] | None = None) -> Tensor:
        """The (Cb, Cr) that `decode` adds to the luminance: (B, 2, H, W), centred at 0, not limited to the gamut."""
        features = self.gray_features(gray) if features is None else features
        chroma = self.decoder(self._on_grid(z, features).to(features[-1].dtype), features)
        return chroma[..., : gray.shape[-2], : gray.shape[-1]]

    def cell_chroma(self, z: Tensor, features: list[Tensor]) -> Tensor:
        """An estimate of the mean of `chroma` over each latent cell, (B, 2, h, w), for guidance; see `CellChroma`."""
        return self.cells(self._on_grid(z, features).to(features[-1].dtype), features)

    def chroma_tiled(self, z: Tensor, gray: Tensor, tile: int, margin: int = 128) -> Tensor:
        """`chroma` in tiles of `tile` px, a multiple of 8, each decoded with `margin` px around it, to save memory.

        Pixels beyond the margin have almost no influence, so that tiles need no blending.
        """
        height, width = gray.shape[-2:]
        grid = (-(-height // 8), -(-width // 8))
        z = z if z.shape[-2:] == grid else F.interpolate(z, size=grid, mode="bilinear", align_corners=False)
        result = gray.new_empty(len(gray), 2, height, width)
        for y in range(0, height, tile):
            top, bottom = max(0, y - margin), min(height, y + tile + margin)
            for x in range(0, width, tile):
                left, right = max(0, x - margin), min(width, x + tile + margin)
                part = z[..., top // 8 : -(-bottom // 8), left // 8 : -(-right // 8)]
                chroma = self.chroma(part, gray[..., top:bottom, left:right])
                result[..., y : y + tile, x : x + tile] = chroma[
                    ..., y - top : y - top + tile, x - left : x - left + tile
                ]
        return result

    def quantize(
        self, z: Tensor, gray: Tensor, features: list[Tensor] | None = None
    ) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
        """The latent through the codebook, straight-through.

        Returns `z_hat` (B, 4, h, w) on the grey photo's grid, `tokens` (B, h w) long in row order, and the loss terms:
        `mean`, the error of the latent predicted from grey features, and `commitment`, the residual's distance to its
        code.
        """
        features = self.gray_features(gray) if features is None else features
        z = self._on_grid(z, features)
        mean, vectors = self.residual(z, features)
        tokens = self._nearest(vectors)
        codes = self.codebook[tokens]
        terms = {"mean": F.mse_loss(mean, z), "commitment": F.mse_loss(vectors, codes)}
        z_hat = mean + self._unproject(vectors + (codes - vectors).detach(), z.shape)
        return z_hat, tokens, terms

    def encode_tokens(self, z: Tensor, gray: Tensor) -> Tensor:
        """Codes 0..K-1 of a latent, (B, ceil(H / 8) ceil(W / 8)) long in row order; their z_hat encodes to the same."""
        features = self.gray_features(gray)
        return self._nearest(self.residual(self._on_grid(z, features), features)[1])

    def dequantize(self, tokens: Tensor, features: list[Tensor]) -> Tensor:
        """z_hat (B, 4, h, w) of tokens (B, h w) beside the grey features they were made with."""
        batch, _, h, w = features[-1].shape
        if tokens.shape != (batch, h * w):
            raise ValueError(f"this grey photo takes tokens (B, h w) = {(batch, h * w)}, not {tuple(tokens.shape)}")
        mean = self.mean(features[-1]).float()
        return mean + self._unproject(self.codebook[tokens].float(), mean.shape)

    def decode_tokens(self, tokens: Tensor, gray: Tensor) -> Tensor:
        """Eq. 5 on the quantised latent: tokens (B, h w) and grey (B, 1, H, W) to sRGB (B, 3, H, W)."""
        features = self.gray_features(gray)
        chroma = self.chroma(self.dequantize(tokens, features), gray, features)
        return merge_chroma(chroma.to(gray.dtype), gray)

    def _on_grid(self, z: Tensor, features: list[Tensor]) -> Tensor:
        channels = self.config.latent_channels
        if z.ndim != 4 or z.shape[1] != channels or z.shape[0] != features[-1].shape[0] or 0 in z.shape:
            raise ValueError(
                f"z must be ({features[-1].shape[0]}, {channels}, h, w) and not empty, not {tuple(z.shape)}"
            )
        grid = features[-1].shape[-2:]
        return z if z.shape[-2:] == grid else F.interpolate(z, size=grid, mode="bilinear", align_corners=False)

    def residual(self, z: Tensor, features: list[Tensor]) -> tuple[Tensor, Tensor]:
        """The latent's conditional mean given grey features (B, 4, h, w), and the projected rest (B, h w, code_dim)."""
        mean = self.mean(features[-1]).float()
        with torch.autocast(z.device.type, enabled=False):  # neighbouring codes are closer than bf16's precision
            return mean, (z.float() - mean).flatten(2).mT @ self.projection.float().mT

    def _unproject(self, vectors: Tensor, shape: torch.Size) -> Tensor:
        with torch.autocast(vectors.device.type, enabled=False):
            return (vectors @ torch.linalg.pinv(self.projection.float()).mT).mT.reshape(shape)

    @torch.no_grad()
    def _nearest(self, vectors: Tensor) -> Tensor:
        codebook = self.codebook.float()
        with torch.autocast(vectors.device.type, enabled=False):
            tokens = [
                torch.addmm(codebook.square().sum(1), part, codebook.mT, beta=1, alpha=-2).argmin(1)
                for part in vectors.reshape(-1, vectors.shape[-1]).split(_NEAREST_CHUNK)
            ]
        return torch.cat(tokens).view(vectors.shape[:-1])

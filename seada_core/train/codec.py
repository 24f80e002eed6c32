"""The codec stage: the whole luminance-aware VQ decoder, on latents of the frozen base encoder (EDN, first step)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from ..color import luminance, rgb_to_ycbcr, ycbcr_to_rgb
from ..presets import CodecConfig
from ..vq_decoder import Decoder, VQDecoder
from .data import DataError
from .stages import Stage

# layer numbers of TAESD's decoder -> our modules
_TAESD = {
    "1": "stem",
    **{str(3 + k): f"levels.3.{k}" for k in range(3)},
    "7": "ups.2",
    **{str(8 + k): f"levels.2.{k}" for k in range(3)},
    "12": "ups.1",
    **{str(13 + k): f"levels.1.{k}" for k in range(3)},
    "17": "ups.0",
    "18": "levels.0.0",
}


def start_from_taesd(decoder: Decoder, weights: dict[str, Tensor]) -> int:
    """Copy TAESD's decoder wherever a layer's shape is the same. Returns how many tensors were copied.

    EDN's decoder starts from the base model's. The last layer becomes that of TAESD's colours' chroma.

    Raises:
        DataError: the weights are not TAESD's, or none fits.
    """
    state, copied = decoder.state_dict(), 0
    for name, tensor in weights.items():
        layer, _, rest = name.partition(".")
        if layer == "19":
            tensor, target = _chroma_of(tensor.float()), f"chroma.{rest}"
        elif layer in _TAESD:
            for old, new in (("conv.0.", "conv1."), ("conv.2.", "conv2."), ("conv.4.", "conv3.")):
                rest = rest.replace(old, new)
            target = f"{_TAESD[layer]}.{rest}"
        else:
            raise DataError(f"not TAESD's decoder: it has no layer {layer}")
        if target in state and state[target].shape == tensor.shape:
            state[target].copy_(tensor)
            copied += 1
    if copied < 2:  # the last layer's bias fits always
        raise DataError(f"TAESD's decoder has 64 channels, this one {decoder.stem.out_channels} at 1/8: nothing fits")
    with torch.no_grad():  # blocks beyond TAESD's change nothing at first
        for index in ("2", "3"):
            for block in decoder.levels[int(index)][3:]:
                block.conv3.weight.zero_()
    return copied


def load_taesd(decoder: Decoder, path: str) -> None:
    """`start_from_taesd` from a safetensors file.

    Raises:
        DataError: no such file, or something else.
    """
    from safetensors import SafetensorError
    from safetensors.torch import load_file

    try:
        start_from_taesd(decoder, load_file(path))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is not TAESD's decoder: {error}") from None


def _chroma_of(rows: Tensor) -> Tensor:
    """Weights (3, ...) of R, G, B to those (2, ...) of Cb, Cr."""
    basis = rgb_to_ycbcr(torch.eye(3)[..., None, None]) - rgb_to_ycbcr(torch.zeros(1, 3, 1, 1))
    return torch.einsum("rc,r...->c...", basis[:, 1:, 0, 0], rows)


class CodecStage(Stage):
    """Reconstruction of `rgb` from `latent` and luminance, of the first half of a batch through the codebook.

    Loss: L1 + `mse_weight` MSE on RGB, before gamut pulling (its gradient vanishes where a colour is pulled), plus L1
    of the error's means over 8 and 32 px (`cast`: broad false tints are half of the squared error, yet little of the
    plain L1), plus 0.1 `perceptual(rgb, target)` where given (EDN: LPIPS), plus the codebook's terms. The codebook
    follows its vectors by exponential averages (van den Oord et al. 2017, appendix A.1); unused codes restart on
    vectors of the batch.
    """

    name = "codec"

    def __init__(
        self,
        config: CodecConfig,
        *,
        mse_weight: float = 5.0,
        mean_weight: float = 0.02,
        commitment_weight: float = 0.01,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        decay: float = 0.99,
    ):
        super().__init__()
        self.codec = VQDecoder(config)
        self.mse_weight = mse_weight
        self.mean_weight = mean_weight
        self.commitment_weight = commitment_weight
        self.perceptual = perceptual
        self.decay = decay

    def forward(self, batch: dict) -> dict[str, Tensor]:
        rgb, z = batch["rgb"], batch["latent"]
        target = rgb_to_ycbcr(rgb)
        gray = target[:, :1]
        half = (len(z) + 1) // 2
        features = self.codec.gray_features(gray)
        coded = z[:half], [f[:half] for f in features]
        z_hat, tokens, terms = self.codec.quantize(coded[0], gray[:half], coded[1])
        if self.training:
            self.update_codebook(self.codec.residual(*coded)[1], tokens)
        chroma = self.codec.chroma(torch.cat([z_hat, z[half:]]), gray, features).float()
        # The luminances cancel: the difference of two pictures is that of their chroma alone.
        difference = ycbcr_to_rgb(torch.cat([torch.zeros_like(gray), chroma - target[:, 1:]], 1))
        mse = difference.square().mean((1, 2, 3))
        cast = sum(F.avg_pool2d(difference, size, ceil_mode=True).abs().mean() for size in (8, 32))
        losses = {"l1": difference.abs().mean(), "cast": cast, "mse": mse.mean(), **terms}
        loss = losses["l1"] + cast + self.mse_weight * losses["mse"]
        loss = loss + self.mean_weight * terms["mean"] + self.commitment_weight * terms["commitment"]
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(difference + rgb, rgb).mean()
            loss = loss + 0.1 * losses["perceptual"]
        losses["psnr_codes"] = -10 * mse[:half].detach().mean().log10()
        if half < len(z):
            losses["psnr"] = -10 * mse[half:].detach().mean().log10()
        return {"loss": loss, **losses}

    @torch.no_grad()
    def update_codebook(self, vectors: Tensor, tokens: Tensor) -> None:
        """One exponential-average step of k-means: vectors (B, N, code_dim) with their codes (B, N)."""
        vectors, tokens = vectors.float().flatten(0, 1), tokens.flatten()
        codebook, usage = self.codec.codebook, self.codec.usage
        sums = codebook * usage.unsqueeze(1) * self.decay
        sums.index_add_(0, tokens, vectors * (1 - self.decay))
        usage.mul_(self.decay).index_add_(0, tokens, torch.full_like(vectors[:, 0], 1 - self.decay))
        codebook.copy_(sums / usage.clamp(min=1e-12).unsqueeze(1))
        share = len(tokens) / len(usage)
        dead = (usage < 0.03 * share).nonzero().squeeze(1)
        codebook[dead] = vectors[torch.randint(len(vectors), (len(dead),), device=vectors.device)]
        usage[dead] = 0.1 * share

    def preview(self, batch: dict) -> dict[str, Tensor]:
        gray = luminance(batch["rgb"])
        tokens = self.codec.encode_tokens(batch["latent"], gray)
        return {"decode": self.codec.decode(batch["latent"], gray), "codes": self.codec.decode_tokens(tokens, gray)}

    def parts(self) -> dict[str, nn.Module]:
        return {"vq_decoder": self.codec}

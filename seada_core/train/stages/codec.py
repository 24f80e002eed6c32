"""Stage codec: the whole luminance-aware VQ decoder on true latents (EDN, first step)."""

from __future__ import annotations

from collections.abc import Callable

import torch
import torch.nn.functional as F
from safetensors import SafetensorError
from safetensors.torch import load_file
from torch import Tensor, nn

from ...color.spaces import luminance, rgb_to_ycbcr, ycbcr_to_rgb
from ...models.vq_decoder import Decoder, VQDecoder
from ..batches import Batch
from ..sources import DataError
from .registry import StageSetup
from .stage import Stage, gather

LOG_MSE_WEIGHT = 0.03

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
        DataError: the weights are not those of TAESD's decoder, or no layer has the same shape.
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
    if copied < 2:  # the last layer's bias always fits
        raise DataError(f"TAESD's decoder has 64 channels, this one {decoder.stem.out_channels} at 1/8: nothing fits")
    for name, tensor in state.items():  # blocks beyond TAESD's change nothing at first
        match name.split("."):
            case ["levels", "2" | "3", block, "conv3", "weight"] if int(block) >= 3:
                tensor.zero_()
    return copied


def load_taesd(decoder: Decoder, path: str) -> None:
    """`start_from_taesd` from a safetensors file.

    Raises:
        DataError: the file cannot be read, or is not TAESD's decoder.
    """
    try:
        start_from_taesd(decoder, load_file(path))
    except (OSError, SafetensorError) as error:
        raise DataError(f"{path} is not TAESD's decoder: {error}") from None


def _chroma_of(rows: Tensor) -> Tensor:
    """Weights (3, ...) of R, G, B to those (2, ...) of Cb, Cr."""
    basis = rgb_to_ycbcr(torch.eye(3)[..., None, None]) - rgb_to_ycbcr(torch.zeros(1, 3, 1, 1))
    return torch.einsum("rc,r...->c...", basis[:, 1:, 0, 0], rows)


def reconstruction(chroma: Tensor, target: Tensor) -> tuple[Tensor, Tensor, dict[str, Tensor]]:
    """How far decoded (Cb, Cr) (B, 2, H, W) are from the true ones, before gamut pulling.

    Returns the difference as RGB (B, 3, H, W) (the luminances cancel), its mean square a picture (B,), and the terms
    l1, cast and log_mse of `CodecStage`.
    """
    difference = ycbcr_to_rgb(torch.cat([torch.zeros_like(chroma[:, :1]), chroma - target], 1))
    mse = difference.square().mean((1, 2, 3))
    small, large = (F.avg_pool2d(difference, size, ceil_mode=True).abs().mean() for size in (8, 32))
    return difference, mse, {"l1": difference.abs().mean(), "cast": small + large, "log_mse": (mse + 1e-4).log().mean()}


def weighted(terms: dict[str, Tensor]) -> Tensor:
    """The sum of `reconstruction`'s terms that the stages minimise."""
    return terms["l1"] + terms["cast"] + LOG_MSE_WEIGHT * terms["log_mse"]


class CodecStage(Stage):
    """Reconstruction of `rgb` from `latent` and luminance, of every other picture through the codebook.

    Loss: L1 on RGB, before gamut pulling (its gradient vanishes where a colour is pulled), plus L1 of the error's means
    over 8 and 32 px (`cast`: broad false tints are half of the squared error, yet little of the plain L1), plus
    `LOG_MSE_WEIGHT` times the mean of log(MSE + 1e-4) over the pictures (PSNR up to its unit: a colourful picture
    counts as much as a dull one, and uncertain colours become paler than with L1), plus 0.1 times
    `perceptual(rgb, target)` where given (EDN: LPIPS), plus L1 of `cell_chroma`, plus the codebook's terms. The
    codebook follows its vectors by exponential averages (van den Oord et al. 2017, appendix A.1); unused codes restart
    on vectors of the batch.
    """

    def __init__(
        self,
        codec: VQDecoder,
        *,
        mean_weight: float = 0.02,
        commitment_weight: float = 0.01,
        perceptual: Callable[[Tensor, Tensor], Tensor] | None = None,
        decay: float = 0.99,
    ):
        super().__init__()
        self.codec = codec
        self.mean_weight = mean_weight
        self.commitment_weight = commitment_weight
        self.perceptual = perceptual
        self.decay = decay

    def forward(self, batch: Batch) -> dict[str, Tensor]:
        batch = batch.in_halves()
        rgb, z = batch.rgb, batch.latent
        target = rgb_to_ycbcr(rgb)
        gray = target[:, :1]
        half = len(z) // 2
        features = self.codec.gray_features(gray)
        coded = z[:half], [f[:half] for f in features]
        z_hat, tokens, terms = self.codec.quantize(coded[0], gray[:half], coded[1])
        if self.training:
            self.update_codebook(self.codec.residual(*coded)[1], tokens)
        chroma = self.codec.chroma(torch.cat([z_hat, z[half:]]), gray, features).float()
        difference, mse, losses = reconstruction(chroma, target[:, 1:])
        loss = weighted(losses)
        # detached: the cell predictor serves guidance, and its loss must not change the grey encoder
        cells = self.codec.cell_chroma(z, [f.detach() for f in features]).float()
        losses["cells"] = (cells - F.avg_pool2d(target[:, 1:], 8)).abs().mean()
        loss = loss + losses["cells"]
        losses |= terms
        loss = loss + self.mean_weight * terms["mean"] + self.commitment_weight * terms["commitment"]
        if self.perceptual is not None:
            losses["perceptual"] = self.perceptual(difference + rgb, rgb).mean()
            loss = loss + 0.1 * losses["perceptual"]
        losses["psnr_codes"] = -10 * mse[:half].detach().mean().log10()
        losses["psnr"] = -10 * mse[half:].detach().mean().log10()
        return {"loss": loss, **losses}

    def changing_buffers(self) -> list[Tensor]:
        return [self.codec.codebook, self.codec.usage]

    @torch.no_grad()
    def update_codebook(self, vectors: Tensor, tokens: Tensor) -> None:
        """One exponential-average step of k-means: all processes' vectors (B, N, code_dim) with their codes (B, N)."""
        vectors, tokens = gather(vectors.float()).flatten(0, 1), gather(tokens).flatten()
        codebook, usage = self.codec.codebook, self.codec.usage
        sums = codebook * usage.unsqueeze(1) * self.decay
        sums.index_add_(0, tokens, vectors * (1 - self.decay))
        usage.mul_(self.decay).index_add_(0, tokens, torch.full_like(vectors[:, 0], 1 - self.decay))
        codebook.copy_(sums / usage.clamp(min=1e-12).unsqueeze(1))
        share = len(tokens) / len(usage)
        dead = (usage < 0.03 * share).nonzero().squeeze(1)
        codebook[dead] = vectors[torch.randint(len(vectors), (len(dead),), device=vectors.device)]
        usage[dead] = 0.1 * share

    def preview(self, batch: Batch) -> dict[str, Tensor]:
        gray = luminance(batch.rgb)
        tokens = self.codec.encode_tokens(batch.latent, gray)
        return {"decode": self.codec.decode(batch.latent, gray), "codes": self.codec.decode_tokens(tokens, gray)}

    def parts(self) -> dict[str, nn.Module]:
        return {"vq_decoder": self.codec}


def build(setup: StageSetup) -> CodecStage:
    return CodecStage(setup.parts["vq_decoder"])

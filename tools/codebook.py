"""Refits a decoder's codebook: `python -m tools.codebook --model FOLDER --data SHARD --encoder FILE --out FILE`.

Stage `codec` trains decoder and codebook together; where the decoder has been trained further since, its old codebook
is not the best. Codes are spaced by what the decoder makes of a latent's error: the projection becomes the square root
of the mean of J^T J, J being the derivative of the picture (R, G, B) by a latent cell, so that the distance of two
projected latents is to first order that of their pictures, and the codes are the k-means of the projected residuals.
Token diffusion that was trained with the old codes must be trained again.
"""

from __future__ import annotations

import argparse
import dataclasses
import sys
from pathlib import Path

import torch
from torch import Tensor

from seada_core.color.spaces import luminance, ycbcr_to_rgb
from seada_core.evaluate.sources import find, to_tensor
from seada_core.models.vq_decoder import VQDecoder
from seada_core.train.encoder import load_encoder
from seada_core.weights import part_files

APART = 6  # cells between two that are changed at once: what they change does not overlap
CHANGE = 0.3  # of a latent, about its deviation from what the grey photo says
MOST_VECTORS = 200_000


def photos(path: Path, side: int, count: int) -> Tensor:
    """The first crops (N, 3, side, side) of a shard's photos that are large enough."""
    found: list[Tensor] = []
    for entry in find(path):
        rgb = to_tensor(entry.load())
        if min(rgb.shape[-2:]) >= side:
            found.append(rgb[:, :side, :side])
        if len(found) == count:
            break
    if not found:
        raise ValueError(f"no photo of at least {side} px in {path}: give --side")
    return torch.stack(found)


@torch.no_grad()
def sensitivity(codec: VQDecoder, z: Tensor, gray: Tensor) -> Tensor:
    """The mean of J^T J (C, C) over cells: how a latent's error (B, C, h, w) shows in the picture's R, G and B."""
    before = codec.chroma(z, gray)
    changes = []
    for channel in range(z.shape[1]):
        changed = z.clone()
        changed[:, channel, APART // 2 :: APART, APART // 2 :: APART] += CHANGE
        chroma = (codec.chroma(changed, gray) - before) / CHANGE
        changes.append(ycbcr_to_rgb(torch.cat([torch.zeros_like(gray), chroma], 1)).flatten())
    cells = z[:, 0, APART // 2 :: APART, APART // 2 :: APART].numel()
    rows = torch.stack(changes)
    return rows @ rows.mT / cells


def square_root(matrix: Tensor) -> Tensor:
    """Of a symmetric positive matrix."""
    values, vectors = torch.linalg.eigh(matrix.double())
    return ((vectors * values.clamp_min(0).sqrt()) @ vectors.mT).to(matrix)


def k_means(vectors: Tensor, count: int, rounds: int, seed: int = 0) -> Tensor:
    """Centres (count, C) of vectors (N, C), by Lloyd's algorithm; a centre without vectors starts again on one."""
    generator = torch.Generator().manual_seed(seed)
    centres = vectors[torch.randperm(len(vectors), generator=generator)[:count]].clone()
    for _ in range(rounds):
        nearest = torch.cat(
            [torch.addmm(centres.square().sum(1), part, centres.mT, alpha=-2).argmin(1) for part in vectors.split(8192)]
        )
        number = torch.bincount(nearest, minlength=count)[:, None]
        centres = torch.zeros_like(centres).index_add_(0, nearest, vectors) / number.clamp_min(1)
        empty = (number[:, 0] == 0).nonzero()[:, 0]
        centres[empty] = vectors[torch.randint(len(vectors), (len(empty),), generator=generator)]
    return centres


@torch.no_grad()
def fit(codec: VQDecoder, z: Tensor, rgb: Tensor, codes: int, rounds: int = 25) -> VQDecoder:
    """The decoder with `codes` new codes for latents z (B, C, h, w) of photos rgb (B, 3, H, W)."""
    gray = luminance(rgb)
    step = 20
    parts = list(zip(z.split(step), gray.split(step)))
    new = VQDecoder(dataclasses.replace(codec.config, codes=codes, code_dim=codec.config.latent_channels))
    new.load_state_dict(
        {k: v for k, v in codec.state_dict().items() if k not in ("codebook", "usage", "projection")}, strict=False
    )
    metric = torch.stack([sensitivity(codec, *part) for part in parts[:10]]).mean(0)
    new.projection.copy_(square_root(metric))
    vectors = torch.cat([new.residual(here, new.gray_features(photo))[1].flatten(0, 1) for here, photo in parts])
    chosen = torch.randperm(len(vectors), generator=torch.Generator().manual_seed(1))[:MOST_VECTORS]
    new.codebook.copy_(k_means(vectors[chosen], codes, rounds))
    return new


@torch.no_grad()
def coding_error(codec: VQDecoder, z: Tensor, rgb: Tensor) -> float:
    """The mean squared difference of latents' (B, C, h, w) chroma, decoded through the codebook and as they are."""
    errors = []
    for latent, gray in zip(z.split(32), luminance(rgb).split(32)):
        coded = codec.quantize(latent, gray)[0]
        errors.append((codec.chroma(coded, gray) - codec.chroma(latent, gray)).square().mean((1, 2, 3)))
    return torch.cat(errors).mean().item()


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--model", default="mini", help="a folder of weights, or mini")
    parser.add_argument("--data", type=Path, required=True, help="a shard or a folder of photos")
    parser.add_argument("--encoder", required=True, help="TAESD's encoder")
    parser.add_argument("--codes", type=int, default=2048)
    parser.add_argument("--photos", type=int, default=1500)
    parser.add_argument("--side", type=int, default=144, help="of the crops, px")
    parser.add_argument("--out", type=Path, required=True)
    options = parser.parse_args(arguments)
    codec, preset = part_files.load_part(
        part_files.model_folder(options.model) / "vq_decoder.safetensors", "vq_decoder"
    )
    encode = load_encoder(options.encoder)
    rgb = photos(options.data, options.side, options.photos)
    with torch.no_grad():
        z = torch.cat([encode(part) for part in rgb.split(32)]).float()
    new = fit(codec.eval().float(), z, rgb, options.codes)
    before, after = (coding_error(which, z, rgb) for which in (codec, new))
    print(
        f"chroma's mean squared error through the codebook: {before:.2e} before, {after:.2e} with {options.codes} codes"
    )
    part_files.save_part(options.out, "vq_decoder", dataclasses.replace(preset, codec=new.config), new, torch.float16)
    return 0


if __name__ == "__main__":
    sys.exit(main())

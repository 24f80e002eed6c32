"""Kodak24 through the decoder, PSNR in RGB at 255: `python -m benchmarks.quality.kodak --photos DIR --encoder FILE`.

Eq. 5 on the continuous latent, through the codebook, and with `--token-steps` after token diffusion of the true tokens
(Eq. 6, temperature 1, no text). Only the latent and the photo's luminance go in.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path

import torch
import torch.nn.functional as F
from PIL import Image

from benchmarks import Table
from seada_core.color.merging import merge_chroma
from seada_core.color.spaces import luminance
from seada_core.evaluate import metrics
from seada_core.evaluate.sources import to_8bit, to_tensor
from seada_core.options import ColorizeOptions
from seada_core.pipeline import Colorizer
from seada_core.train.encoder import load_encoder


@torch.no_grad()
def measure(photos: Path, encoder: str, model: str = "mini", token_steps: int = 0) -> list[float]:
    """Mean PSNR in dB of the decoded latents, through the codebook, and with `token_steps` after token diffusion;
    prints each photo's."""
    encode, colorizer = load_encoder(encoder), Colorizer.from_pretrained(model, "cpu")
    decoder = colorizer.part("vq_decoder")
    columns = ["decoded, dB", "through the codebook, dB"]
    columns += [f"token diffusion, {token_steps} steps, dB"] if token_steps else []
    rows = []
    table = Table("kodak", "PSNR in RGB of true latents, decoded", columns)
    for path in sorted(photos.glob("*.png")):
        rgb = to_tensor(Image.open(path))[None]
        height, width = rgb.shape[-2:]
        z = encode(F.pad(rgb, (0, -width % 8, 0, -height % 8), mode="replicate"))
        gray = luminance(rgb)
        results = [decoder.decode(z, gray), decoder.decode_tokens(decoder.encode_tokens(z, gray), gray)]
        if token_steps:
            chroma = colorizer.decode(z, gray, None, ColorizeOptions(token_steps=token_steps))
            results.append(merge_chroma(chroma, gray))
        rows.append([metrics.psnr(to_8bit(result), rgb).item() for result in results])
        table.add(path.stem, *(round(value, 2) for value in rows[-1]))
    means = torch.tensor(rows).mean(0).tolist()
    table.add(f"mean of {len(rows)}", *(round(value, 2) for value in means))
    return means


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--encoder", required=True)
    parser.add_argument("--model", default="mini")
    parser.add_argument("--token-steps", type=int, default=0, help="of token diffusion; 0: without it")
    options = parser.parse_args(arguments)
    measure(options.photos, options.encoder, options.model, options.token_steps)
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""The model in the repository: complete, small enough, and able to colour the README's photo."""

import json
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core.color.spaces import luminance
from seada_core.evaluate import metrics
from seada_core.pipeline import Colorizer
from seada_core.weights import part_files

ROOT = Path(__file__).parents[2]
PHOTO = ROOT / "samples" / "photo.jpg"


@pytest.fixture(scope="module")
def colorizer():
    return Colorizer.from_pretrained("mini")


def test_every_part_is_there_and_within_the_limits():
    files = {path.stem: path.stat().st_size for path in part_files.EMBEDDED.glob("*.safetensors")}
    assert set(files) == set(part_files.SECTIONS)
    assert sum(files.values()) <= 64e6 and max(files.values()) <= 32e6
    for part in files:
        part_files.load_part(part_files.EMBEDDED / f"{part}.safetensors", part)


def test_the_parts_fit_together(colorizer):
    unet, text, codec, tokens = (
        colorizer.part(p) for p in ("unet", "semantic_encoder", "vq_decoder", "token_diffusion")
    )
    assert unet.config.context_dim == text.config.width == tokens.config.context_dim
    assert (tokens.config.codes, tokens.config.gray_channels) == (codec.config.codes, codec.config.gray_channels[-1])


def test_the_readmes_photo_gets_colour_and_keeps_its_luminance(colorizer):
    photo = Image.open(PHOTO)
    result = colorizer(photo)
    gray, luma = (np.asarray(image.convert("L")).astype(int) for image in (photo, result))
    assert result.size == photo.size
    assert (np.abs(gray - luma) > 1).mean() <= 0.005
    rgb = torch.from_numpy(np.asarray(result).copy()).permute(2, 0, 1) / 255
    assert metrics.colorfulness(rgb) > 5


def test_the_readmes_command_runs_offline(tmp_path):
    target = tmp_path / "color.jpg"
    command = [sys.executable, "-m", "seada_core.colorize", str(PHOTO), "-o", str(target), "--steps", "2", "--json"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True)
    assert json.loads(done.stdout)["output"] == str(target)
    assert Image.open(target).size == Image.open(PHOTO).size


@pytest.mark.slow
def test_token_diffusion_runs_on_the_embedded_parts(colorizer):
    gray = luminance(torch.rand(1, 3, 64, 64))
    plain = colorizer(gray, steps=1, size=64)
    mended = colorizer(gray, steps=1, size=64, token_steps=4, seed=1)
    assert torch.isfinite(mended).all() and not torch.equal(plain, mended)

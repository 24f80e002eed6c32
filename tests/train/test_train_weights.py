"""Training that starts from Stable Diffusion 1.5's own files and a stock ControlNet."""

import numpy as np
import pytest
import torch
from PIL import Image
from small_sd15 import SIZES, SMALL_VAE, same

from seada_core.train.__main__ import main
from seada_core.train.encoder import load_encoder
from seada_core.weights import part_files

SHORT = [*SIZES[: SIZES.index("--vae-sizes.channels")], "--adapter.width", "32", "--resolution=64", "--crop=64"]
SHORT += ["--batch=2", "--steps=1", "--workers=0", "--preset", "sd15", "--precision=no", "--frozen=fp32"]


@pytest.fixture
def pictures(tmp_path):
    folder = tmp_path / "pictures"
    folder.mkdir()
    for i, pixels in enumerate(np.random.default_rng(0).integers(0, 255, (4, 64, 64, 3), np.uint8)):
        Image.fromarray(pixels).save(folder / f"{i}.png")
        (folder / f"{i}.txt").write_text("a photo of a dog")
    return folder


@pytest.mark.slow
def test_a_controller_is_trained_from_a_base_and_a_stock_controlnet(small_sd15, pictures, tmp_path, capsys):
    stock, out = tmp_path / "stock", tmp_path / "out"
    small_sd15.modules["controlnet"].save_pretrained(stock)
    base = small_sd15.diffusers
    command = [
        f"--data={pictures}",
        f"--out={out}",
        f"--encoder={base}",
        f"--base={base}",
        f"--control={stock}",
        *SHORT,
    ]
    assert main(["control", *command, "--control.additive"]) == 0
    assert "not taken from --control: its embedder" in capsys.readouterr().out
    unet, _ = part_files.load_part(out / "parts" / "unet.safetensors", "unet")
    assert same(unet, small_sd15.modules["unet"])  # frozen
    control, _ = part_files.load_part(out / "parts" / "controlnet_rca.safetensors", "controlnet_rca")
    theirs = small_sd15.modules["controlnet"].down_blocks.state_dict()
    for name, tensor in control.encoder.down_blocks.state_dict().items():  # a step of 1e-5 away
        torch.testing.assert_close(tensor, theirs[name], rtol=0, atol=1e-4)


def test_weights_that_do_not_fit_stop_it_before_the_data_are_read(small_sd15, single_bad, tmp_path, capsys):
    for option, message in single_bad.items():
        command = ["control", "--data=nowhere", f"--out={tmp_path / 'out'}", "--encoder=nothing", *SHORT, *option]
        assert main(command) == 1
        assert message in capsys.readouterr().err
    assert not (tmp_path / "out").exists()


@pytest.fixture
def single_bad(small_sd15, tmp_path):
    """Options, and what is wrong with them."""
    base = f"--base={small_sd15.diffusers}"
    return {
        ("--base=nowhere",): "does not exist",
        (f"--base={small_sd15.single_file}", "--unet.layers-per-block=1"): "does not fit unet",
        (base, "--unet.heads=8"): "is of another size than preset sd15",
        (base, f"--control={small_sd15.single_file}"): "is a single-file checkpoint; expected a ControlNet",
    }


@torch.no_grad()
def test_latents_are_the_vaes_scaled_means(small_sd15):
    vae = small_sd15.modules["vae"]
    rgb = torch.rand(2, 3, 32, 32)
    expected = vae.encode(rgb * 2 - 1).latent_dist.mean * SMALL_VAE.scaling_factor
    for path in (small_sd15.diffusers, small_sd15.diffusers / "vae"):
        error = (load_encoder(str(path))(rgb) - expected).abs().mean()
        assert error < 0.05 * expected.abs().mean()  # it computes in bfloat16

"""Shared fixtures. Photos and TAESD's weights lie beside the checkout; tests that need them skip without."""

import os
import re
import sys
from contextlib import contextmanager
from pathlib import Path

import pytest

if "PYTEST_XDIST_WORKER" in os.environ:  # one thread a worker: more of them wait for each other
    os.environ.setdefault("OMP_NUM_THREADS", "1")

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(autouse=True)
def random_numbers():
    """Each test draws the same random numbers whenever it runs."""
    if torch := sys.modules.get("torch"):
        torch.manual_seed(0)


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of test photos, training shards and TAESD's weights."""
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA.parent.name}/{DATA.name} beside the repository")
    return DATA


@pytest.fixture(scope="session")
def tiny_preset():
    from tiny_models import make_tiny_preset

    return make_tiny_preset()


@pytest.fixture(scope="session")
def tiny_model(tiny_preset, tmp_path_factory) -> Path:
    """A folder of part files of a tiny random model: quick, whole, and of no use as a colouriser."""
    import torch

    from seada_core.models.tokenizer import Tokenizer
    from seada_core.weights import part_files

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = Tokenizer.from_captions(["a photo of a dog on green grass, blue sky"], 16, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in ("unet", "semantic_encoder", "semantic_adapter", "controlnet_rca", "hint_encoder", "vq_decoder"):
            module = part_files.build(part, tiny_preset, tokenizer if part == "semantic_encoder" else None)
            for name, parameter in module.named_parameters():
                if parameter.abs().max() == 0 and not name.endswith("bias"):  # zero projections must not hide a fault
                    torch.nn.init.normal_(parameter, std=0.02)
            part_files.save_part(folder / f"{part}.safetensors", part, tiny_preset, module)
    return folder


@pytest.fixture
def photo(tmp_path) -> Path:
    """A small colour picture in a file."""
    from command import scene

    path = tmp_path / "photo.png"
    scene().save(path)
    return path


@pytest.fixture
def run(tiny_model, capfd):
    """Runs the command with the tiny model; gives (status, stdout lines, stderr lines without the summary).

    notes: also give the notices that a photo has colours already, as most of the tests' pictures have, and that words
    are not known, as most are not to the tiny model.
    """
    from seada_core.colorize.__main__ import main

    def run(*argv, model=tiny_model, notes=False):
        capfd.readouterr()
        status = main([*map(str, argv), "--model", str(model), "--device", "cpu"])
        out, err = capfd.readouterr()
        usual = r"ha(s|ve) colours already, which are replaced|was trained with English texts"
        skipped = r"\d+ coloured" if notes else rf"\d+ coloured|note: .*({usual})"
        return status, out.splitlines(), [line for line in err.splitlines() if not re.match(skipped, line)]

    return run


@pytest.fixture(scope="session")
def pictures(tmp_path_factory) -> Path:
    """A folder of 12 small pictures with captions beside them."""
    import numpy as np
    from PIL import Image
    from training import CAPTIONS

    folder = tmp_path_factory.mktemp("pictures")
    rng = np.random.default_rng(0)
    for i in range(12):
        base = rng.integers(0, 255, (6, 6, 3), np.uint8)
        Image.fromarray(base).resize((80, 64), Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
        (folder / f"{i:02}.txt").write_text(CAPTIONS[i % 3])
    return folder


@pytest.fixture(scope="session")
def encoder_file(tmp_path_factory) -> Path:
    """A file of TAESD's encoder layout with random weights."""
    import torch
    from diffusers import AutoencoderTiny
    from safetensors.torch import save_file

    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("taesd") / "taesd_encoder.safetensors"
    state = AutoencoderTiny().encoder.state_dict()
    save_file({name.removeprefix("layers."): tensor.clone() for name, tensor in state.items()}, path)
    return path


@pytest.fixture(scope="session")
def small_sd15(tmp_path_factory):
    """A small random model of SD1.5's layout, in all its forms."""
    import small_sd15

    return small_sd15.build(tmp_path_factory.mktemp("small-sd15"))


@pytest.fixture(scope="session")
def start_comfy(tiny_preset, tiny_model, tmp_path_factory):
    """Starts a real ComfyUI with this pack, `tiny` in models/seada and a few pictures; skips where there is none."""
    import comfy_server

    found = comfy_server.find()
    if isinstance(found, str):
        pytest.skip(found)

    @contextmanager
    def start(*arguments: str):
        base = tmp_path_factory.mktemp("comfy")
        from tiny_models import write_tiny_model

        write_tiny_model(base / "models" / "seada" / "tiny", tiny_preset, tiny_model)
        _write_pictures(base / "input")
        server = comfy_server.Server(base, *arguments)
        try:
            yield server
        finally:
            server.stop()

    return start


@pytest.fixture(scope="session")
def comfy(start_comfy):
    """The one that most tests share."""
    with start_comfy() as server:
        yield server


def _write_pictures(folder: Path) -> None:
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    photo = Image.open(Path(__file__).resolve().parents[1] / "samples" / "photo.jpg").convert("RGB")
    photo.resize((120, 80)).save(folder / "photo.png")
    photo.resize((120, 80)).transpose(Image.Transpose.FLIP_LEFT_RIGHT).save(folder / "flipped.png")
    photo.resize((67, 45)).save(folder / "odd.png")
    photo.resize((30, 90)).save(folder / "tall.png")

"""Shared fixtures. Photos and TAESD's weights lie beside the checkout; tests that need them skip without."""

from pathlib import Path

import pytest

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of test photos, training shards and TAESD's weights."""
    if not DATA.is_dir():
        pytest.skip(f"no test data at {DATA.parent.name}/{DATA.name} beside the repository")
    return DATA


@pytest.fixture(scope="session")
def tiny_preset():
    """`mini`'s classes at the smallest useful sizes."""
    from dataclasses import replace

    from seada_core import presets as p

    return replace(
        p.MINI,
        name="tiny",
        text=p.TextConfig(vocab_size=64, length=16, width=32, layers=1, heads=2),
        unet=p.UNetConfig(
            channels=(32, 32, 64), layers_per_block=1, attention=(False, False, True), heads=2, context_dim=32, groups=8
        ),
        adapter=p.AdapterConfig(length=16, width=32),
        control=p.ControlConfig(additive=True, head_dim=16),
        hint=p.HintConfig(channels=(8, 16, 16)),
        sampling=p.SamplingConfig(steps=3, guidance=2.0, size=64),
    )


@pytest.fixture(scope="session")
def tiny_model(tiny_preset, tmp_path_factory) -> Path:
    """A folder of part files of a tiny random model: quick, whole, and of no use as a colouriser."""
    import torch

    from seada_core import checkpoints
    from seada_core.tokenizer import Tokenizer

    folder = tmp_path_factory.mktemp("tiny-model")
    tokenizer = Tokenizer.from_captions(["a photo of a dog on green grass, blue sky"], 16, 64)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        for part in ("unet", "semantic_encoder", "semantic_adapter", "controlnet_rca", "hint_encoder", "vq_decoder"):
            module = checkpoints.build(part, tiny_preset, tokenizer if part == "semantic_encoder" else None)
            for name, parameter in module.named_parameters():
                if parameter.abs().max() == 0 and not name.endswith("bias"):  # zero projections must not hide a fault
                    torch.nn.init.normal_(parameter, std=0.02)
            checkpoints.save_part(folder / f"{part}.safetensors", part, tiny_preset, module)
    return folder

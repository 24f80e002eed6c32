"""Which precision a device trains in where `--precision` leaves the choice to it."""

from dataclasses import replace

import pytest
import torch
from training import encode, small_config

from seada_core.models import backbone
from seada_core.train.data import build_cache
from seada_core.train.loop import fit
from seada_core.train.stages import diffusion
from seada_core.train.stages.registry import STAGES


@pytest.mark.parametrize(
    "computes, precision, trains_in, frozen",
    [
        (True, "auto", torch.bfloat16, torch.bfloat16),
        (False, "auto", torch.float32, torch.float32),
        (False, "bf16", torch.bfloat16, torch.bfloat16),
    ],
)
def test_it_trains_in_bfloat16_where_the_device_computes_it(
    computes, precision, trains_in, frozen, tiny_parts, pictures, tmp_path, monkeypatch, capsys
):
    """A processor without such instructions takes many times as long in it as in float32."""
    monkeypatch.setattr("seada_core.train.precision.computes_bfloat16", lambda device: computes)
    seen, denoise = set(), backbone.denoise

    def recording(unet, *inputs):
        output = denoise(unet, *inputs)
        seen.add(output.dtype)
        return output

    monkeypatch.setattr(diffusion, "denoise", recording)
    modules, preset = tiny_parts
    config = replace(small_config(steps=2, frozen="bf16", optimizer="sgd"), precision=precision)
    cache = build_cache(str(pictures), tmp_path / "cache", 64, encode)
    stage = STAGES["stage2"].build(modules, preset, config)
    fit(stage, config, cache, tmp_path / "run", cache, workers=0)
    assert seen == {trains_in}
    assert next(stage.unet.parameters()).dtype is frozen
    assert next(stage.controlnet_rca.encoder.parameters()).dtype is torch.float32
    assert ("training in float32" in capsys.readouterr().err) == (not computes and precision == "auto")

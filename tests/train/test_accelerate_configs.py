"""The files in configs/accelerate."""

from pathlib import Path

import pytest
from accelerate.commands.config.config_args import load_config_from_file
from accelerate.commands.launch import _validate_launch_command, launch_command_parser
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from transformers.models.clip.modeling_clip import CLIPEncoderLayer

from seada_core import presets
from seada_core.models.controlnet_rca import RCA
from seada_core.models.token_diffusion import TokenBlock
from seada_core.train.checks import check_recipe
from seada_core.train.stages.registry import STAGES

EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "configs" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example_configurations_are_accelerates_own(path):
    """Each loads with accelerate's loader, `accelerate launch` takes it, and the recipe fits its processes."""
    loaded = load_config_from_file(str(path))
    assert loaded.num_processes == {"ddp-4-gpus": 4, "ddp-2-machines": 16}.get(path.stem, 8)
    arguments = launch_command_parser().parse_args(
        ["--config_file", str(path), "-m", "seada_core.train", "all", "--preset", "sd15"]
    )
    arguments, *_ = _validate_launch_command(arguments)
    assert arguments.mixed_precision == "bf16" and arguments.num_processes == loaded.num_processes
    assert arguments.use_fsdp == path.stem.startswith("fsdp")
    assert arguments.use_deepspeed == path.stem.startswith("deepspeed")
    for name, recipe in presets.SD15.training.items():
        check_recipe(recipe, loaded.num_processes, "cuda", STAGES[name].multiple)
    if arguments.use_fsdp:
        known = {layer.__name__ for layer in (ResnetBlock2D, Transformer2DModel, CLIPEncoderLayer, RCA, TokenBlock)}
        assert set(arguments.fsdp_transformer_layer_cls_to_wrap.split(",")) == known

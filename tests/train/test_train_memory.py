"""What makes a stage fit: activation checkpointing, frozen weights in bf16, 8-bit AdamW, cached texts, LoRA, and what
is refused before anything is computed."""

import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from conftest import make_tiny_parts, make_tiny_preset
from torch.autograd.graph import saved_tensors_hooks

from seada_core import presets
from seada_core.files.weight_headers import CheckpointError
from seada_core.models.backbone import build_unet
from seada_core.train import lora
from seada_core.train.averages import Averages, averaged
from seada_core.train.checks import TrainingError, check_recipe, micro_batches
from seada_core.train.memory import MemoryOptionError, build_optimizer, checkpoint_activations, freeze_in_bf16
from seada_core.train.stages.registry import STAGES
from seada_core.weights import part_files

CAPTIONS = ["a photo of a dog", "a photo of the sea"]


def config(**changes):
    return replace(presets.TrainConfig(), resolution=64, crop=64, batch=2, precision="no", **changes)


@pytest.fixture
def parts():
    return make_tiny_parts(CAPTIONS)


def batch(size=64):
    generator = torch.Generator().manual_seed(0)
    return {
        "rgb": torch.rand(2, 3, size, size, generator=generator),
        "latent": torch.randn(2, 4, size // 8, size // 8, generator=generator),
        "captions": CAPTIONS,
        "color_captions": CAPTIONS,
        "seeds": [1, 2],
        "places": [0, 1],
        "uniform": torch.tensor([0.2, 0.7]),
    }


def remembered(stage, data) -> tuple[int, dict]:
    """Bytes that the forward pass keeps for the backward pass (parameters apart), and the gradients."""
    weights = {p.untyped_storage().data_ptr() for p in stage.parameters()}
    kept = {}

    def pack(tensor):
        if tensor.untyped_storage().data_ptr() not in weights:
            kept[tensor.untyped_storage().data_ptr()] = tensor.untyped_storage().nbytes()
        return tensor

    with saved_tensors_hooks(pack, lambda tensor: tensor):
        loss = stage(data)["loss"]
    loss.backward()
    gradients = {n: p.grad.clone() for n, p in stage.named_parameters() if p.grad is not None}
    stage.zero_grad()
    return sum(kept.values()), gradients


@pytest.mark.parametrize("name", ["stage2", "stage3", "joint", "codec"])
def test_checkpointed_blocks_remember_less_and_give_the_same_gradients(parts, name):
    modules, preset = parts
    stage = STAGES[name].build(modules, preset, config()).train()
    data = batch()
    buffers = {n: b.clone() for n, b in stage.named_buffers()}
    names = set(stage.state_dict())
    plain, expected = remembered(stage, data)
    assert checkpoint_activations(stage) > 5
    with torch.no_grad():
        for n, b in stage.named_buffers():
            b.copy_(buffers[n.replace("_checkpoint_wrapped_module.", "")])
    less, found = remembered(stage, data)
    assert less < 0.6 * plain
    assert set(stage.state_dict()) == names
    for n, gradient in found.items():
        torch.testing.assert_close(gradient, expected[n.replace("_checkpoint_wrapped_module.", "")])


def test_checkpointing_covers_unet_conditional_encoder_and_rca(parts):
    """Every convolution and every attention of the three lies in a checkpointed block, but for the outermost layers."""
    modules, preset = parts
    stage = STAGES["stage2"].build(modules, preset, config())
    checkpoint_activations(stage)
    outside = [
        name
        for name, module in stage.named_modules()
        if isinstance(module, torch.nn.Conv2d | torch.nn.Linear)
        and name.startswith(("unet", "controlnet_rca.encoder", "controlnet_rca.rca"))
        and "_checkpoint_wrapped_module" not in name
    ]
    ends = ("conv_in", "conv_out", "time_embedding.linear_1", "time_embedding.linear_2")
    assert [name for name in outside if not name.endswith(ends)] == []


def test_frozen_parts_in_bf16_train_the_rest_in_fp32(parts):
    modules, preset = parts
    stage = STAGES["stage2"].build(modules, preset, config()).train()
    exact = stage(batch())["loss"].item()
    assert set(freeze_in_bf16(stage)) == {"unet", "semantic_encoder", "semantic_adapter"}
    assert {p.dtype for p in stage.unet.parameters()} == {torch.bfloat16}
    with torch.autocast("cpu", torch.bfloat16):
        loss = stage(batch())["loss"]
    loss.backward()
    assert loss.item() == pytest.approx(exact, rel=0.03)
    trained = [p for p in stage.parameters() if p.requires_grad]
    assert all(p.dtype == torch.float32 and torch.isfinite(p.grad).all() for p in trained if p.grad is not None)


def test_a_frozen_unet_in_bf16_keeps_its_lora_in_fp32(parts):
    modules, preset = parts
    lora.add_lora(modules["unet"], 2)
    stage = STAGES["stage2"].build(modules, preset, config(lora=2)).train()
    assert "unet" in freeze_in_bf16(stage)
    kinds = {(p.requires_grad, p.dtype) for p in stage.unet.parameters()}
    assert kinds == {(True, torch.float32), (False, torch.bfloat16)}
    with torch.autocast("cpu", torch.bfloat16):
        stage(batch())["loss"].backward()
    assert any(p.grad is not None and p.grad.abs().sum() > 0 for p in stage.unet.parameters())


def test_eight_bit_adamw_goes_where_adamw_goes():
    pytest.importorskip("bitsandbytes")
    torch.manual_seed(0)
    start, target = torch.randn(64, 128), torch.randn(64, 128)
    results = {}
    for name in ("adamw", "adamw8bit"):
        parameter = torch.nn.Parameter(start.clone())
        optimizer = build_optimizer([parameter], config(optimizer=name, lr=1e-2))
        for _ in range(20):
            optimizer.zero_grad()
            (parameter - target).square().sum().backward()
            optimizer.step()
        results[name] = parameter.detach()
        size = sum(t.nbytes for s in optimizer.state.values() for t in s.values() if torch.is_tensor(t))
        assert size < 2.5 * parameter.numel() if name == "adamw8bit" else size >= 8 * parameter.numel()
    moved = (results["adamw"] - start).norm()
    assert (results["adamw8bit"] - results["adamw"]).norm() < 0.05 * moved


def test_an_optimizer_that_cannot_be_had_says_so(monkeypatch):
    parameter = torch.nn.Parameter(torch.zeros(2))
    with pytest.raises(MemoryOptionError, match="unknown optimizer 'lion'"):
        build_optimizer([parameter], config(optimizer="lion"))
    monkeypatch.setitem(sys.modules, "bitsandbytes.optim", None)
    with pytest.raises(MemoryOptionError, match="pip install bitsandbytes"):
        build_optimizer([parameter], config(optimizer="adamw8bit"))


def test_averages_swap_places_with_the_weights():
    parameters = [torch.nn.Parameter(torch.tensor([1.0])), torch.nn.Parameter(torch.tensor([2.0]))]
    averages = Averages(parameters, 0.9)
    with torch.no_grad():
        parameters[0].add_(10)
    averages.step(parameters)  # the first step takes the weights as they are
    with torch.no_grad():
        parameters[0].add_(10)
    with averaged(averages, parameters):
        assert [p.item() for p in parameters] == [11, 2]
    assert [p.item() for p in parameters] == [21, 2]
    none = Averages(parameters, 0)
    none.step(parameters)
    assert none.state_dict()["shadow_params"] == []
    with averaged(none, parameters):
        assert parameters[0].item() == 21


# LoRA


def test_lora_trains_little_merges_and_diffusers_loads_it(parts, tmp_path):
    """The file loads into diffusers' own UNet as a LoRA, and that gives what the merged weights and training give."""
    from diffusers import UNet2DConditionModel
    from diffusers.loaders import StableDiffusionLoraLoaderMixin
    from safetensors.torch import save_file

    config = presets.UNetConfig(
        channels=(32, 64), layers_per_block=1, attention=(True, True), heads=2, context_dim=16, groups=8
    )
    torch.manual_seed(0)
    unet = build_unet(config)
    before = {name: tensor.clone() for name, tensor in unet.state_dict().items()}
    z, t, context = torch.randn(1, 4, 8, 8), torch.tensor([7]), torch.randn(1, 5, 16)
    plain = unet(z, t, context).sample
    lora.add_lora(unet, 3)
    trained = {name for name, p in unet.named_parameters() if p.requires_grad}
    assert trained and all(name.startswith("up_blocks") and ".lora_" in name for name in trained)
    torch.testing.assert_close(unet(z, t, context).sample, plain)  # B is zero
    with torch.no_grad():
        for name, p in unet.named_parameters():
            if ".lora_" in name:
                p.normal_(std=0.2)
    wanted = unet(z, t, context).sample
    assert (wanted - plain).abs().max() > 0.01

    tensors = lora.lora_tensors(unet.state_dict())
    save_file(tensors, tmp_path / "lora.safetensors")
    merged, left = lora.merge(before, tensors)
    assert merged.keys() == before.keys() and left == []

    fresh = build_unet(config)
    fresh.load_state_dict(merged)
    torch.testing.assert_close(fresh(z, t, context).sample, wanted, rtol=1e-3, atol=1e-4)

    other = UNet2DConditionModel.from_config(unet.config)
    other.load_state_dict(before)
    state, alphas = StableDiffusionLoraLoaderMixin.lora_state_dict(str(tmp_path / "lora.safetensors"))
    StableDiffusionLoraLoaderMixin.load_lora_into_unet(state, alphas, other)
    torch.testing.assert_close(other(z, t, context).sample, wanted, rtol=1e-3, atol=1e-4)

    again = build_unet(config)
    again.load_state_dict(before)
    lora.add_lora(again, 3, tmp_path / "lora.safetensors")
    torch.testing.assert_close(again(z, t, context).sample, wanted)
    with pytest.raises(CheckpointError, match="not a LoRA of rank 2"):
        lora.add_lora(build_unet(config), 2, tmp_path / "lora.safetensors")


def test_the_merge_command(tmp_path, capsys):
    from safetensors.torch import save_file

    preset = make_tiny_preset()
    unet = part_files.build("unet", preset)
    part_files.save_part(tmp_path / "unet.safetensors", "unet", preset, unet)
    layer = "up_blocks.0.attentions.0.transformer_blocks.0.attn1.to_q"
    width = unet.get_submodule(layer).weight.shape[0]
    down, up = torch.randn(2, width), torch.randn(width, 2)
    name = "lora_unet_" + layer.replace(".", "_")
    tensors = {f"{name}.lora_down.weight": down, f"{name}.lora_up.weight": up, f"{name}.alpha": torch.tensor(1.0)}
    tensors |= {"lora_te_x.lora_down.weight": torch.ones(2, 2), "lora_te_x.lora_up.weight": torch.ones(2, 2)}
    save_file(tensors, tmp_path / "lora.safetensors")
    files = [str(tmp_path / n) for n in ("unet.safetensors", "lora.safetensors", "merged/unet.safetensors")]
    assert lora.main([*files, "--strength", "0.5"]) == 0
    assert "not used" in capsys.readouterr().err
    merged = part_files.load_part(tmp_path / "merged" / "unet.safetensors", "unet")[0].state_dict()
    for key, tensor in unet.state_dict().items():
        change = 0.5 * (1.0 / 2) * up @ down if key == f"{layer}.weight" else torch.zeros(())
        torch.testing.assert_close(merged[key], tensor + change, rtol=1e-4, atol=1e-5)
    save_file({"lora_te_x.lora_down.weight": torch.ones(2, 2)}, tmp_path / "lora.safetensors")
    assert lora.main(files) == 1
    assert "holds no LoRA of this UNet" in capsys.readouterr().err


# cached texts


def test_cached_texts_stand_in_for_the_frozen_encoder(parts, tmp_path):
    from types import SimpleNamespace

    from seada_core.train.sources import DataError
    from seada_core.train.texts import CachedSemanticEncoder, cache_texts, text_is_frozen, use_cached_texts

    modules, preset = parts
    stage = STAGES["stage2"].build(modules, preset, config()).train()
    encoder = stage.semantic_encoder
    cache = SimpleNamespace(records=[{"captions": CAPTIONS, "color_captions": ["a red dog"]}, {}])
    folder = cache_texts(encoder, (cache, None), tmp_path)
    assert cache_texts(encoder, (cache,), tmp_path) == folder
    assert text_is_frozen(stage) and not text_is_frozen(STAGES["stage3"].build(dict(modules), preset, config()))
    stage = STAGES["stage2"].build(modules, preset, config()).train()
    expected = stage(batch())["loss"]
    use_cached_texts(stage, folder)
    assert isinstance(stage.semantic_encoder, CachedSemanticEncoder)
    assert not any(name.startswith("semantic_encoder") for name, _ in stage.named_parameters())
    torch.testing.assert_close(stage(batch())["loss"], expected, rtol=1e-3, atol=1e-4)
    for texts in (["a red dog", ""], ["a colorful photo", CAPTIONS[1]]):
        e, mask = stage.semantic_encoder(texts)
        wanted, wanted_mask = encoder(texts)
        torch.testing.assert_close(e, wanted, rtol=1e-3, atol=2e-3)
        assert torch.equal(mask, wanted_mask)
    with pytest.raises(DataError, match="'a cat' is not among the cached texts"):
        stage.semantic_encoder(["a cat"])
    with torch.no_grad():
        encoder.model.final_layer_norm.bias.add_(1)
    assert cache_texts(encoder, (cache,), tmp_path) != folder  # another encoder, other embeddings


def test_cached_texts_need_room(parts, tmp_path, monkeypatch):
    import shutil
    from types import SimpleNamespace

    from seada_core.train.sources import DataError
    from seada_core.train.texts import cache_texts

    monkeypatch.setattr(shutil, "disk_usage", lambda _: SimpleNamespace(free=100))
    with pytest.raises(DataError, match="GB left: give --cache-text False"):
        cache_texts(parts[0]["semantic_encoder"], (), tmp_path)


# refused before anything is computed


@pytest.mark.parametrize(
    "changes, message",
    [
        ({"batch": 3}, "batch of 3 cannot be shared among 2 processes"),
        ({"batch": 12, "micro_batch": 4}, "takes 6 pictures a step, no multiple of --micro-batch 4"),
        ({"resolution": 100}, "--resolution must be a multiple of 8 px"),
        ({"crop": 72}, "--crop must be .* at most the resolution, 64 px, not 72"),
        ({"precision": "fp16"}, "fp16 needs a GPU"),
        ({"precision": "fp8"}, "--precision must be no, bf16 or fp16, not fp8"),
        ({"frozen": "bf16"}, "--frozen bf16 needs autocast"),
        ({"lora": 4, "train_unet": True}, "either --lora or --train-unet"),
        ({"optimizer": "lion"}, "--optimizer must be adamw, adamw8bit or sgd"),
        ({"steps": 0}, "--steps must be at least 1"),
    ],
)
def test_recipes_that_cannot_work(changes, message):
    check_recipe(config(), 2, "cpu")
    with pytest.raises(TrainingError, match=message):
        check_recipe(replace(config(), **changes), 2, "cpu")


def test_micro_batches():
    assert micro_batches(config(), 1) == (2, 1)
    c = replace(config(), batch=32, micro_batch=8)
    assert [micro_batches(c, n) for n in (1, 2, 4, 8)] == [(8, 4), (8, 2), (8, 1), (4, 1)]
    with pytest.raises(TrainingError, match="2 by 2, so not 1 at once"):
        micro_batches(replace(c, batch=8), 8, multiple=2)


EXAMPLES = sorted((Path(__file__).resolve().parents[2] / "configs" / "accelerate").glob("*.yaml"))


@pytest.mark.parametrize("path", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_example_configurations_are_accelerates_own(path):
    """Each loads with accelerate's loader, `accelerate launch` takes it, and the recipe fits its processes."""
    from accelerate.commands.config.config_args import load_config_from_file
    from accelerate.commands.launch import _validate_launch_command, launch_command_parser

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
        check_recipe(recipe, loaded.num_processes, "cuda", 2 if name in ("codec", "decoder") else 1)
    if arguments.use_fsdp:
        from diffusers.models.resnet import ResnetBlock2D
        from diffusers.models.transformers.transformer_2d import Transformer2DModel
        from transformers.models.clip.modeling_clip import CLIPEncoderLayer

        import seada_core.models.controlnet_rca
        import seada_core.models.token_diffusion

        known = {
            cls.__name__
            for cls in (
                ResnetBlock2D, Transformer2DModel, CLIPEncoderLayer,
                seada_core.models.controlnet_rca.RCA, seada_core.models.token_diffusion.TokenBlock,
            )
        }  # fmt: skip
        assert set(arguments.fsdp_transformer_layer_cls_to_wrap.split(",")) == known


def test_the_papers_numbers_are_the_presets():
    """SeAda, implementation details; EDN, Table 3, method and efficiency."""
    recipes = presets.SD15.training
    assert [recipes[s].steps for s in ("stage1", "stage2", "stage3")] == [20_000, 50_000, 10_000]
    assert {n: recipes[n].steps for n in ("codec", "tokens", "ccd")} == {
        "codec": 44_000,
        "tokens": 42_000,
        "ccd": 50_000,
    }
    for recipe in recipes.values():
        assert (recipe.lr, recipe.batch, recipe.resolution, recipe.betas) == (1e-5, 32, 512, (0.9, 0.999))
        assert recipe.decay == 0 and recipe.warmup == 0
    assert recipes["ccd"].generic_prob == 0.5
    from seada_core.train.stages import joint

    assert (joint.CCD_WEIGHT, joint.VQ_WEIGHT) == (0.1, 0.6)

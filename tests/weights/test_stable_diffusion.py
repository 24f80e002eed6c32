"""Stable Diffusion 1.5's own files: names and shapes of the real size, small files of the same layout, wrong files."""

import json
import shutil
from dataclasses import asdict, replace

import original_names
import pytest
import torch
from safetensors.torch import load_file, save_file
from small_sd15 import ATTENTION, LAYERS, SMALL, SMALL_VAE, same

from seada_core.files.weight_headers import CheckpointError, Header
from seada_core.models.semantic_adapter import SemanticEncoder
from seada_core.models.unet import UNet
from seada_core.options import ColorizeOptions
from seada_core.presets import SD15, VAEConfig
from seada_core.weights import part_files, stable_diffusion, state_dicts
from seada_core.weights.export import diffusers_unet
from seada_core.weights.stable_diffusion import Base
from seada_core.weights.state_dicts import Weights, on_meta
from seada_core.weights.stock_controlnet import StockWeights, build_controlnet, start_from
from seada_core.weights.vae import load_vae


def real_size(part):
    """The part at SD1.5's size, without memory."""
    return on_meta(
        {
            "unet": lambda: UNet(SD15.unet),
            "text_encoder": lambda: SemanticEncoder(SD15.text),
            "vae": lambda: stable_diffusion.build_vae(VAEConfig()),
            "controlnet": lambda: build_controlnet(SD15.unet),
        }[part]
    )


def header(tensors, path="some.safetensors") -> Header:
    return Header(path, {name: tuple(tensor.shape) for name, tensor in tensors.items()})


# --- names of the real size -------------------------------------------------------------------------------------------

WAYS = {
    "unet": (lambda s: original_names.unet(s, LAYERS, ATTENTION, "model.diffusion_model."), 686),
    "text_encoder": (original_names.text, 196),
    "vae": (lambda s: original_names.vae(s, "first_stage_model."), 248),
    "controlnet": (lambda s: original_names.unet(s, LAYERS, ATTENTION, "control_model."), 340),
}
CONVERTERS = {
    "unet": lambda: state_dicts.unet_names(SD15.unet),
    "text_encoder": lambda: state_dicts.text_names,
    "vae": lambda: state_dicts.vae_names(VAEConfig()),
    "controlnet": lambda: state_dicts.controlnet_names(SD15.unet),
}


@pytest.mark.parametrize("part", WAYS)
def test_the_original_names_of_sd15_become_the_modules_own(part):
    module = real_size(part)
    rename, count = WAYS[part]
    original = rename(module.state_dict())
    report = Weights([header(original)], part, CONVERTERS[part]()).report(part, module)
    assert (report.loaded, report.fits, report.ignored) == (count, True, {})
    # each tensor lands where it came from
    marked = {name: torch.full((1,) * tensor.ndim, float(i)) for i, (name, tensor) in enumerate(original.items())}
    back = CONVERTERS[part]()(marked)
    places = {name: i for i, name in enumerate(module.state_dict())}
    assert {name: int(tensor.flatten()[0]) for name, tensor in back.items()} == places


@pytest.mark.parametrize("part", WAYS)
def test_every_name_that_does_not_fit_is_reported(part):
    module = real_size(part)
    original = WAYS[part][0](module.state_dict())
    names = list(original)
    lost, bent = names[5], next(name for name in names[10:] if original[name].ndim == 1)
    prefix = {"unet": "model.diffusion_model", "controlnet": "control_model"}.get(part, names[0].split(".")[0])
    del original[lost]
    original[bent] = torch.empty(7, device="meta")
    original[f"{prefix}.extra.weight"] = torch.empty(1, device="meta")
    report = Weights([header(original)], part, CONVERTERS[part]()).report(part, module)
    assert report.unexpected == [f"{prefix}.extra.weight"]
    assert list(report.misshapen) == [bent] and report.misshapen[bent][0] == (7,)
    assert len(report.missing) == 1 and report.loaded == len(module.state_dict()) - 2
    with pytest.raises(CheckpointError, match=r"1 misshapen .*1 missing .*1 unexpected"):
        report.require()
    assert report.require(strict=False) is report


COMFY_CLASSES = """
import torch, comfy.cldm.cldm, comfy.ldm.models.autoencoder, comfy.ops, comfy.sd1_clip, comfy.utils
from comfy.ldm.modules.diffusionmodules.openaimodel import UNetModel
sizes = {
    "image_size": 32, "in_channels": 4, "model_channels": 320, "num_res_blocks": [2, 2, 2, 2],
    "channel_mult": [1, 2, 4, 4], "transformer_depth": [1, 1, 1, 1, 1, 1, 0, 0], "transformer_depth_middle": 1,
    "num_heads": 8, "use_spatial_transformer": True, "context_dim": 768, "legacy": False,
}
autoencoder = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}
plain = comfy.ops.disable_weight_init
depth = [1, 1, 1, 1, 1, 1, 1, 1, 1, 0, 0, 0]
with torch.device("meta"):
    modules = {
        "unet": UNetModel(**sizes, out_channels=4, transformer_depth_output=depth, operations=plain),
        "controlnet": comfy.cldm.cldm.ControlNet(**sizes, hint_channels=3, operations=plain),
        "vae": comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=autoencoder, embed_dim=4),
        "text_encoder": comfy.sd1_clip.SDClipModel(device="cpu", dtype=torch.float32).transformer,
    }
result = {part: {n: list(t.shape) for n, t in module.state_dict().items()} for part, module in modules.items()}
result["diffusers"] = comfy.utils.unet_to_diffusers({**sizes, "transformer_depth_output": depth})
"""


@pytest.mark.slow
def test_comfyuis_own_classes_have_these_names_and_shapes(comfy):
    theirs = comfy.probe(COMFY_CLASSES)
    for part, prefix in (("unet", "model.diffusion_model."), ("controlnet", "control_model."), ("vae", "")):
        state = real_size(part).state_dict()
        ours = original_names.vae(state) if part == "vae" else WAYS[part][0](state)
        ours = {name.removeprefix(prefix): list(tensor.shape) for name, tensor in ours.items()}
        assert ours == theirs[part], part
    text = original_names.text(real_size("text_encoder").state_dict(), "text_model.")
    stock = {n: s for n, s in theirs["text_encoder"].items() if "position_ids" not in n and "projection.w" not in n}
    assert {name: list(tensor.shape) for name, tensor in text.items()} == stock
    table = theirs["diffusers"]  # their own table from diffusers' names
    for name in real_size("unet").state_dict():
        assert table[name] == original_names.unet_name(name, LAYERS, ATTENTION)


# --- small files ------------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def modules(small_sd15):
    return small_sd15.modules


@pytest.fixture(scope="module")
def single_file(small_sd15):
    return small_sd15.single_file


@pytest.fixture(scope="module")
def diffusers_folder(small_sd15):
    return small_sd15.diffusers


@pytest.fixture(scope="module")
def part_folder(small_sd15):
    return small_sd15.parts


@pytest.mark.parametrize("form", ["single file", "diffusers folder", "half folder", "shards"])
def test_a_base_is_what_was_written(form, modules, single_file, diffusers_folder, tmp_path):
    if form == "single file":
        base = Base(single_file, SMALL, SMALL_VAE)
    else:
        folder = shutil.copytree(diffusers_folder, tmp_path / "copy")
        if form == "half folder":  # the smaller of two files is left alone
            diffusers_unet(modules["unet"]).save_pretrained(folder / "unet", variant="fp16")
        elif form == "shards":
            (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
            diffusers_unet(modules["unet"]).save_pretrained(folder / "unet", max_shard_size="1MB")
            assert len(list((folder / "unet").glob("*.safetensors"))) > 2
        base = Base(folder)
        assert (base.preset.unet, base.preset.text) == (SMALL.unet, SMALL.text)
    for part in ("unet", "semantic_encoder", "vae"):
        component = "text_encoder" if part == "semantic_encoder" else part
        module, report = base.load(part)
        assert same(module, modules[component]) and report.fits and not module.training
        assert base.report(part).loaded == len(module.state_dict())
    left = base.left_out()
    assert not left.unexpected and sum(left.ignored.values()) == (13 if form == "single file" else 0)


def test_averaged_weights_are_taken_when_asked_for(single_file, tmp_path):
    tensors = load_file(single_file)
    names = [name for name in tensors if name.startswith("model.diffusion_model.")]
    tensors |= {"model_ema." + "".join(name.split(".")[1:]): tensors[name] + 1 for name in names}
    save_file(tensors, tmp_path / "pruned.safetensors")
    plain, ema = (Base(tmp_path / "pruned.safetensors", SMALL, SMALL_VAE, ema=ema).load("unet")[0] for ema in (0, 1))
    averaged = ema.state_dict()
    assert all(torch.equal(tensor + 1, averaged[name]) for name, tensor in plain.state_dict().items())
    with pytest.raises(CheckpointError, match="no averaged"):
        Base(single_file, SMALL, ema=True).load("unet")


def test_a_vae_in_every_form(modules, single_file, diffusers_folder, tmp_path):
    state = modules["vae"].state_dict()
    original = {name: tensor.contiguous() for name, tensor in original_names.vae(state).items()}
    save_file(original | {"loss.logvar": torch.zeros(1)}, tmp_path / "vae.safetensors")
    save_file(state, tmp_path / "diffusers.safetensors")
    old = shutil.copytree(diffusers_folder / "vae", tmp_path / "old")
    older = {"to_q": "query", "to_k": "key", "to_v": "value", "to_out.0": "proj_attn"}
    renamed = {}
    for name, tensor in state.items():
        for new, before in older.items():
            name = name.replace(f".{new}.", f".{before}.")
        renamed[name] = tensor
    assert renamed.keys() != state.keys()
    save_file(renamed, old / "diffusion_pytorch_model.safetensors")
    files = ("vae.safetensors", "diffusers.safetensors", "old")
    for path in (*(tmp_path / name for name in files), single_file, diffusers_folder, diffusers_folder / "vae"):
        module, report = load_vae(path, SMALL_VAE)
        assert same(module, modules["vae"]), path
        assert report.fits


@pytest.mark.parametrize("form", ["prefixed", "bare", "diffusers file", "diffusers folder"])
@torch.no_grad()
def test_a_stock_controlnet_in_every_form_gives_diffusers_residuals(form, modules, tmp_path):
    net, path = modules["controlnet"], tmp_path / "control.safetensors"
    if form == "diffusers folder":
        net.save_pretrained(tmp_path / "folder")
        path = tmp_path / "folder"
    elif form == "diffusers file":
        save_file(net.state_dict(), path)
    else:
        prefix = "control_model." if form == "prefixed" else ""
        save_file(original_names.unet(net.state_dict(), LAYERS, ATTENTION, prefix), path)
    stock, report = StockWeights(path, SMALL.unet).load()
    assert report.fits and same(stock.net, net)
    z, t, context, picture = torch.randn(2, 4, 8, 8), torch.tensor(40), torch.randn(2, 77, 32), torch.rand(2, 3, 64, 64)
    down, middle = net(z, t, context, picture, return_dict=False)
    features = stock.encode(z, t, context, 0.5, c_f=picture)
    for ours, theirs in zip(features.residuals, [*down, middle], strict=True):
        torch.testing.assert_close(ours, theirs * 0.5)
    assert torch.equal(stock.attend(0, z, features), z)


@pytest.mark.parametrize("additive", [True, False])
@torch.no_grad()
def test_a_controller_starts_from_a_stock_controlnet(additive, modules, tmp_path):
    """At first it sees what the stock one sees where its embedder gives nothing."""
    from seada_core.models.controlnet_rca import ControlNetRCA

    modules["controlnet"].save_pretrained(tmp_path / "stock")
    stock, _ = StockWeights(tmp_path / "stock", SMALL.unet).load()
    control = ControlNetRCA(modules["unet"], replace(SMALL.control, additive=additive)).eval()
    notes = start_from(control, stock)
    assert "embedder" in notes[0] and len(notes) == (1 if additive else 2)
    # at 1/8 of this latent a group still has several values: a norm of two is ill-conditioned
    z, t, context, picture = (
        torch.randn(1, 4, 16, 16),
        torch.tensor(40),
        torch.randn(1, 77, 32),
        torch.rand(1, 3, 128, 128),
    )
    torch.nn.init.zeros_(stock.net.controlnet_cond_embedding.conv_out.weight)
    torch.nn.init.zeros_(stock.net.controlnet_cond_embedding.conv_out.bias)
    expected = stock.encode(z, t, context, c_f=picture).residuals
    features = control.encode(z, t, context, picture)
    if not additive:
        convs = [*stock.net.controlnet_down_blocks, stock.net.controlnet_mid_block]
        features.residuals = [conv(feature) for conv, feature in zip(convs, features.maps, strict=True)]
    for ours, theirs in zip(features.residuals, expected, strict=True):
        torch.testing.assert_close(ours, theirs, rtol=1e-4, atol=1e-5)
    other = ControlNetRCA(UNet(replace(SMALL.unet, channels=(32, 32, 64, 64))), SMALL.control)
    with pytest.raises(CheckpointError, match="made for another UNet"):
        start_from(other, stock)


def test_a_hub_name_is_taken_from_the_local_cache_alone(diffusers_folder, tmp_path, monkeypatch):
    import huggingface_hub

    cache = tmp_path / "models--someone--sd15"
    shutil.copytree(diffusers_folder, cache / "snapshots" / "abc123")
    (cache / "refs").mkdir()
    (cache / "refs" / "main").write_text("abc123")
    plain = huggingface_hub.snapshot_download
    asked = []

    def snapshot_download(name, **options):
        asked.append(options["local_files_only"])
        return plain(name, cache_dir=tmp_path, **options)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    assert Base("someone/sd15").preset.unet == SMALL.unet
    with pytest.raises(CheckpointError, match="not in the local cache: give --download"):
        Base("someone/else")
    assert asked == [True, True]
    with pytest.raises(CheckpointError, match="does not exist"):
        Base("nowhere/at/all")


# --- the same picture from every form ---------------------------------------------------------------------------------


@pytest.mark.slow
@torch.no_grad()
def test_a_base_beside_part_files_colours_as_part_files_alone(modules, diffusers_folder, part_folder, tmp_path):
    from PIL import Image

    from seada_core.pipeline import Colorizer

    whole = shutil.copytree(part_folder, tmp_path / "whole")
    part_files.save_part(whole / "unet.safetensors", "unet", SMALL, modules["unet"])
    part_files.save_part(whole / "semantic_encoder.safetensors", "semantic_encoder", SMALL, modules["text_encoder"])
    shutil.copy(part_files.EMBEDDED / "vq_decoder.safetensors", whole)
    photo = Image.linear_gradient("L").resize((64, 64))
    options = {"prompt": "a dog", "steps": 2, "size": 64, "guidance": 2.0}
    expected = Colorizer.from_pretrained(str(whole))(photo, **options)
    beside = Colorizer.from_pretrained(str(part_folder), base=diffusers_folder)
    assert list(beside(photo, **options).getdata()) == list(expected.getdata())
    assert beside.preset.unet == SMALL.unet and beside.has("captioner") and not beside.has("token_diffusion")
    alone = Colorizer.from_pretrained(base=diffusers_folder)
    assert not alone.has("controlnet_rca") and not alone.has("semantic_adapter")
    assert list(alone(photo, **options).getdata()) != list(expected.getdata())


@torch.no_grad()
def test_a_stock_controlnet_steers_in_place_of_the_own(modules, diffusers_folder, tmp_path):
    from seada_core.pipeline import Colorizer

    modules["controlnet"].save_pretrained(tmp_path / "control")
    colorizer = Colorizer.from_pretrained(base=diffusers_folder, control=tmp_path / "control")
    gray, context = torch.rand(1, 1, 64, 64), colorizer.context(["a dog"])
    options = ColorizeOptions(steps=1, guidance=1.0, seed=3)
    ours = colorizer.sample(gray, context, None, options)
    x = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(3))[None]
    t = torch.tensor(999)
    down, middle = modules["controlnet"](x, t, context, gray.expand(-1, 3, -1, -1), return_dict=False)
    unet = diffusers_unet(modules["unet"])
    eps = unet(x, t, context, down_block_additional_residuals=down, mid_block_additional_residual=middle).sample
    alpha_bar = colorizer.schedule.alphas_cumprod[999]
    torch.testing.assert_close(ours, (x - (1 - alpha_bar).sqrt() * eps) / alpha_bar.sqrt(), rtol=1e-3, atol=1e-3)
    assert not torch.allclose(ours, colorizer.sample(gray, context, None, replace(options, strength=0)), atol=1e-2)


def test_parts_and_base_must_belong_together(diffusers_folder, part_folder, tiny_model):
    from seada_core.pipeline import Colorizer

    with pytest.raises(CheckpointError, match=r"controlnet_rca\.safetensors was made for another model"):
        (tiny := tiny_model.parent / "without").mkdir(exist_ok=True)
        shutil.copy(tiny_model / "controlnet_rca.safetensors", tiny)
        Colorizer.from_pretrained(str(tiny), base=diffusers_folder)
    with pytest.raises(CheckpointError, match="the embedded model needs no base"):
        Colorizer.from_pretrained("mini", base=diffusers_folder)
    with pytest.raises(CheckpointError, match="made for another UNet"):
        Colorizer.from_pretrained(base=diffusers_folder, control=tiny / "controlnet_rca.safetensors")


@pytest.mark.parametrize(
    "component, changes, message",
    [
        ("unet", {"cross_attention_dim": 2048}, "Stable Diffusion XL"),
        ("unet", {"cross_attention_dim": 1024, "use_linear_projection": True}, "Stable Diffusion 2"),
        ("unet", {"addition_embed_type": "text_time"}, "another kind"),
        ("unet", {"in_channels": 9}, "9 channels"),
        ("text_encoder", {"vocab_size": 30522}, "not CLIP's text model"),
        ("vae", {"scaling_factor": 0.13025}, "scaled by 0.13025"),
        ("vae", {"latent_channels": 16}, "16 channels"),
        ("scheduler", {"beta_schedule": "linear"}, "noise schedule 'linear'"),
    ],
)
def test_a_diffusers_folder_of_another_family_is_named(component, changes, message, diffusers_folder, tmp_path):
    folder = shutil.copytree(diffusers_folder, tmp_path / "copy")
    path = folder / component / ("scheduler_config.json" if component == "scheduler" else "config.json")
    path.write_text(json.dumps(json.loads(path.read_text()) | changes))
    with pytest.raises(CheckpointError, match=message):
        Base(folder)


def test_folders_that_are_not_whole(diffusers_folder, tmp_path):
    folder = shutil.copytree(diffusers_folder, tmp_path / "copy")
    (folder / "model_index.json").write_text('{"_class_name": "FluxPipeline"}')
    with pytest.raises(CheckpointError, match="is a FluxPipeline; expected a StableDiffusionPipeline"):
        Base(folder)
    (folder / "model_index.json").unlink()
    (folder / "unet" / "diffusion_pytorch_model.safetensors").unlink()
    with pytest.raises(CheckpointError, match=r"holds no \.safetensors file"):
        Base(folder).load("unet")
    (folder / "unet" / "diffusion_pytorch_model.bin").write_bytes(b"PK\x03\x04")
    with pytest.raises(CheckpointError, match=r"is a pickle.*docs/weights\.md"):
        Base(folder).load("unet")
    shutil.rmtree(folder / "text_encoder")
    with pytest.raises(CheckpointError, match="has no text_encoder"):
        Base(folder).load("semantic_encoder")
    with pytest.raises(CheckpointError, match="holds a UNet2DConditionModel alone"):
        Base(folder / "unet")
    with pytest.raises(CheckpointError, match=r"holds no unet/config\.json"):
        Base(tmp_path)


def test_weights_that_do_not_fit_take_no_memory(single_file, monkeypatch):
    """SD1.5's sizes are expected of a single file unless told otherwise: known without reading it."""
    monkeypatch.setattr(Weights, "tensors", lambda *_: pytest.fail("the weights were read"))
    with pytest.raises(CheckpointError, match=r"does not fit unet: 683 misshapen .* expected \[320, 4, 3, 3\]"):
        Base(single_file).load("unet")


def test_damaged_values_are_found(single_file, tmp_path):
    tensors = load_file(single_file)
    tensors["model.diffusion_model.out.2.bias"][1] = float("nan")
    save_file(tensors, tmp_path / "nan.safetensors")
    with pytest.raises(CheckpointError, match=r"is damaged: conv_out\.bias"):
        Base(tmp_path / "nan.safetensors", SMALL).load("unet")


def test_not_strict_leaves_out_what_does_not_fit(single_file, modules, tmp_path):
    tensors = load_file(single_file)
    del tensors["model.diffusion_model.out.2.bias"]
    tensors["model.diffusion_model.extra"] = torch.zeros(1)
    save_file(tensors, tmp_path / "odd.safetensors")
    module, report = Base(tmp_path / "odd.safetensors", SMALL).load("unet", strict=False)
    assert (report.missing, report.unexpected) == (["conv_out.bias"], ["model.diffusion_model.extra"])
    assert torch.equal(module.conv_in.weight, modules["unet"].conv_in.weight)
    assert torch.isfinite(module.conv_out.bias).all()


def test_sizes_of_a_folder_are_those_written(modules):
    assert stable_diffusion.unet_config(dict(diffusers_unet(modules["unet"]).config), "x") == SMALL.unet
    assert asdict(stable_diffusion.vae_config(dict(modules["vae"].config), "x")) == asdict(SMALL_VAE)

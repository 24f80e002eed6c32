"""The same weights in diffusers' UNet and in ComfyUI's own: the changed forward agrees to a relative 1e-3.

Twelve sites of RCA and the hint encoder's modulation, by `backbone.denoise` here and by the nodes' patches there.
"""

import gc
import shutil

import numpy as np
import original_names
import pytest
import torch
from comfy_server import node
from PIL import Image
from safetensors import safe_open
from safetensors.torch import load_file, save_file
from small_sd15 import ATTENTION, LAYERS, SMALL

from seada_core.convert.__main__ import main as convert
from seada_core.files.hint_format import Hint
from seada_core.hints.maps import hint_map
from seada_core.models import backbone
from seada_core.models.ccd import HintEncoder
from seada_core.models.semantic_adapter import SemanticEncoder
from seada_core.models.unet import UNet
from seada_core.pipeline import Colorizer
from seada_core.presets import SD15, VAEConfig
from seada_core.weights import part_files, stable_diffusion
from seada_core.weights.state_dicts import on_meta
from seada_core.weights.stock_controlnet import StockWeights, build_controlnet, controller_from

POINTS = '[{"x": 30, "y": 20, "color": "#d04020", "radius": 9}, {"x": 80, "y": 100, "color": "#2040d0", "radius": 20}]'
HINTS = [Hint(30, 20, "#d04020", 9), Hint(80, 100, "#2040d0", 20)]

# the UNet as a sampler calls it, with the wrappers that the nodes added
FORWARD = """
import torch, comfy.model_management, comfy.sampler_helpers
given = torch.load(PATH)
options = {**a.model_options, "transformer_options": dict(a.model_options["transformer_options"])}
comfy.sampler_helpers.prepare_model_patcher(a, {}, options)
comfy.model_management.load_models_gpu([a, *a.get_nested_additional_models()], force_full_load=True)
unet = a.model.diffusion_model
with torch.no_grad():
    changed = unet(given["x"], given["t"], context=given["context"], transformer_options=options["transformer_options"])
    plain = unet(given["x"], given["t"], context=given["context"], transformer_options={})
torch.save({"changed": changed.float(), "plain": plain.float()}, PATH)
result = [type(unet).__module__, str(next(unet.parameters()).dtype)]
"""


def write_photo(path, size: tuple[int, int]) -> torch.Tensor:
    """A grey picture of (height, width) as a file; and as (1, 1, H, W) in [0, 1]."""
    from pathlib import Path

    photo = Image.open(Path(__file__).resolve().parents[2] / "samples" / "photo.jpg").convert("L")
    photo = photo.resize(size[::-1])
    photo.save(path)
    return torch.from_numpy(np.asarray(photo, np.float32) / 255)[None, None]


def inputs(cells: tuple[int, int], width: int) -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {
        "x": torch.randn(2, 4, *cells, generator=generator),
        "t": torch.tensor([901.0, 37.0]),
        "context": torch.randn(2, 77, width, generator=generator),
    }


@torch.no_grad()
def here(colorizer: Colorizer, given: dict, gray: torch.Tensor) -> dict[str, torch.Tensor]:
    """The changed and the plain output of diffusers' UNet."""
    unet, control, encoder = (colorizer.part(part) for part in ("unet", "controlnet_rca", "hint_encoder"))
    assert len(control.rca) == 12 and control.zero_convs is None
    x, t, context = given["x"], given["t"], given["context"]
    features = control.encode(x, t, context, gray.expand(2, 3, -1, -1))
    asked = encoder.encode(gray, hint_map(HINTS, tuple(gray.shape[-2:]), tuple(gray.shape[-2:])))
    asked = [feature.expand(2, -1, -1, -1) for feature in asked]
    hooks = [lambda i, h: control.attend(i, h, features), lambda i, h: encoder.modulate(i, h, asked)]
    return {
        "changed": backbone.denoise(unet, x, t, context, features.residuals, hooks),
        "plain": backbone.denoise(unet, x, t, context),
    }


def patched(model: list, folder: str, image: str) -> dict:
    """A graph whose MODEL ["ccd", 0] has RCA and modulation."""
    windows = {"start": 0.0, "end": 1.0}
    weights = dict.fromkeys(("hint", "palette", "exposure", "constancy", "smoothness"), 0.0)
    return {
        "image": node("LoadImage", image=image),
        "parts": node("SeAdaLoadModel", model_name=folder),
        "load_control": node("SeAdaLoadControlNetRCA", control_name=f"{folder}/controlnet_rca.safetensors"),
        "control": node(
            "SeAdaApplyControlNetRCA",
            **{"model": model, "control": ["load_control", 0], "image": ["image", 0], "strength": 1.0, **windows},
        ),
        "hints": node("SeAdaHints", image=["image", 0], points=POINTS, mask_color="#000000"),
        "ccd": node(
            "SeAdaCCD",
            **{"model": ["control", 0], "image": ["image", 0], "seada": ["parts", 1], "hints": ["hints", 0]},
            **{"scale": 0.0, "modulation": 1.0, **windows, **weights},
        ),
    }


def agree(comfy, nodes: dict, given: dict, ours: dict[str, torch.Tensor]) -> None:
    path = comfy.base / "forward.pt"
    torch.save(given, path)
    module, dtype = comfy.probe(f"PATH = {str(path)!r}\n{FORWARD}", nodes, a=["ccd", 0])
    assert (module, dtype) == ("comfy.ldm.modules.diffusionmodules.openaimodel", "torch.float32")
    theirs = torch.load(path)
    for name in ("plain", "changed"):
        assert (theirs[name] - ours[name]).abs().max() < 1e-3 * ours[name].abs().max(), name
    # and the change is much larger than the tolerance
    assert (ours["changed"] - ours["plain"]).abs().max() > 0.05 * ours["plain"].abs().max()


def test_the_changed_forward_is_the_same_in_both_unets(comfy, small_sd15):
    folder = comfy.base / "models" / "seada" / "agreement"
    if not folder.is_dir():
        shutil.copytree(small_sd15.parts, folder)
        part_files.save_part(folder / "unet.safetensors", "unet", SMALL, small_sd15.modules["unet"])
    gray = write_photo(comfy.base / "input" / "agreement.png", (17 * 8, 26 * 8))  # odd at every level
    given = inputs((17, 26), 32)
    ours = here(Colorizer(folder), given, gray)
    agree(comfy, patched(["parts", 0], "agreement", "agreement.png"), given, ours)


# --- full size --------------------------------------------------------------------------------------------------------


def random_state(module: torch.nn.Module) -> dict[str, torch.Tensor]:
    """Random half-precision weights for a module on the meta device."""
    state = {}
    for name, tensor in module.state_dict().items():
        if tensor.ndim > 1:
            state[name] = (torch.randn(tensor.shape) * tensor[0].numel() ** -0.5).half()
        else:
            state[name] = torch.full(tensor.shape, float(name.endswith("weight"))).half()
    return state


@pytest.fixture
def full_size(tmp_path):
    """A single-file checkpoint and a stock ControlNet of SD1.5's size, and a folder of parts to use with one."""
    torch.manual_seed(0)
    modules = [
        on_meta(build)
        for build in (
            lambda: UNet(SD15.unet),
            lambda: SemanticEncoder(SD15.text),
            lambda: stable_diffusion.build_vae(VAEConfig()),
            lambda: build_controlnet(SD15.unet),
        )
    ]
    unet, text, vae, control = map(random_state, modules)
    tensors = {
        **original_names.unet(unet, LAYERS, ATTENTION, "model.diffusion_model."),
        **original_names.text(text),
        **original_names.vae(vae, "first_stage_model."),
        **original_names.leftovers(),
    }
    files = {"checkpoint": tmp_path / "sd15.safetensors", "control": tmp_path / "control.safetensors"}
    save_file(tensors, files["checkpoint"])
    save_file(original_names.unet(control, LAYERS, ATTENTION, "control_model."), files["control"])
    files["parts"] = tmp_path / "parts"
    files["parts"].mkdir()
    stock, _ = StockWeights(files["control"]).load()
    for part in ("controlnet_rca", "hint_encoder", "semantic_adapter"):
        if part == "controlnet_rca":
            module, _ = controller_from(stock, SD15)
            torch.nn.init.normal_(module.encoder.conv_in.weight[:, 4:], std=0.2)
        elif part == "hint_encoder":
            module = HintEncoder(on_meta(lambda: UNet(SD15.unet)), SD15.hint)
        else:
            module = part_files.build(part, SD15)
        for parameter in module.parameters():
            if parameter.abs().max() == 0:
                torch.nn.init.normal_(parameter, std=0.03)
        part_files.save_part(files["parts"] / f"{part}.safetensors", part, SD15, module)
    del stock, module, parameter, modules, unet, text, vae, control, tensors
    yield files
    shutil.rmtree(tmp_path)


def same_tensors(path, other, rename=lambda name: name) -> int:
    """How many tensors of two safetensors files are equal; all must be."""
    with safe_open(path, "pt") as ours, safe_open(other, "pt") as theirs:
        assert {rename(name) for name in ours.keys()} == set(theirs.keys())  # noqa: SIM118
        for name in ours.keys():  # noqa: SIM118
            assert torch.equal(ours.get_tensor(name), theirs.get_tensor(rename(name))), name
        return len(list(ours.keys()))


@pytest.mark.slow
def test_a_full_size_checkpoint_converts_and_agrees(full_size, start_comfy, tmp_path):
    """Original names to a diffusers folder to part files; and the single file as base, here and in ComfyUI."""
    checkpoint, folder, half = str(full_size["checkpoint"]), tmp_path / "diffusers", ["--dtype", "float16"]
    assert convert([checkpoint, str(folder), "--to", "diffusers", *half]) == 0
    assert convert([str(folder), str(tmp_path / "from-folder"), *half]) == 0
    assert convert([checkpoint, str(tmp_path / "from-file"), *half]) == 0
    assert convert([str(full_size["control"]), *half]) == 0
    with safe_open(checkpoint, "pt") as file:
        for name, tensor in load_file(folder / "unet" / "diffusion_pytorch_model.safetensors").items():
            original = "model.diffusion_model." + original_names.unet_name(name, LAYERS, ATTENTION)
            assert torch.equal(file.get_tensor(original), tensor), name
    for part, count in (("unet", 686), ("semantic_encoder", 196)):
        file = f"{part}.safetensors"
        assert same_tensors(tmp_path / "from-folder" / file, tmp_path / "from-file" / file) == count

    colorizer = Colorizer.from_pretrained(str(full_size["parts"]), base=checkpoint)
    picture = colorizer(Image.linear_gradient("L").resize((90, 64)), prompt="a dog", steps=1, size=64)
    assert picture.size == (90, 64) and np.asarray(picture).std(axis=-1).max() > 0
    gray = write_photo(tmp_path / "photo.png", (104, 128))
    given = inputs((13, 16), 768)
    ours = here(colorizer, given, gray)
    del colorizer
    gc.collect()
    stock = Colorizer.from_pretrained(base=folder, control=full_size["control"])
    assert stock(Image.linear_gradient("L").resize((64, 64)), prompt="a dog", steps=1, size=64).size == (64, 64)
    del stock
    gc.collect()

    with start_comfy() as comfy:
        (comfy.base / "models" / "checkpoints").mkdir()
        (comfy.base / "models" / "checkpoints" / "sd15.safetensors").symlink_to(checkpoint)
        for file in ("unet.safetensors", "semantic_encoder.safetensors"):
            (tmp_path / "from-file" / file).rename(tmp_path / "from-folder" / file)
        shutil.copytree(full_size["parts"], comfy.base / "models" / "seada" / "beside")
        (tmp_path / "photo.png").rename(comfy.base / "input" / "photo104.png")
        nodes = patched(["checkpoint", 0], "beside", "photo104.png")
        nodes["checkpoint"] = node("CheckpointLoaderSimple", ckpt_name="sd15.safetensors")
        agree(comfy, nodes, given, ours)
        comfy.post("/free", {"unload_models": True, "free_memory": True})
        # the converted part file is the same model
        (tmp_path / "from-folder").rename(comfy.base / "models" / "seada" / "whole")
        nodes["whole"] = node("SeAdaLoadModel", model_name="whole")
        del nodes["checkpoint"]
        nodes["control"]["inputs"]["model"] = ["whole", 0]
        agree(comfy, nodes, given, ours)

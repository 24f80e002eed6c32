"""Precisions and short memory in a real ComfyUI: the embedded model's pictures stay close to those in fp32.

On the CPU, ComfyUI can store a UNet in half precision but computes in fp32; it computes in half only on GPUs. Here
some tests make it compute in half on the CPU, and one uses "meta" as a GPU: its tensors have no data, but cannot be
mixed with those of the CPU.
"""

from pathlib import Path

import pytest
import torch
from comfy_server import colorize, full_graph, node
from graphs import POINT, ccd, forget

KINDS = ("one node", "one node with hints", "graph", "graph with hints")


def graphs() -> dict:
    """The same photo, in one node and as a graph, without and with hints; IMAGEs by the names in `KINDS`."""
    nodes = full_graph(model="embedded", steps=4, cfg=2.0)
    nodes["hints"] = node("SeAdaHints", image=["image", 0], points=POINT, mask_color="#000000")
    nodes["spread"] = node("SeAdaPropagateHints", image=["image", 0], hints=["hints", 0])
    nodes["ccd"] = ccd(model=["control", 0], image=["image", 0], hints=["spread", 0])
    nodes["sample 2"] = node("KSampler", **nodes["sample"]["inputs"] | {"model": ["ccd", 0]})
    nodes["graph"] = nodes["decode"]
    nodes["graph with hints"] = node(
        "SeAdaVQDecode", **nodes["decode"]["inputs"] | {"latent": ["sample 2", 0], "hints": ["spread", 0]}
    )
    nodes["one node"] = colorize(model="embedded", steps=4, guidance=2.0)["color"]
    nodes["one node with hints"] = node("SeAdaColorize", **nodes["one node"]["inputs"] | {"hints": ["hints", 0]})
    return nodes


def pictures(server, nodes: dict | None = None) -> dict[str, torch.Tensor]:
    """The four pictures of a server."""
    path = server.base / "pictures.pt"
    wires = {letter: [kind, 0] for letter, kind in zip("abcd", KINDS)}
    server.probe(f"import torch; torch.save([a, b, c, d], {str(path)!r})", nodes or graphs(), **wires)
    return dict(zip(KINDS, torch.load(path)))


@pytest.fixture(scope="module")
def in_fp32(comfy) -> dict[str, torch.Tensor]:
    return pictures(comfy)


def check(found: dict[str, torch.Tensor], wanted: dict[str, torch.Tensor], limit: float) -> None:
    """Mean differences of at most `limit`, in steps of 1/255; pictures in colour."""
    differences = {}
    for kind, picture in found.items():
        assert torch.isfinite(picture).all(), kind
        assert (picture - picture.mean(-1, keepdim=True)).abs().max() > 0.02, kind
        differences[kind] = float((picture - wanted[kind]).abs().mean() * 255)
    assert max(differences.values()) <= limit, differences


@pytest.mark.slow
@pytest.mark.parametrize(("flag", "limit"), [("--fp32-unet", 0.0), ("--bf16-unet", 2.0), ("--fp16-unet", 0.5)])
def test_a_server_with_another_precision_gives_the_same_pictures(start_comfy, in_fp32, flag, limit):
    with start_comfy(flag) as server:
        check(pictures(server), in_fp32, limit)
        weights = "result = str(next(a.model.diffusion_model.parameters()).dtype)"
        dtype = server.probe(weights, {"load": node("SeAdaLoadModel", model_name="embedded")}, a=["load", 0])
        assert dtype == {"--fp32-unet": "torch.float32", "--bf16-unet": "torch.bfloat16"}.get(flag, "torch.float16")


HALF_BUNDLE = """
from importlib import import_module
import torch
bridge = import_module(type(a).__module__)
usual, bridge.compute_dtype = bridge.compute_dtype, lambda: torch.DTYPE
try:
    out = bridge.Bundle(a.folder)
finally:
    bridge.compute_dtype = usual
assert next(out.part("unet").parameters()).dtype == torch.DTYPE
"""
HALF_MODEL = "import torch; out = a.clone(); out.set_model_compute_dtype(torch.DTYPE)"


@pytest.mark.slow
@pytest.mark.parametrize(("dtype", "limit"), [("bfloat16", 2.0), ("float16", 0.5)])
def test_computing_in_half_precision_gives_the_same_pictures(comfy, in_fp32, dtype, limit):
    nodes = graphs()
    for ours in nodes.values():
        for name, wire in ours["inputs"].items():
            if wire in (["load", 0], ["load", 1]):
                ours["inputs"][name] = [("half model", "half bundle")[wire[1]], 0]
    nodes["half model"] = node("Probe", code=HALF_MODEL.replace("DTYPE", dtype), a=["load", 0])
    nodes["half bundle"] = node("Probe", code=HALF_BUNDLE.replace("DTYPE", dtype), a=["load", 1])
    check(pictures(comfy, nodes), in_fp32, limit)


CHOICE = """
from importlib import import_module
import comfy.model_management as management
bridge = import_module(type(a).__module__)
unet = import_module(type(a).__module__.replace("bridge", "unet"))
usual = management.should_use_fp16, management.should_use_bf16, management.args.bf16_unet
result = []
try:
    for fp16, bf16, flag in ((1, 1, 0), (1, 0, 0), (0, 1, 0), (0, 0, 0), (1, 1, 1)):
        management.should_use_fp16, management.should_use_bf16 = lambda *_, **__: fp16, lambda *_, **__: bf16
        management.args.bf16_unet = bool(flag)
        model = unet.load_unet(a.folder / "unet.safetensors").model
        result.append([str(bridge.compute_dtype()), str(model.manual_cast_dtype or model.get_dtype())])
finally:
    management.should_use_fp16, management.should_use_bf16, management.args.bf16_unet = usual
"""


def test_a_gpu_computes_in_bfloat16_only_where_the_command_line_says_so(comfy):
    """With both half precisions, fp16 alone, bf16 alone, neither; and with --bf16-unet."""
    found = comfy.probe(CHOICE, {"load": node("SeAdaLoadModel", model_name="embedded")}, a=["load", 1])
    wanted = ["float16", "float16", "float32", "float32", "bfloat16"]
    assert found == [[f"torch.{dtype}"] * 2 for dtype in wanted]


PARTLY = """
from comfy.model_patcher import ModelPatcher
ModelPatcher.whole = ModelPatcher.partially_load
def partly(self, device, extra_memory=0, force_patch_weights=False):
    return self.whole(device, 1e5, force_patch_weights)
ModelPatcher.partially_load = partly
"""
UNDO = "from comfy.model_patcher import ModelPatcher; ModelPatcher.partially_load = ModelPatcher.whole"
ARE_PARTIAL = """
parts = [b.patcher(part) for part in ("semantic_encoder", "controlnet_rca", "hint_encoder", "vq_decoder")]
result = [patcher.model.model_lowvram for patcher in (a, *parts)]
"""


@pytest.mark.slow
def test_models_that_are_loaded_in_part_give_the_same_pictures(comfy, in_fp32):
    forget(comfy)
    comfy.probe(PARTLY)
    try:
        check(pictures(comfy), in_fp32, 0.0)
        assert comfy.probe(ARE_PARTIAL, graphs(), a=["load", 0], b=["load", 1]) == [True] * 5
    finally:
        comfy.probe(UNDO)
        forget(comfy)


ON_ANOTHER_DEVICE = """
from importlib import import_module
import torch
pack = type(a).__module__.rsplit(".nodes.", 1)[0]
bridge, checkpoints = import_module(pack + ".nodes.bridge"), import_module(pack + ".seada_core.weights.part_files")
meta = torch.device("meta")
left, stay = [], 0
loaded = {}
with torch.inference_mode(False), torch.no_grad():
    for part in checkpoints.SECTIONS:
        if part == "unet":  # in ComfyUI's own classes
            continue
        module, _ = checkpoints.load_part(a.folder / f"{part}.safetensors", part)
        loaded[part], patcher = module.eval(), bridge.patcher(module)
        patcher.partially_load(meta, 0.1)
        for name, layer in module.named_modules():
            for key, tensor in [*layer.named_parameters(recurse=False), *layer.named_buffers(recurse=False)]:
                if hasattr(layer, "comfy_cast_weights"):
                    stay += tensor.device.type == "cpu"
                elif tensor.device.type == "cpu":
                    left.append(f"{part}: {name}.{key}")
    z, gray, t = (torch.zeros(shape, device=meta) for shape in ((1, 4, 8, 8), (1, 1, 64, 64), (1,)))
    e = loaded["semantic_adapter"](loaded["semantic_encoder"](["a dog"])[0])
    control, hints = loaded["controlnet_rca"], loaded["hint_encoder"]
    features = control.encode(z, t, e, gray.expand(-1, 3, -1, -1))
    outputs = [e, *features.maps, *hints.encode(gray, gray.expand(-1, 3, -1, -1)), loaded["vq_decoder"].decode(z, gray)]
    outputs += loaded["captioner"].model._encode_image(loaded["captioner"].prepare(gray.expand(-1, 3, -1, -1)))
result = [left, stay, sorted({output.device.type for output in outputs})]
"""


def test_partly_loaded_models_run_on_another_device_than_the_offloaded_weights(comfy):
    nodes = {"load": node("SeAdaLoadModel", model_name="embedded")}
    left, stay, devices = comfy.probe(ON_ANOTHER_DEVICE, nodes, a=["load", 1])
    assert left == []
    assert stay > 100
    assert devices == ["meta"]


GRAPHS = """
import sys
from importlib import import_module
import comfy.model_management, torch
sys.path.insert(0, ROOT)
from benchmarks.speed.launches import Rehearsed
bridge = import_module(type(a).__module__)
captured = import_module(type(a).__module__.rsplit(".nodes.", 1)[0] + ".seada_core.models.captured")
recorded = bridge.Bundle(a.folder, graphs=True)
recorded.graphs = captured.Graphs(True, Rehearsed)
result = {"choice": recorded.graphs is not a.graphs and not a.graphs.on, "differences": [], "kept": []}

def color(photo):
    pictures = []
    for bundle in (a, recorded):
        bundle.load("unet", "semantic_encoder", "semantic_adapter", "controlnet_rca", "vq_decoder")
        with torch.inference_mode(False):
            pictures.append(bundle(photo.clone(), prompt="a dog", seed=1))
    result["differences"].append(float((pictures[0] - pictures[1]).abs().max()))

for photo in torch.rand(3, 1, 1, 64, 64):
    color(photo)
result["replayed"] = all(c.graphs for _, c in recorded.graphs.captured.values())
result["kept"].append(len(recorded.graphs.captured))
comfy.model_management.unload_all_models()
result["kept"].append(len(recorded.graphs.captured))
color(torch.rand(1, 1, 64, 64))
result["kept"].append(len(recorded.graphs.captured))
"""


@pytest.mark.slow
def test_graphs_go_with_the_weights_and_come_back_with_them(comfy):
    """Rehearsed on the CPU, see `benchmarks.speed.launches`; on a GPU they are CUDA's."""
    root = str(Path(__file__).resolve().parents[2])
    nodes = {"load": node("SeAdaLoadModel", model_name="tiny", graphs=True)}
    found = comfy.probe(GRAPHS.replace("ROOT", repr(root)), nodes, a=["load", 1])
    assert found["choice"] and found["replayed"]
    assert max(found["differences"]) < 1e-3
    first, unloaded, again = found["kept"]
    assert first >= 4 and unloaded == 0 and again == first

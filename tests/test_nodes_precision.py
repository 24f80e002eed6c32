"""Precisions and short memory in a real ComfyUI: the embedded model's pictures stay what they are in fp32, all in memory.

On the CPU, ComfyUI stores a UNet in half precision where asked to and computes in fp32; in half it computes on GPUs
alone. Here some tests make it compute in half on the CPU, and some take "meta" for a GPU: it has no data, but refuses to
mix with tensors of the CPU.
"""

import pytest
import torch
from comfy_server import colorize, full_graph, node
from test_nodes import POINT, ccd

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
    """What the four come to in a server."""
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



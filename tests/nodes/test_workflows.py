"""Each workflow has a thumbnail and an equivalent API prompt, fits the nodes, and runs in a real ComfyUI.

Those for Stable Diffusion 1.5 need a user's own files: they run among the slow tests, on random ones.
"""

import json
from pathlib import Path

import pytest
from comfy_server import PromptError

WORKFLOWS = Path(__file__).resolve().parents[2] / "workflows"
TWINS = Path(__file__).resolve().parent / "workflows"
NAMES = sorted(path.stem for path in WORKFLOWS.glob("*.json"))
EDITS = [name for name in NAMES if name.startswith("seada-edit-")]  # their tests: test_edit_workflows.py
SD15_FILE, RECOLOR_FILE = "v1-5-pruned-emaonly.safetensors", "ioclab_sd15_recolor.safetensors"
FILMS = {"seada-video", "seada-steady-colors"}  # run in test_video.py
FOLDER = "seada-folder-of-photos"  # in test_folder.py
PHOTO_SIZE = (600, 400)  # of the pack's photo, which the other workflows colour
SD15 = {"seada-sd15-full": {"ckpt_name"}, "seada-sd15-stock-controlnet": {"ckpt_name", "control_net_name"}}


def twin(name: str) -> dict:
    """The workflow as a prompt in ComfyUI's API format."""
    return json.loads((TWINS / f"{name}.json").read_text())


def find(name: str, class_type: str) -> str:
    """The id of the one node of its class."""
    (key,) = (key for key, node in twin(name).items() if node["class_type"] == class_type)
    return key


def saver(name: str) -> str:
    """The id of the one node that saves the result."""
    (key,) = (key for key, node in twin(name).items() if node["class_type"] in ("SaveImage", "SeAdaSavePhoto"))
    return key


def as_prompt(workflow: dict, object_info: dict) -> dict:
    """What ComfyUI's page queues for a workflow without subgraphs."""
    links = {link[0]: [str(link[1]), link[2]] for link in workflow["links"]}
    prompt = {}
    for node in workflow["nodes"]:
        if node["type"] in ("Note", "MarkdownNote"):
            continue
        linked = {socket["name"]: socket["link"] for socket in node["inputs"] if socket["link"] is not None}
        values = iter(node["widgets_values"])
        inputs = {}
        for kind in ("required", "optional"):
            for name, (kind_of, *rest) in object_info[node["type"]]["input"].get(kind, {}).items():
                options = rest[0] if rest else {}
                if isinstance(kind_of, list) or kind_of in ("INT", "FLOAT", "STRING", "BOOLEAN", "COMBO"):
                    inputs[name] = next(values, None)
                    if (
                        options.get("control_after_generate")
                        or options.get("image_upload")
                        or options.get("video_upload")
                    ):
                        next(values, None)  # a widget of the page's own
                if name in linked:
                    inputs[name] = links[linked[name]]
        if node["type"].startswith("SeAda"):
            assert next(values, None) is None, f"{node['type']} has too many widget values"
        prompt[str(node["id"])] = {"class_type": node["type"], "inputs": inputs}
    return prompt


def test_there_are_workflows_with_thumbnails_and_twins():
    assert NAMES
    assert sorted(path.stem for path in WORKFLOWS.glob("*.jpg")) == NAMES
    assert sorted(path.stem for path in TWINS.glob("*.json")) == NAMES


@pytest.mark.parametrize("name", NAMES)
def test_links_of_both_ends_agree(name):
    workflow = json.loads((WORKFLOWS / f"{name}.json").read_text())
    nodes = {node["id"]: node for node in workflow["nodes"]}
    for link, source, slot, target, socket, _ in workflow["links"]:
        assert link in nodes[source]["outputs"][slot]["links"]
        assert nodes[target]["inputs"][socket]["link"] == link


@pytest.mark.parametrize("name", [name for name in NAMES if name not in EDITS])
def test_a_workflow_equals_its_api_twin(comfy, name):
    """Core's own nodes have other inputs in newer versions: of these, those that both know are compared."""
    found, expected = as_prompt(json.loads((WORKFLOWS / f"{name}.json").read_text()), comfy.object_info), twin(name)
    assert found.keys() == expected.keys()
    for key, node in found.items():
        ours, theirs = node["inputs"], expected[key]["inputs"]
        if not node["class_type"].startswith("SeAda"):
            ours = {name: value for name, value in ours.items() if name in theirs and value is not None}
            theirs = {name: theirs[name] for name in ours}
        assert (node["class_type"], ours) == (expected[key]["class_type"], theirs)


@pytest.mark.parametrize("name", NAMES)
def test_the_server_offers_a_workflow_and_its_thumbnail(comfy, name):
    """ComfyUI serves only one folder of a pack's templates, which may have one of several names."""
    assert name in comfy.get("/workflow_templates")["ComfyUI-SeAda"]
    address = f"/api/workflow_templates/ComfyUI-SeAda/{name}"
    assert comfy.read_bytes(f"{address}.json") == (WORKFLOWS / f"{name}.json").read_bytes()
    assert comfy.read_bytes(f"{address}.jpg") == (WORKFLOWS / f"{name}.jpg").read_bytes()


def test_the_server_lists_the_workflows_in_an_order_of_ours_with_the_simplest_first(comfy):
    listed = comfy.get("/api/workflow_templates")
    assert listed == comfy.get("/workflow_templates")
    names = listed["ComfyUI-SeAda"]
    assert sorted(names) == NAMES
    steps = ["seada-1-start-here", "seada-folder-of-photos", "seada-edit-qwen-image", "seada-full-graph"]
    assert (
        [name for name in names if name in steps] == steps and names[0] == steps[0] and names[-1] == "seada-sd15-full"
    )
    code = "from pathlib import Path; import json, sys\n" + (
        "pack = next(m for n, m in sys.modules.items() if n.endswith('ComfyUI-SeAda.nodes.templates'))\n"
        "result = [pack.ORDER, json.loads(pack.in_order(json.dumps({'other': ['b', 'a']})))]"
    )
    order, others = comfy.probe(code)
    assert sorted(order) == NAMES and others == {"other": ["b", "a"]}  # each has its place, and other packs keep theirs


@pytest.mark.parametrize("name", NAMES)
def test_a_thumbnail_is_small_and_of_one_shape(name):
    from PIL import Image

    path = WORKFLOWS / f"{name}.jpg"
    assert path.stat().st_size <= 60_000
    assert Image.open(path).size == (480, 320)


@pytest.fixture(autouse=True)
def example(request):
    """The picture that a workflow loads as its reference, where a test has a server."""
    if "comfy" in request.fixturenames:
        from PIL import Image

        folder = request.getfixturevalue("comfy").base / "input"
        Image.open(folder / "photo.png").resize((150, 130)).save(folder / "example.png")


@pytest.mark.parametrize("name", [name for name in NAMES if name not in {*SD15, *FILMS, *EDITS, FOLDER}])
def test_a_workflow_runs(comfy, name):
    from PIL import Image

    outputs, save = comfy.run(twin(name)), saver(name)
    pictures = [Image.open(comfy.picture(outputs, save, i)) for i in range(len(outputs[save]["images"]))]
    assert [picture.size for picture in pictures] == [PHOTO_SIZE]
    for picture in pictures:
        assert picture.mode == "RGB"
        cb, cr = picture.convert("YCbCr").split()[1:]
        assert cb.getextrema() != (128, 128) or cr.getextrema() != (128, 128)


@pytest.mark.slow
def test_token_diffusion_changes_the_picture(comfy):
    prompt, decode = twin("seada-edn-tokens"), find("seada-edn-tokens", "SeAdaVQDecode")
    without = {**prompt[decode], "inputs": prompt[decode]["inputs"] | {"token_steps": 0}}
    nodes = prompt | {"without": without}
    assert comfy.probe("result = float((a - b).abs().mean())", nodes, a=[decode, 0], b=["without", 0]) > 1e-3


@pytest.mark.parametrize("name", SD15)
def test_a_server_accepts_an_sd15_workflow_but_for_the_files(comfy, name):
    """ComfyUI's own check of nodes, inputs, links, types and ranges finds nothing else."""
    with pytest.raises(PromptError) as refusal:
        comfy.queue(twin(name))
    faults = {
        (error["type"], error["extra_info"]["input_name"])
        for node in json.loads(str(refusal.value))["node_errors"].values()
        for error in node["errors"]
    }
    # newer ComfyUIs also miss the user's part files at once, older ones leave that to the nodes
    parts = {("value_not_in_list", "model_name"), ("value_not_in_list", "control_name")}
    wanted = {("value_not_in_list", name) for name in SD15[name]}
    assert wanted <= faults <= wanted | parts


FILES = """
import comfy.cldm.cldm, comfy.ldm.models.autoencoder, comfy.ops, comfy.utils
autoencoder = {
    "double_z": True, "z_channels": 4, "resolution": 256, "in_channels": 3, "out_ch": 3, "ch": 128,
    "ch_mult": [1, 2, 4, 4], "num_res_blocks": 2, "attn_resolutions": [], "dropout": 0.0,
}
plain = comfy.ops.disable_weight_init
sizes = {name: value for name, value in sizes.items() if name not in ("out_channels", "transformer_depth_output")}
with torch.inference_mode(False), torch.no_grad():
    vae = fill(comfy.ldm.models.autoencoder.AutoencoderKL(ddconfig=autoencoder, embed_dim=4))
    stock = fill(comfy.cldm.cldm.ControlNet(**sizes, num_heads=8, hint_channels=3, operations=plain))
parts = {
    "model.diffusion_model.": model.model.diffusion_model.state_dict(),
    "cond_stage_model.": clip.cond_stage_model.clip_l.state_dict(),
    "first_stage_model.": vae.state_dict(),
}
weights = {prefix + name: tensor for prefix, part in parts.items() for name, tensor in part.items()}
for path, tensors in ((CHECKPOINT, weights), (CONTROL, stock.state_dict())):
    comfy.utils.save_torch_file({name: tensor.half().contiguous() for name, tensor in tensors.items()}, path)
out = None
"""


@pytest.mark.slow
def test_sd15_workflows_run_on_full_size_files(comfy):
    """Random weights at SD1.5's sizes, read from files by ComfyUI's own loaders; one step at a small size."""
    import shutil

    import torch
    from full_size_sd15 import SD15 as MODELS
    from PIL import Image

    from seada_core import presets
    from seada_core.weights import part_files

    models = comfy.base / "models"
    files = [models / "checkpoints" / SD15_FILE, models / "controlnet" / RECOLOR_FILE]
    for file in files:
        file.parent.mkdir(exist_ok=True)
    places = f"CHECKPOINT, CONTROL = {str(files[0])!r}, {str(files[1])!r}\n"
    load = {"load": {"class_type": "SeAdaLoadModel", "inputs": {"model_name": "embedded"}}}
    comfy.probe(MODELS + places + FILES, load, a=["load", 1])
    (models / "seada" / "sd15").mkdir()
    for part in ("semantic_encoder", "semantic_adapter", "controlnet_rca", "vq_decoder"):
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(0)
            module = part_files.build(part, presets.SD15)
        part_files.save_part(models / "seada" / "sd15" / f"{part}.safetensors", part, presets.SD15, module)
    try:
        for name in SD15:
            prompt, save = twin(name), find(name, "SaveImage")
            prompt[find(name, "KSampler")]["inputs"]["steps"] = 1
            prompt[find(name, "SeAdaEmptyLatent")]["inputs"]["size"] = 64
            picture = Image.open(comfy.picture(comfy.run(prompt), save))
            assert picture.size == PHOTO_SIZE
            cb, cr = picture.convert("YCbCr").split()[1:]
            assert cb.getextrema() != (128, 128) or cr.getextrema() != (128, 128)
    finally:
        for file in files:
            file.unlink()
        shutil.rmtree(models / "seada" / "sd15")

"""An untrusted workflow in a real server cannot read or write elsewhere, reach the network, or crash the server.

An audit hook inside the server records every opened file and every requested address.
"""

import json
import random
import shutil
from itertools import product

import pytest
from comfy_server import PromptError, node
from painter import ask, request
from PIL import Image

WIRES = {
    "IMAGE": ["image", 0],
    "MODEL": ["load", 0],
    "SEADA": ["load", 1],
    "LATENT": ["latent", 0],
    "SEADA_HINTS": ["hints", 0],
    "SEADA_CONTROL": ["control", 0],
    "CONDITIONING": ["text", 0],
}
WATCH = """
import sys
if not hasattr(sys, "seada_seen"):
    sys.seada_seen = []
    def hook(event, arguments):
        if event in ("open", "os.listdir", "os.scandir", "socket.connect", "socket.getaddrinfo", "os.system",
                     "subprocess.Popen", "os.remove", "os.rename", "shutil.rmtree"):
            sys.seada_seen.append([event, repr(arguments[:2])[:2000]])
    sys.addaudithook(hook)
sys.seada_seen.clear()
"""
SEEN = "import sys; result = list(sys.seada_seen)"
PACK = 'import sys; folders = next(m for n, m in list(sys.modules.items()) if n.endswith("nodes.model_folders"))\n'


@pytest.fixture(scope="module")
def bait(comfy, tiny_model, tmp_path_factory):
    """A folder elsewhere with valid files: opening them would succeed."""
    folder = tmp_path_factory.mktemp("bait-elsewhere")
    shutil.copytree(tiny_model, folder / "model")
    Image.open(comfy.base / "input" / "photo.png").save(folder / "photo.png")
    (folder / "palette.json").write_text(json.dumps({"schemes": [{"name": "x", "description": "y", "colors": []}]}))
    return folder


def hostile(bait, comfy) -> list[str]:
    up = "../" * 20
    return [
        *(f"{start}{bait}{rest}" for start, rest in product(("", up[:-1], "file://"), ("", "/photo.png", "/model"))),
        f"tiny/{up[:-1]}{bait}/model/unet.safetensors", f"embedded/../..{bait}", "../../../custom_nodes", "..", "~root",
        f"{bait}/model/controlnet_rca.safetensors", f"{bait}/palette.json", "http://127.0.0.1:9/x.safetensors",
        "https://example.org/model", "openai/clip-vit-large-patch14", r"\\host\share\x", r"..\..\x", "C:\\Windows",
        "a\0b", "\ud800", "x" * 50_000, '<img src=x onerror="window.pwned=1">', "%(seed)s{0}${HOME}`id`$(id)",
        "[" * 3000, "NaN",
    ]  # fmt: skip


def around(comfy, name: str, **changes) -> dict:
    """A prompt that runs a node with its defaults, connected by the types of its inputs, except for `changes`."""
    nodes = {
        "image": node("LoadImage", image="odd.png"),
        "load": node("SeAdaLoadModel", model_name="tiny"),
        "control": node("SeAdaLoadControlNetRCA", control_name="tiny/controlnet_rca.safetensors"),
        "latent": node("SeAdaEmptyLatent", seada=["load", 1], image=["image", 0], size=0),
        "hints": node("SeAdaPalette", colors="#808080", count=1),
        "text": node("SeAdaSemanticAdapter", seada=["load", 1], text="a dog", strength=1.0),
    }
    inputs = {}
    for group in ("required", "optional"):
        for key, (kind, options) in comfy.object_info[name]["input"].get(group, {}).items():
            if isinstance(kind, str) and kind in WIRES:
                inputs[key] = WIRES[kind]
            elif "default" in options:
                inputs[key] = options["default"]
    nodes["tested"] = node(name, **inputs | changes)
    nodes["show"] = node("PreviewAny", source=["tested", 0])
    return nodes


def widgets(comfy, kinds: tuple[str, ...]) -> list[tuple[str, str]]:
    """(node, input) of all inputs of the pack whose values of these kinds are stored in workflows."""
    found = []
    for name, info in sorted(comfy.object_info.items()):
        groups = [group for kind, group in info["input"].items() if kind != "hidden"]
        for group in groups if name.startswith("SeAda") else ():
            for key, (kind, _) in group.items():
                if ("COMBO" if isinstance(kind, list) else kind) in kinds:
                    found.append((name, key))
    return found


def foreign(seen: list[list[str]], bait) -> list[list[str]]:
    """Forbidden events: access to the bait or the network, other programs."""
    names = (str(bait), "etc/passwd", "example.org", "custom_nodes/..")
    outward = ("socket.connect", "socket.getaddrinfo", "os.system", "subprocess.Popen")
    return [one for one in seen if one[0] in outward or any(name in one[1] for name in names)]


def attempt(comfy, nodes: dict) -> str:
    try:
        comfy.run(nodes)
    except PromptError as error:
        return str(error)
    return ""


def test_the_audit_hook_records_events(comfy, bait):
    comfy.probe(WATCH)
    code = (
        f"open({str(bait / 'photo.png')!r}).close(); import socket; s = socket.socket(); s.connect_ex(('127.0.0.1', 9))"
    )
    comfy.probe(code)
    assert {event for event, _ in foreign(comfy.probe(SEEN), bait)} == {"open", "socket.connect"}


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_no_text_or_choice_reaches_other_files_or_the_network(comfy, bait, every):
    values = hostile(bait, comfy)
    texts, choices = widgets(comfy, ("STRING",)), widgets(comfy, ("COMBO",))
    assert len(texts) >= 7 and len(choices) >= 5
    comfy.probe(WATCH)
    for number, (name, key) in enumerate(choices):  # the server knows the list
        for value in values[number % every :: every]:
            error = attempt(comfy, around(comfy, name, **{key: value}))
            assert error, f"{name}.{key} took {value[:60]!r}"
    for number, (name, key) in enumerate(texts):
        paths = (name, key) == ("SeAdaLoadFolder", "folder")
        for value in values if paths else values[-7 + number % every :: every]:
            error = attempt(comfy, around(comfy, name, **{key: value}))
            assert error or not paths, f"{name}.{key} took {value[:60]!r}"
    assert foreign(comfy.probe(SEEN), bait) == []
    assert attempt(comfy, around(comfy, "SeAdaColorize")) == ""  # and it still works


def test_names_that_bypass_the_list_cannot_leave_the_folders(comfy, bait):
    """Values from links are not checked against the server's lists."""
    code = """
result = []
for name in VALUES + [None, 3, [], {}, b"x"]:
    for function in (folders.model_folder, lambda n: folders.part_file(n, "unet"), folders.captioner_path,
                     folders.segmenter_path, folders.fingerprint):
        try:
            result.append([repr(name)[:80], str(function(name))])
        except folders.CheckpointError as error:
            if len(str(error)) > 2000 or chr(10) in str(error):
                result.append([repr(name)[:80], str(error)[:3000]])
"""
    comfy.probe(WATCH)
    values = [value for value in hostile(bait, comfy) if value != "\ud800"]
    assert comfy.probe(PACK + code.replace("VALUES", repr(values))) == []
    assert foreign(comfy.probe(SEEN), bait) == []
    good = 'result = [str(folders.model_folder("tiny")), str(folders.part_file("tiny/unet.safetensors", "unet"))]'
    tiny = comfy.base / "models" / "seada" / "tiny"
    assert comfy.probe(PACK + good) == [str(tiny), str(tiny / "unet.safetensors")]


def test_links_out_of_the_model_folders_are_refused_unless_their_target_is_named(comfy, bait):
    models = comfy.base / "models"
    (models / "seada" / "linked").symlink_to(bait / "model")
    (models / "seada" / "half").mkdir()
    (models / "seada" / "half" / "unet.safetensors").symlink_to(bait / "model" / "unet.safetensors")
    (models / "seada_segmenters" / "seg").mkdir(parents=True)
    (bait / "config.json").write_text('{"model_type": "clipseg"}')
    (models / "seada_segmenters" / "seg" / "config.json").symlink_to(bait / "config.json")
    (models / "seada_palettes").mkdir(exist_ok=True)
    (models / "seada_palettes" / "x.json").symlink_to(bait / "palette.json")
    code = f"""
result = [folders.segmenters(), folders.schemes()[1]]
for name in ("linked", "half"):
    try:
        result.append(str(folders.model_folder(name)))
    except folders.CheckpointError as error:
        result.append(str(error))
import folder_paths
folder_paths.add_model_folder_path("elsewhere", {str(bait)!r})  # what extra_model_paths.yaml does
result += [str(folders.model_folder(name)) for name in ("linked", "half")]
del folder_paths.folder_names_and_paths["elsewhere"]
"""
    try:
        seen, faults, *errors, linked, half = comfy.probe(PACK + code)
    finally:
        (models / "seada" / "linked").unlink()
        shutil.rmtree(models / "seada" / "half")
        (models / "seada_palettes" / "x.json").unlink()
        shutil.rmtree(models / "seada_segmenters" / "seg")
    assert "seg" not in seen and "x.json is a link to" in faults[0]
    for error in errors:
        assert "is a link to" in error and "outside ComfyUI's model folders" in error and "extra_model_paths" in error
    assert [linked, half] == [str(models / "seada" / name) for name in ("linked", "half")]


@pytest.mark.parametrize("count", [1, pytest.param(13, marks=pytest.mark.slow)])
def test_wild_numbers_and_wrong_types_are_refused_or_harmless(comfy, count):
    """Each gives an error or a picture, and the server keeps running."""
    wild = [float("nan"), float("inf"), -1e309, 1e309, 10**30, -(10**30), 2**64, "abc", None, [], {}, [1], True]
    rng = random.Random(0)
    for name, key in widgets(comfy, ("INT", "FLOAT", "BOOLEAN")):
        for value in rng.sample(wild, count):
            attempt(comfy, around(comfy, name, **{key: value}))
    assert attempt(comfy, around(comfy, "SeAdaColorize")) == ""


def test_the_painters_route_survives_damaged_requests(comfy):
    from tools.fuzz_inputs import mutate_json, mutate_tree

    rng, good = random.Random(0), request()
    statuses = []
    for number in range(150):
        if number % 2:
            body = json.dumps(mutate_tree(rng, good)).encode()
        else:
            body = mutate_json(rng, json.dumps(good).encode(), [b'{"painter": 1}'])
        statuses.append(ask(comfy, body[:3_000_000])[0])
    assert set(statuses) <= {200, 400} and statuses.count(400) > 75
    assert ask(comfy, good)[0] == 200

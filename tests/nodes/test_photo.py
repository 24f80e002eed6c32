"""SeAda Load Photo and SeAda Save Photo keep what a photo's file carries, in a real ComfyUI."""

import json
from pathlib import Path

import numpy as np
import pytest
from comfy_server import PromptError, node
from PIL import Image, ImageCms

from seada_core.files import pictures

ARTIST = 0x013B


def load(name: str) -> dict:
    return node("SeAdaLoadPhoto", image=name)


def save(source: str = "photo", **inputs) -> dict:
    values = {"format": "as the photo", "folder": "SeAda", "suffix": "-color"} | inputs
    return node("SeAdaSavePhoto", images=[source, 0], photo=[source, 2], **values)


def written(comfy, prompt: dict) -> list[Path]:
    """The files that a prompt's node "save" wrote."""
    outputs = comfy.run(prompt | {"shown": node("PreviewAny", source=["save", 0])})
    return [Path(line) for line in outputs["shown"]["text"][0].splitlines()]


@pytest.fixture
def inputs(comfy) -> Path:
    return comfy.base / "input"


def exif(**tags) -> Image.Exif:
    found = Image.Exif()
    found[ARTIST] = "A. Photographer"
    for tag, value in tags.items():
        found[int(tag[1:])] = value
    return found


def test_a_16_bit_scan_stays_one(comfy, inputs):
    values = np.linspace(0, 65535, 48 * 40).reshape(40, 48).round().astype(np.uint16)
    pictures.write(pictures.Picture(np.stack([values] * 3, -1), dpi=(600.0, 600.0)), inputs / "scan.tif")
    (file,) = written(comfy, {"photo": load("scan.tif"), "save": save()})
    assert file == comfy.base / "output" / "SeAda" / "scan-color.tif"
    copy = pictures.read(file)
    assert copy.pixels.dtype == np.uint16
    assert np.array_equal(copy.pixels[..., 1], values)
    assert copy.dpi == (600.0, 600.0)


def test_metadata_profile_and_orientation_survive(comfy, inputs):
    profile = ImageCms.ImageCmsProfile(ImageCms.createProfile("sRGB")).tobytes()
    photo = Image.fromarray(np.arange(60 * 40 * 3, dtype=np.uint32).astype(np.uint8).reshape(40, 60, 3))
    photo.save(inputs / "turned.jpg", quality=95, exif=exif(t274=6), icc_profile=profile, dpi=(300, 300))
    (file,) = written(comfy, {"photo": load("turned.jpg"), "save": save()})
    copy = Image.open(file)
    assert (file.name, copy.format, copy.size) == ("turned-color.jpg", "JPEG", (40, 60))
    assert copy.getexif()[ARTIST] == "A. Photographer"
    assert copy.getexif().get(274, 1) == 1
    assert copy.info["icc_profile"] == profile
    assert copy.info["dpi"] == (300, 300)


def test_alpha_is_a_mask_and_comes_back(comfy, inputs):
    pixels = np.full((24, 32, 4), 120, np.uint8)
    pixels[:, :16, 3] = 255
    pixels[:, 16:, 3] = 51
    Image.fromarray(pixels).save(inputs / "cut.png")
    prompt = {"photo": load("cut.png"), "save": save()}
    means = comfy.probe("result = [float(a[0, :, :16].mean()), float(a[0, :, 16:].mean())]", prompt, a=["photo", 1])
    assert means == pytest.approx([0, 0.8], abs=1e-3)
    (file,) = written(comfy, prompt)
    assert np.array_equal(np.asarray(Image.open(file))[..., 3], pixels[..., 3])


def test_a_larger_result_gets_alpha_of_its_size(comfy, inputs):
    Image.new("RGBA", (20, 10), (1, 2, 3, 128)).save(inputs / "small.png")
    scale = {"upscale_method": "bicubic", "width": 40, "height": 20, "crop": "disabled"}
    prompt = {"photo": load("small.png"), "large": node("ImageScale", image=["photo", 0], **scale)}
    prompt["save"] = node(
        "SeAdaSavePhoto", images=["large", 0], photo=["photo", 2], format="PNG", folder="", suffix="-large"
    )
    (file,) = written(comfy, prompt)
    assert Image.open(file).size == (40, 20)
    assert set(np.unique(np.asarray(Image.open(file))[..., 3])) == {128}


def test_nothing_is_overwritten_and_the_format_can_be_chosen(comfy, inputs):
    Image.new("RGB", (16, 16), (200, 100, 50)).save(inputs / "again.bmp")
    prompt = {"photo": load("again.bmp"), "save": save(format="WebP", suffix="")}
    (first,) = written(comfy, prompt)
    prompt["photo"] = load("again.bmp [input]")  # not what ran before, so that it runs
    (second,) = written(comfy, prompt)
    assert [first.name, second.name] == ["again.webp", "again-2.webp"]


def test_batches_and_pictures_without_a_photo(comfy, inputs):
    Image.new("RGB", (16, 16), (9, 99, 200)).save(inputs / "one.png")
    twice = node("RepeatImageBatch", image=["photo", 0], amount=2)
    prompt = {"photo": load("one.png"), "twice": twice}
    prompt["save"] = node("SeAdaSavePhoto", images=["twice", 0], format="JPEG", folder="a/b", suffix="-x")
    files = written(comfy, prompt)
    assert [f.name for f in files] == ["photo-x-001.jpg", "photo-x-002.jpg"]
    assert files[0].parent == comfy.base / "output" / "a" / "b"


@pytest.mark.parametrize(
    ("changes", "message"),
    [({"folder": "../elsewhere"}, "outside ComfyUI's output folder"), ({"suffix": "/../x"}, "not a file's name")],
)
def test_names_cannot_leave_the_folder(comfy, inputs, changes, message):
    Image.new("RGB", (16, 16)).save(inputs / "safe.png")
    with pytest.raises(PromptError, match=message):
        comfy.run({"photo": load("safe.png"), "save": save(**changes)})


def test_a_missing_photo_is_refused_with_its_name(comfy):
    with pytest.raises(PromptError, match=r"there is no photo 'gone\.png'"):
        comfy.run({"photo": load("gone.png"), "save": save()})


def test_the_packs_photo_is_there_at_once(comfy):
    kind, options = comfy.object_info["SeAdaLoadPhoto"]["input"]["required"]["image"]
    choices = kind if isinstance(kind, list) else options["options"]
    assert choices[0] == "seada/photo.jpg"
    sample = Path(__file__).parents[2] / "samples" / "photo.jpg"
    assert (comfy.base / "input" / "seada" / "photo.jpg").read_bytes() == sample.read_bytes()
    twin = json.loads((Path(__file__).parent / "workflows" / "seada-1-start-here.json").read_text())
    assert [n["inputs"]["image"] for n in twin.values() if n["class_type"] == "SeAdaLoadPhoto"] == [choices[0]]


ARCHIVE = [
    "meta.jpg",
    "meta16.tif",
    "mw16.tif",
    "grey-dotgain20.jpg",
    "hay-prophoto.png",
    "bigtiff8.tif",
    "ifd-exif.tif",
]


def test_files_of_archives_come_back_with_their_tone_and_metadata(comfy, inputs, data_dir):
    import shutil

    for name in ARCHIVE:
        shutil.copy(data_dir / "test" / "files" / name, inputs / name)
        (file,) = written(comfy, {"photo": load(name), "save": save()})
        before, after = pictures.read(inputs / name), pictures.read(file)
        assert file.suffix == f".{name.rsplit('.')[-1]}" and after.is_deep == before.is_deep
        limit = 2e-5 if before.is_deep else 2.5  # of 1, or of 255: JPEG's own loss
        assert np.abs(after.luminance.astype(float) - before.luminance).mean() < limit, name
        assert (after.xmp, after.iptc) == (before.xmp, before.iptc), name
        assert bool(after.exif) == bool(before.exif) and bool(after.icc) == bool(before.icc), name

import dataclasses
import json
import sys
from pathlib import Path

import numpy as np
import pytest
from command import ROOT, luma_share, scene
from PIL import Image

from seada_core.color import kinds
from seada_core.colorize.__main__ import main
from seada_core.colorize.plan import JOURNAL

EXAMPLE = ROOT / "samples" / "photo.jpg"


# --- what comes out ---------------------------------------------------------------------------------------------------


def test_one_file_gets_a_name_beside_it(run, photo):
    status, out, err = run(photo)
    assert (status, err) == (0, [])
    assert len(out) == 1
    assert "photo-color.png" in out[0]
    result = Image.open(photo.with_name("photo-color.png"))
    assert result.size == (40, 28)
    assert result.mode == "RGB"
    assert luma_share(scene(), result) >= 0.995
    assert np.ptp(np.asarray(result).astype(int), axis=-1).max() > 2  # it is in colour
    assert sorted(p.name for p in photo.parent.iterdir()) == ["photo-color.png", "photo.png"]


def gray16() -> Image.Image:
    return Image.fromarray(np.asarray(scene().convert("L")).astype(np.uint16) * 257)


def rgba() -> Image.Image:
    image = scene()
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


def la() -> Image.Image:
    image = scene().convert("L")
    image.putalpha(Image.linear_gradient("L").resize(image.size))
    return image


@pytest.mark.parametrize(
    ("name", "make"),
    [
        ("l.png", lambda: scene().convert("L")),
        ("l.jpg", lambda: scene().convert("L")),
        ("one.tif", lambda: scene().convert("1")),
        ("la.png", la),
        ("p.png", lambda: scene().quantize(16)),
        ("rgba.webp", rgba),
        ("rgba.png", rgba),
        ("cmyk.jpg", lambda: scene().convert("CMYK")),
        ("cmyk.tif", lambda: scene().convert("CMYK")),
        ("deep.png", gray16),
        ("deep.tif", gray16),
        ("float.tif", lambda: Image.fromarray(np.asarray(scene().convert("L"), np.float32) / 255)),
        ("tiny.png", lambda: Image.new("L", (1, 1), 90)),
        ("wide.png", lambda: scene(67, 1)),
        ("odd.bmp", lambda: scene(33, 71)),
    ],
)
def test_modes_and_sizes(run, tmp_path, name, make):
    source, target = tmp_path / name, tmp_path / f"out{Path(name).suffix}"
    image = make()
    image.save(source, **({"lossless": True, "exact": True} if name.endswith("webp") else {}))
    assert run(source, "-o", target, "--steps", 1)[0] == 0
    result = Image.open(target)
    assert result.size == image.size
    # Pillow clips 16-bit and float grey when it converts them
    plain = {"deep": scene().convert("L"), "float": scene().convert("L")}.get(name.split(".")[0])
    plain = plain or Image.open(source).convert("RGB")
    lossy = target.suffix in (".jpg", ".webp")
    if not lossy:
        assert luma_share(plain, result.convert("RGB")) >= 0.995
    else:
        a, b = (np.asarray(i.convert("L")).astype(float) for i in (plain, result.convert("RGB")))
        assert abs(a - b).mean() < 2
    if image.mode in ("LA", "RGBA"):
        assert np.array_equal(np.asarray(result.getchannel("A")), np.asarray(image.getchannel("A")))


def test_rotated_by_exif_and_metadata_kept(run, tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6  # the camera was turned: upright, the picture is 28 wide and 40 high
    exif[0x010E] = "grandmother"
    scene().save(tmp_path / "turned.png", exif=exif)
    assert run(tmp_path / "turned.png", "--steps", 1)[0] == 0
    result = Image.open(tmp_path / "turned-color.png")
    assert result.size == (28, 40)
    assert result.getexif()[0x010E] == "grandmother"
    assert result.getexif().get(0x0112, 1) == 1
    assert luma_share(scene().transpose(Image.Transpose.ROTATE_270), result) >= 0.995


def test_a_suffix_that_cannot_be_written_becomes_png(run, tmp_path):
    scene().save(tmp_path / "old.gif")
    assert run(tmp_path / "old.gif", "--steps", 1)[0] == 0
    assert Image.open(tmp_path / "old-color.png").format == "PNG"
    scene().save(tmp_path / "UPPER.JPG")
    assert run(tmp_path / "UPPER.JPG", "--steps", 1)[0] == 0
    assert Image.open(tmp_path / "UPPER-color.JPG").format == "JPEG"


def test_the_seed_decides(run, photo, tmp_path):
    for name, seed in (("a", 3), ("b", 3), ("c", 4)):
        assert run(photo, "-o", tmp_path / f"{name}.png", "--seed", seed)[0] == 0
    a, b, c = ((tmp_path / f"{name}.png").read_bytes() for name in "abc")
    assert a == b != c


def test_coloured_things_of_the_prompt_and_a_reference_become_soft_hints(run, tmp_path, monkeypatch):
    import torch

    from seada_core.pipeline import Colorizer

    seen, prompts = [], []

    def record(self, image, options, callback):
        seen.append(options.soft_hints)
        prompts.append(options.prompt)
        return image.convert("RGB")

    monkeypatch.setattr(Colorizer, "__call__", record)
    photo, reference, gray = tmp_path / "dog.png", tmp_path / "reference.png", tmp_path / "gray.png"
    Image.open(EXAMPLE).resize((240, 160)).save(photo)
    tinted = [Image.open(EXAMPLE).resize((240, 160)).point([v * share // 9 for v in range(256)]) for share in (9, 6, 5)]
    Image.merge("RGB", tinted).save(reference)
    scene().convert("L").save(gray)
    out = tmp_path / "out.png"
    flags = ("-o", out, "--overwrite")
    assert run(photo, *flags, "--prompt", "a blue cup", "--no-words", model="mini")[0] == 0
    assert run(photo, *flags, "--prompt", "a cup", model="mini")[0] == 0
    assert seen == [None, None]
    status, lines, _ = run(photo, *flags, "--prompt", "a blue cup", "--json", model="mini")
    assert (status, prompts[-1], json.loads(lines[0])["prompt"]) == (0, "a cup", "a blue cup")
    assert '"a blue cup"' in run(photo, *flags, "--prompt", "a blue cup", model="mini")[1][0]
    words = seen[-1]
    sure = words[:, 2] > 0.1
    assert 0 < sure.float().mean() < 1
    assert (words[:, 0][sure] > 0.1).all()  # Cb of blue
    assert run(photo, *flags, "--reference", reference, model="mini")[0] == 0
    assert seen[-1][:, 2].mean() > 0.5  # it is the photo itself
    assert run(photo, *flags, "--reference", reference, "--prompt", "a blue cup", model="mini")[0] == 0
    assert (seen[-1][:, 2] >= torch.maximum(words[:, 2], torch.tensor(0.0)) - 1e-5).all()
    for argv, said in (
        (["--reference", gray], "is grey"),
        (["--reference", tmp_path / "none.png"], "none.png"),
        (["--hint-methods", "magic"], "'magic' is not one of modulation"),
    ):
        status, _, err = run(photo, *flags, *argv, model="mini")
        assert (status, len(err)) == (2, 1)
        assert said in err[0]
    status, _, err = run(photo, *flags, "--prompt", "a blue cup", "--regions", tmp_path, model="mini")
    assert (status, len(err)) == (1, 1)
    assert "CLIPSeg" in err[0]


def test_options_reach_the_model(run, photo, tmp_path, monkeypatch):
    from seada_core.files.hint_format import Hint
    from seada_core.options import ColorizeOptions
    from seada_core.pipeline import Colorizer

    seen = []
    call = Colorizer.__call__

    def record(self, image, options, callback):
        seen.append((self, options, callback))
        return call(self, image, options, callback=callback)

    monkeypatch.setattr(Colorizer, "__call__", record)
    hints = tmp_path / "hints.json"
    hints.write_text('{"hints": [{"x": 1, "y": 2, "color": "#102030"}]}')
    argv = ["--prompt", "a red barn", "--negative-prompt", "grey", "--hints", hints, "--hint", "5,6,#AA0000,3"]
    argv += ["--palette", "#aabbcc,#DDEEFF", "--steps", 2, "--guidance", 3, "--strength", 0.5, "--seed", 9]
    argv += ["--saturation", 1.5]
    argv += ["--size", 32, "--temperature", 0.7, "--dtype", "bfloat16", "--hint-methods", "guidance,propagation"]
    argv += ["--scheduler", "unipc", "--shared-control"]
    status, _, err = run(photo, *argv)
    assert status == 0
    assert err == [f"note: {photo}: the model sees no barn in it"]  # this model has no captioner to name what it sees
    [(colorizer, options, callback)] = seen
    assert str(colorizer.dtype) == "torch.bfloat16" and callback
    assert options == ColorizeOptions(
        prompt="a red barn",
        negative_prompt="grey",
        hints=[Hint(1, 2, "#102030"), Hint(5, 6, "#AA0000", 3)],
        hint_methods=["guidance", "propagation"],
        palette=["#aabbcc", "#ddeeff"],
        steps=2,
        guidance=3,
        saturation=1.5,
        strength=0.5,
        seed=9,
        size=32,
        temperature=0.7,
        scheduler="unipc",
        shared_control=True,
    )


def test_a_hint_colors_its_place(run, tmp_path):
    Image.new("L", (40, 40), 120).save(tmp_path / "flat.png")
    assert run(tmp_path / "flat.png", "--hint", "20,20,#c03020,4")[0] == 0
    r, g, b = Image.open(tmp_path / "flat-color.png").getpixel((20, 20))
    # the hint's chroma at the photo's luminance 120: #c03020 has luminance 89
    assert np.allclose((r, g, b), np.array([0xC0, 0x30, 0x20]) + 120 - 89, atol=6)


def test_the_caption_is_asked_once_and_used(run, photo, tmp_path, monkeypatch):
    from seada_core.pipeline import Colorizer

    seen = []
    monkeypatch.setattr(Colorizer, "caption", lambda self, gray: seen.append(gray) or ["a green hill"] * len(gray))
    status, out, _ = run(photo, "--json", "--variants", 2, "--steps", 1)
    assert status == 0
    assert json.loads(out[0])["prompt"] == "a green hill"
    [gray] = seen
    assert gray.shape == (1, 1, 28, 40)
    assert np.allclose(gray[0, 0].numpy() * 255, np.asarray(scene().convert("L")), atol=1e-3)
    captioned = photo.with_name("photo-color-seed1.png").read_bytes()
    run(photo, "-o", tmp_path / "told.png", "--prompt", "a green hill", "--seed", 1, "--steps", 1)
    assert (tmp_path / "told.png").read_bytes() == captioned


# --- several pictures -------------------------------------------------------------------------------------------------


def test_a_folder_with_bad_files(run, tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    for name in ("a.png", "c.jpg"):
        scene().save(folder / name)
    (folder / "b.png").write_bytes(b"this is no picture")
    (folder / "d.png").write_bytes(b"")
    (folder / "e.jpg").write_bytes((folder / "c.jpg").read_bytes()[:300])
    (folder / "notes.txt").write_text("not a picture, and not asked about")
    status, out, err = run(folder, "-o", tmp_path / "new" / "out", "--steps", 1)
    assert status == 1
    assert sorted(p.name for p in (tmp_path / "new" / "out").iterdir()) == ["a.png", "c.jpg", JOURNAL]
    assert len(out) == 2
    assert len(err) == 3
    for line, name in zip(err, ("b.png", "d.png", "e.jpg")):
        assert line.startswith("error: ")
        assert line.count(name) == 1
    assert "empty" in err[1]


def test_default_folder_and_several_files(run, tmp_path):
    folder = tmp_path / "album"
    folder.mkdir()
    scene().save(folder / "a.png")
    scene().save(tmp_path / "b.png")
    assert run(folder, tmp_path / "b.png", folder / "a.png", "--steps", 1)[0] == 0
    assert [p.name for p in (tmp_path / "album-color").iterdir()] == ["a.png"]
    assert (tmp_path / "b-color.png").is_file()
    assert [p.name for p in folder.iterdir()] == ["a.png"]  # given twice, coloured once


def test_each_picture_is_as_if_alone(run, tmp_path):
    for name, size in (("a.png", (40, 28)), ("b.png", (28, 40))):
        scene(*size).save(tmp_path / name)
    assert run(tmp_path / "a.png", tmp_path / "b.png", "-o", tmp_path / "both")[0] == 0
    assert run(tmp_path / "b.png", "-o", f"{tmp_path}/alone/")[0] == 0
    assert (tmp_path / "both" / "b.png").read_bytes() == (tmp_path / "alone" / "b.png").read_bytes()


def test_variants_and_their_sheet(run, photo, tmp_path):
    status, out, err = run(photo, "-o", tmp_path / "v.png", "--variants", 3, "--seed", 5, "--json")
    assert (status, err) == (0, [])
    files = [tmp_path / f"v-seed{k}.png" for k in (5, 6, 7)]
    record = json.loads(out[0])
    assert record["variants"] == [str(f) for f in files]
    assert record["seed"] == 5
    assert len({f.read_bytes() for f in files}) == 3
    assert run(photo, "-o", tmp_path / "alone.png", "--seed", 6)[0] == 0
    assert (tmp_path / "alone.png").read_bytes() == files[1].read_bytes()
    sheet = np.asarray(Image.open(tmp_path / "v.png").convert("RGB")).astype(int)
    # grey first, then the seeds: each is found on the sheet, pixel by pixel, with a dark label under it
    gray = np.asarray(scene().convert("L").convert("RGB")).astype(int)
    places = []
    for tile in (gray, *(np.asarray(Image.open(f)).astype(int) for f in files)):
        windows = np.lib.stride_tricks.sliding_window_view(sheet, tile.shape)[:, :, 0]
        found = [(y, x) for y, x in np.argwhere((windows[..., 0, 0, :] == tile[0, 0]).all(-1)) if
                 (sheet[y : y + 28, x : x + 40] == tile).all()]  # fmt: skip
        assert len(found) == 1
        places += found
        y, x = found[0]
        assert sheet[y + 28 : y + 52, x : x + 80].min() < 80
    assert places == sorted(places)
    assert len(set(places)) == 4


def test_json_lines(run, photo, tmp_path):
    status, out, err = run(tmp_path / "missing.png", photo, "--json", "--prompt", "a barn", "--seed", 2, "--steps", 1)
    assert status == 1
    bad, good = map(json.loads, out)
    assert good.pop("seconds") > 0
    target = str(photo.with_name("photo-color.png"))
    assert good.pop("notes") == [kinds.COLORED]
    assert good == {"input": str(photo), "output": target, "seed": 2, "prompt": "a barn", "error": None, "scheme": None}
    assert bad["output"] is None
    assert "does not exist" in bad["error"]
    assert err == [f"error: {bad['error']}"]


SCHEMES = [
    {"name": "Barn", "description": "a barn", "colors": [{"color": "#902010", "name": "paint"}]},
    {"name": "Sea", "description": "waves", "colors": [{"color": "#204080", "name": "water"}]},
]


def test_schemes_are_soft_hints(run, photo, tmp_path):
    """By name, by file, and by what the prompt says; each is said and changes the picture."""
    (tmp_path / "two.json").write_text(json.dumps({"schemes": SCHEMES}))
    (tmp_path / "one.json").write_text(json.dumps({"schemes": SCHEMES[:1]}))
    argv = {
        None: [],
        "Dutch interior": ["--palette", "dutch INTERIOR"],
        "Barn": ["--palette", tmp_path / "one.json"],
        "Sea": ["--palette", tmp_path / "two.json"],
        "Nile journey": ["--palette", "auto", "--palette-strength", "2"],
    }
    results = {}
    for name, options in argv.items():
        prompt = {"Sea": "big waves", "Nile journey": "camels by a pyramid"}.get(name, "a barn")
        target = tmp_path / "out.png"
        status, out, err = run(photo, "-o", target, "--overwrite", "--steps", 2, "--json", "--prompt", prompt, *options)
        assert (status, err, json.loads(out[0])["scheme"]) == (0, [], name)
        results[name] = target.read_bytes()
    assert results[None] != results["Barn"] != results["Dutch interior"]


def test_what_a_model_without_captioner_cannot_do_is_said(run, photo):
    status, _, err = run(photo, "--palette", "auto", "--steps", 1)
    assert status == 1
    assert len(err) == 1
    assert "no captioner.safetensors" in err[0] and "--prompt" in err[0]


def test_variants_take_enough_steps_to_differ(run, photo, tmp_path, monkeypatch):
    from seada_core.pipeline import Colorizer

    taken = []
    real = Colorizer.__call__

    def record(self, image, options, callback):
        resolved = options.resolved(self.preset)
        taken.append([resolved.steps, resolved.saturation, resolved.noise])
        return real(self, image, options, callback=callback)

    monkeypatch.setattr(Colorizer, "__call__", record)
    own = Colorizer.from_pretrained

    def in_one_step(*args, **options):
        colorizer = own(*args, **options)
        sampling = dataclasses.replace(colorizer.preset.sampling, steps=1, saturation=2.0)
        colorizer.preset = dataclasses.replace(colorizer.preset, sampling=sampling)
        return colorizer

    monkeypatch.setattr(Colorizer, "from_pretrained", in_one_step)
    for k, options in enumerate(
        [(), ("--variants", 2), ("--variants", 2, "--steps", 1), ("--variants", 2, "--saturation", 1.1)]
    ):
        assert run(photo, "-o", tmp_path / f"{k}.png", *options)[0] == 0
    one, varied = [1, 2.0, 1.0], [3, pytest.approx(1.7), 0.6]
    assert taken == [one, varied, varied, one, one, [3, 1.1, 0.6], [3, 1.1, 0.6]]


def test_progress_only_on_a_terminal(run, photo, tmp_path, monkeypatch):
    assert run(photo, "-o", tmp_path / "a.png")[2] == []
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True, raising=False)
    _, out, err = run(photo, "-o", tmp_path / "b.png", "--variants", 2, "--json")
    assert len(out) == 1
    assert "1/1 photo.png" in "".join(err)
    assert "/6 " in "".join(err)  # two variants of three steps
    scene(20, 20).save(tmp_path / "second.png")
    err = "".join(run(photo, tmp_path / "second.png", "-o", tmp_path / "both")[2])
    assert "2/2 [" in err and "picture" in err and "step" not in err


def test_a_base_and_a_stock_controlnet_colour(small_sd15, photo, tmp_path, capfd):
    small_sd15.modules["controlnet"].save_pretrained(tmp_path / "control")
    base, control = str(small_sd15.diffusers), str(tmp_path / "control")
    options = ["--prompt", "a dog", "--steps", "1", "--size", "64", "--no-words", "--device", "cpu"]
    results = []
    for name, more in (("both", ["--base", base, "--control", control]), ("base", ["--base", base])):
        assert main([str(photo), "-o", str(tmp_path / f"{name}.png"), *options, *more]) == 0
        results.append(Image.open(tmp_path / f"{name}.png"))
    assert results[0].size == Image.open(photo).size and not np.array_equal(*results)
    capfd.readouterr()
    for more, message in (
        (["--base", base, "--model", "mini"], "the embedded model needs no base"),
        (["--base", str(tmp_path / "nothing")], "does not exist"),
        (["--base", base, "--control", base], "no config.json in"),
        (["--base", base, "--captioner", control], "expected CoCa, BLIP, BLIP-2 or ClipCap"),
    ):
        argv = [str(photo), "-o", str(tmp_path / "x.png"), "--steps", "1", "--size", "64", "--device", "cpu", *more]
        assert main(argv) == 1
        assert message in capfd.readouterr().err

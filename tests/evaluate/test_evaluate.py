"""The command `evaluate`: its figures against each measure alone, bad input, resuming, its page in a browser."""

import io
import json
import math
import os
import random
import shutil
import subprocess
import sys
import tarfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core.evaluate import features, hint_points, labels, metrics, sources, summary, tsne
from seada_core.evaluate.__main__ import main
from seada_core.evaluate.journal import Journal, JournalError
from seada_core.evaluate.measure import measure
from seada_core.evaluate.options import EvaluateOptions, Networks
from seada_core.evaluate.protocols import PROTOCOLS
from seada_core.evaluate.run import evaluate as run
from seada_core.evaluate.run import fingerprint
from seada_core.options import ColorizeOptions

torch.set_num_threads(1)
TESTS = Path(__file__).resolve().parent
LITE = "efficientnet-lite0"
HOSTILE = "<img src=x onerror=window.pwned=1>&\"'"


def half(truth):
    """Half of a picture's chroma."""
    gray = sources.gray_of(truth)
    return sources.to_8bit(gray + 0.5 * (truth - gray))


@pytest.fixture(scope="module")
def photos(data_dir):
    """Eight crops of Kodak photos, 72×64 px."""
    paths = sorted((data_dir / "test" / "kodak24").glob("*.png"))[:8]
    return [Image.open(path).convert("RGB").crop((100, 120, 388, 376)).resize((72, 64)) for path in paths]


@pytest.fixture
def folder(photos, tmp_path):
    """The photos in two folders named by classes of ImageNet, and half their chroma under `half/`, flat."""
    for index, photo in enumerate(photos):
        place = tmp_path / "truth" / ("church" if index < 5 else "golf ball") / f"photo{index}.png"
        place.parent.mkdir(parents=True, exist_ok=True)
        photo.save(place)
        result = tmp_path / "half" / f"photo{index}.png"
        result.parent.mkdir(exist_ok=True)
        sources.to_image(half(sources.to_tensor(photo))).save(result)
    return tmp_path


def command(folder, *more, out="report"):
    """Evaluates `half/`, without networks unless `more` names them."""
    more, networks = [str(argument) for argument in more], []
    if "--features" in more:
        at = more.index("--features")
        networks, more = more[at + 1 : at + 2], more[:at] + more[at + 2 :]
    arguments = ["--images", str(folder / "truth"), "--no-model", "--compare", f"half={folder / 'half'}", *more]
    return main([*arguments, "--out", str(folder / out), "--device", "cpu", "--features", *networks])


def report_of(folder, out="report"):
    return json.loads((folder / out / "report.json").read_text("utf-8"))


def test_figures_are_those_of_each_measure_on_its_own(folder, photos, capsys):
    assert command(folder, "--features", LITE, "--batch", 3) == 0
    report = report_of(folder)
    truth = torch.stack([sources.to_tensor(photo) for photo in photos])
    ours, gray = half(truth), sources.gray_of(truth)
    found, grey = report["methods"]["half"], report["methods"]["gray"]
    assert report["pictures"] == 8
    for values, rgb in ((found, ours), (grey, gray)):
        expected = {
            "psnr": metrics.psnr(rgb, truth),
            "ssim": metrics.ssim(rgb, truth),
            "delta_e2000": metrics.delta_e2000(rgb, truth),
            "colorfulness": metrics.colorfulness(rgb),
            "colorfulness_signed": metrics.colorfulness(rgb, signed=True),
            "edge_chroma_error": metrics.edge_chroma_error(rgb, truth),
            "distance_efficientnet-lite0": metrics.feature_distance(rgb, truth),
        }
        for name, each in expected.items():
            assert values[name] == pytest.approx(each.mean().item(), rel=1e-4, abs=1e-6), name
        frechet = metrics.fid([rgb[:5], rgb[5:]], [truth], features="efficientnet-lite0")
        assert values["frechet_efficientnet-lite0"] == pytest.approx(frechet, rel=1e-3)
    assert found["psnr_over_gray"] == pytest.approx(found["psnr"] - grey["psnr"])
    share = found["frechet_efficientnet-lite0"] / grey["frechet_efficientnet-lite0"]
    assert found["frechet_efficientnet-lite0_share_of_gray"] == pytest.approx(share)
    assert 0 < share < 0.5
    fullness = metrics.colorfulness(truth).mean().item()
    assert report["methods"]["truth"]["colorfulness"] == pytest.approx(fullness, rel=1e-5)
    assert found["delta_colorfulness"] == pytest.approx(fullness - found["colorfulness"], rel=1e-4)
    assert found["colorfulness_share_of_truth"] == pytest.approx(0.5, abs=0.02)

    top1 = {n: features.class_logits(features.features(p)).argmax(1) for n, p in (("half", ours), ("gray", gray))}
    seen = features.class_logits(features.features(truth)).argmax(1)
    assert found["agreement"] == pytest.approx((top1["half"] == seen).float().mean().item())
    label = torch.tensor([497] * 5 + [574] * 3)
    assert grey["accuracy"] == pytest.approx((top1["gray"] == label).float().mean().item())
    assert {m: round(sum(h), 4) for m, h in report["chroma_histograms"].items() if m != "edges"} == dict.fromkeys(
        report["methods"], 1.0
    )
    groups = report["groups"]
    assert [(g, v["pictures"]) for g, v in groups.items()] == [("church", 5), ("golf ball", 3)]
    assert groups["church"]["methods"]["half"]["psnr"] == pytest.approx(
        metrics.psnr(ours[:5], truth[:5]).mean().item(), rel=1e-5
    )
    printed = capsys.readouterr().out
    assert f"{found['psnr']:.2f} dB" in printed and "biased upwards" in printed


def test_every_measure_of_a_batch_is_that_of_its_pictures(photos):
    truth = torch.stack([sources.to_tensor(photo) for photo in photos[:3]])
    pictures = {"truth": truth, "gray": sources.gray_of(truth), "ours": half(truth)}
    together, pooled = measure(pictures, Networks())
    for index in range(3):
        (alone,), own = measure({m: rgb[index : index + 1] for m, rgb in pictures.items()}, Networks())
        for method, values in alone.items():
            for name, value in values.items():
                assert together[index][method][name] == pytest.approx(value, rel=1e-4, abs=1e-5), (method, name)
        torch.testing.assert_close(own["efficientnet-lite0", "ours"][0], pooled["efficientnet-lite0", "ours"][index])
    histogram = np.array(together[0]["truth"]["chroma_histogram"])
    from skimage.color import rgb2lab

    chroma = np.hypot(*np.moveaxis(rgb2lab(np.array(photos[0])), -1, 0)[1:])
    expected, _ = np.histogram(chroma.clip(max=127.9), bins=32, range=(0, 128))
    assert histogram.sum() == 72 * 64
    assert np.abs(histogram - expected).sum() < 0.01 * histogram.sum()
    assert together[0]["gray"]["chroma_histogram"][0] == 72 * 64


class Colours:
    """In place of a Colorizer: half the chroma of the truths it was told, all of it where hints are; counts calls."""

    folder = TESTS

    def __init__(self, truths, fail_at=None):
        self.by_luminance = {sources.gray_of(t).numpy().tobytes(): t for t in truths}
        self.calls, self.fail_at = 0, fail_at

    def __call__(self, gray, options, hints=None):
        assert (gray == gray[:, :1]).all()
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        truth = torch.stack([self.by_luminance[g.numpy().tobytes()] for g in gray])
        return half(truth) if hints is None else torch.where(hints[:, 2:] > 0, truth, half(truth))


def options_of(folder, out="ours", **changes):
    options = EvaluateOptions(
        str(folder / "truth"),
        folder / out,
        networks=Networks(()),
        model="mini",
        colorize=ColorizeOptions(seed=3),
        batch=2,
    )
    return replace(options, **changes)


def test_a_run_that_breaks_off_goes_on_where_it_was(folder, photos):
    truths = [sources.to_tensor(photo) for photo in photos]
    lite = {"networks": Networks((LITE,))}
    whole = run(options_of(folder, "whole", **lite), Colours(truths))
    with pytest.raises(KeyboardInterrupt):
        run(options_of(folder, **lite), Colours(truths, fail_at=3))
    journal = folder / "ours" / "journal.jsonl"
    assert len(journal.read_text().splitlines()) == 1 + 4
    with open(journal, "a") as lines:
        lines.write('{"key": "golf ball/photo5", "met')  # cut short, and features without a line
    with open(folder / "ours" / "features" / "efficientnet-lite0@ours.f32", "ab") as vectors:
        vectors.write(b"\0" * 4 * 1280)
    with pytest.raises(JournalError, match="holds an evaluation already; add --resume"):
        run(options_of(folder, **lite), Colours(truths))
    with pytest.raises(JournalError, match="other settings: seed was 3, now 4"):
        run(options_of(folder, **lite, resume=True, colorize=ColorizeOptions(seed=4)), Colours(truths))
    rest = Colours(truths)
    resumed = run(options_of(folder, **lite, resume=True), rest)
    assert rest.calls == 2
    for name in ("methods", "groups", "chroma_histograms", "intervals_95", "pictures"):
        assert resumed[name] == whole[name]
    again = Colours(truths)
    assert run(options_of(folder, **lite, resume=True), again)["methods"] == whole["methods"]
    assert again.calls == 0
    saved = Image.open(folder / "ours" / "ours" / "church" / "photo0.png")
    torch.testing.assert_close(sources.to_tensor(saved), half(truths[0]))


def test_memory_does_not_grow_with_the_features(tmp_path):
    """What a journal gives back comes in batches, and what was written after the last line goes."""
    journal = Journal(tmp_path, {"a": 1}, False, {"net": 3})
    vectors = torch.randn(700, 3)
    for start in (0, 300):
        rows = vectors[start : start + (300 if start == 0 else 400)]
        journal.add([{"key": str(start + k), "methods": {}} for k in range(len(rows))], {("net", "ours"): rows})
    journal.close()
    resumed = Journal(tmp_path, {"a": 1}, True, {"net": 3})
    batches = list(resumed.features("net", "ours", rows=256))
    assert [len(batch) for batch in batches] == [256, 256, 188]
    torch.testing.assert_close(torch.cat(batches), vectors)
    resumed.close()
    with open(tmp_path / "features" / "net@ours.f32", "r+b") as stream:
        stream.truncate(100)
    with pytest.raises(JournalError, match="shorter than the journal says"):
        Journal(tmp_path, {"a": 1}, True, {"net": 3})


def test_another_model_is_another_evaluation(tmp_path):
    (tmp_path / "unet.safetensors").write_bytes(b"one")
    first = fingerprint(tmp_path)
    (tmp_path / "unet.safetensors").write_bytes(b"two")
    assert fingerprint(tmp_path) != first


# --- bad input --------------------------------------------------------------------------------------------------------


def test_results_that_do_not_pair_are_named(folder, capsys):
    (folder / "half" / "photo3.png").unlink()
    (folder / "half" / "photo6.png").unlink()
    assert command(folder) == 1
    error = capsys.readouterr().err
    assert "8 pictures, 6 results pair" in error and "church/photo3, golf ball/photo6" in error and "--common" in error
    assert command(folder, "--common") == 0
    assert report_of(folder)["pictures"] == 6
    for path in (folder / "half").iterdir():
        path.rename(path.with_name(f"other{path.name}"))
    assert command(folder, out="none") == 1
    assert "no name pairs with a picture" in capsys.readouterr().err
    shutil.rmtree(folder / "half")
    assert command(folder, out="gone") == 1
    assert "there is no such folder" in capsys.readouterr().err


def test_corrupt_files_and_wrong_sizes_are_reported_and_the_rest_is_measured(folder, capsys):
    (folder / "truth" / "church" / "photo1.png").write_bytes(b"\x89PNG\r\n\x1a\nbroken")
    Image.new("RGB", (10, 20)).save(folder / "half" / "photo2.png")
    assert command(folder) == 1
    report, error = report_of(folder), capsys.readouterr().err
    assert report["pictures"] == 6 and [e["key"] for e in report["unreadable"]] == ["church/photo1", "church/photo2"]
    assert "photo1.png is not a picture" in error and "photo2.png is 10×20 px, expected 72×64" in error
    assert "photo2.png is 10×20" in (folder / "report" / "report.html").read_text("utf-8")


def test_one_picture_has_no_frechet_distance(folder, capsys):
    assert command(folder, "--features", LITE, "--limit", 1) == 0
    report = report_of(folder)
    assert report["methods"]["half"]["frechet_efficientnet-lite0"] is None
    assert "at least two pictures: undefined" in capsys.readouterr().out
    assert report["methods"]["half"]["psnr"] > 0 and report["intervals_95"] == {}


def test_grey_truths_are_reported_and_left_out_on_request(folder, capsys):
    place = folder / "truth" / "church" / "photo4.png"
    Image.open(place).convert("L").save(place)
    assert command(folder) == 0
    report = report_of(folder)
    assert report["gray_truths"] == {"count": 1, "excluded": False, "keys": ["church/photo4"]}
    assert "1 truths are grey" in capsys.readouterr().out
    assert any("gray: 1 pictures equal the truth" in note for note in report["notes"])
    assert math.isfinite(report["methods"]["gray"]["psnr"])
    assert command(folder, "--exclude-gray", out="without") == 0
    without = report_of(folder, "without")
    assert without["pictures"] == 7 and without["gray_truths"]["excluded"]
    assert not any("equal the truth" in note for note in without["notes"])


def test_bad_usage_and_bad_sources(folder, tmp_path, capsys):
    for arguments, message in (
        (["--compare", "half"], "is not NAME=DIR"),
        (["--compare", f"../x={folder}"], "is not NAME=DIR"),
        (["--compare", "ours=x"], "not truth, gray or ours"),
        (["--features", "inception"], "no 'inception'; known are efficientnet-lite0"),
        (["--perceptual", "lpips"], "no 'lpips'"),
        (["--hint-counts", "3", "--protocol", "icolorit"], "the protocol has 0, 1, 2"),
        (["--hint-counts", "10"], "needs --protocol icolorit"),
        (["--no-model"], "nothing to evaluate"),
        (["--no-truth", "--exclude-gray"], "exclude each other"),
    ):
        assert main(["--images", str(folder / "truth"), *arguments]) == 2, arguments
        assert message in capsys.readouterr().err
    empty = tmp_path / "empty"
    empty.mkdir()
    (tmp_path / "text.tar").write_text("no tar")
    for images, message in (
        (empty, "no pictures in"),
        (tmp_path / "none.tar", "no folder or shard"),
        (tmp_path / "text.tar", "neither a folder nor a webdataset shard"),
    ):
        assert main(["--images", str(images), "--out", str(tmp_path / "o")]) == 1
        assert message in capsys.readouterr().err
    Image.new("RGB", (8, 8)).save(folder / "truth" / "church" / "photo0.jpg")
    assert command(folder, out="twice") == 1
    assert "both 'church/photo0'" in capsys.readouterr().err
    assert command(folder, "--protocol", "imagenet-val5k", out="few") == 1


def test_a_shard_that_leads_out_of_itself_is_refused(tmp_path):
    with tarfile.open(tmp_path / "bad.tar", "w") as shard:
        member = tarfile.TarInfo("../../outside.png")
        shard.addfile(member, io.BytesIO(b""))
    with pytest.raises(sources.SourceError, match="a path outside it"):
        sources.find(tmp_path / "bad.tar")


def test_missing_weights_are_reported_before_any_work(folder, tmp_path, monkeypatch, capsys):
    monkeypatch.setenv("SEADA_EVALUATION_WEIGHTS", str(tmp_path / "weights"))
    features._network.cache_clear()
    assert command(folder, "--features", "inception-pytorch-fid") == 1
    assert "weights-inception-2015-12-05-6726825d.pth" in capsys.readouterr().err
    assert not (folder / "report").exists()


def test_help_is_quick():
    done = subprocess.run(
        [sys.executable, "-X", "importtime", "-m", "seada_core.evaluate", "--help"], capture_output=True, text=True
    )
    assert done.returncode == 0 and "imagenet-val5k" in done.stdout
    assert " torch\n" not in done.stderr and " numpy\n" not in done.stderr


# --- sources, protocols, hints ----------------------------------------------------------------------------------------


def test_shards_give_pictures_labels_and_keys(data_dir):
    shard = data_dir / "val-000.tar"
    entries = sources.find(shard)
    assert len(entries) == 821
    with tarfile.open(shard) as tar:
        about = {m.name[:-5]: json.load(tar.extractfile(m)) for m in tar if m.name.endswith(".json")}
        for entry in entries[::100]:
            assert entry.group == about[entry.key]["label"]
            expected = Image.open(tar.extractfile(f"{entry.key}.jpg")).convert("RGB")
            assert np.array_equal(np.array(entry.load()), np.array(expected))
    classes = labels.class_indices([entry.group for entry in entries])
    pooled = [
        (features.class_logits(features.features(sources.to_tensor(e.load())[None])).argmax().item(), c)
        for e, c in list(zip(entries, classes))[:60]
        if c is not None
    ]
    assert len(pooled) > 20
    assert np.mean([found == index for found, index in pooled]) > 0.5  # by chance one in a thousand


def test_labels():
    assert labels.class_index("English springer") == 217 and labels.class_index("chain saw") == 491
    assert labels.class_index("French_horn") == 566 and labels.class_index("7") == 7
    assert labels.class_index("snoopy") is None and labels.class_index(None) is None
    names = [f"n{k:08}" for k in range(0, 3000, 3)]
    assert labels.class_indices([names[7], names[999], *names])[:2] == [7, 999]
    assert labels.class_indices(names[:10]) == [None] * 10


def test_a_list_and_labels_from_files(folder, tmp_path, capsys):
    (tmp_path / "list.txt").write_text("photo6.png\nphoto2\n")
    (tmp_path / "labels.txt").write_text("photo6.png golf ball\nphoto2,497\n")
    assert (
        command(folder, "--list", tmp_path / "list.txt", "--labels", tmp_path / "labels.txt", "--features", LITE) == 0
    )
    assert report_of(folder)["methods"]["truth"]["labelled"] == 2
    assert set(report_of(folder)["groups"]) == {"golf ball", "497"}
    (tmp_path / "list.txt").write_text("photo6.png\nnowhere.png\n")
    assert command(folder, "--list", tmp_path / "list.txt", out="b") == 1
    assert "names 1 pictures that are not there, nowhere.png" in capsys.readouterr().err
    (tmp_path / "labels.txt").write_text("photo6.png a cat\n")
    assert command(folder, "--labels", tmp_path / "labels.txt", out="c") == 1
    assert "labels.txt, line 1" in capsys.readouterr().err


def test_protocols_choose_and_fit(tmp_path):
    for name in ("b.png", "a.jpg", "sub/0.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        Image.new("RGB", (300, 200)).save(tmp_path / name)
    first = replace(PROTOCOLS["imagenet-val5k"], limit=2)
    assert [e.key for e in sources.choose(sources.find(tmp_path), first, None, None)] == ["sub/0", "a"]
    with pytest.raises(sources.SourceError, match="is 5000 pictures, there are 3; add --limit 3"):
        sources.choose(sources.find(tmp_path), PROTOCOLS["imagenet-val5k"], None, None)
    ramp = Image.fromarray(np.tile(np.linspace(0, 255, 600).astype(np.uint8), (300, 1))).convert("RGB")
    cropped = np.array(PROTOCOLS["imagenet-val5k"].fit(ramp))
    assert cropped.shape == (256, 256, 3)
    assert cropped[128, [0, 255], 0].tolist() == pytest.approx([64, 191], abs=1)  # the middle half of the width
    squashed = np.array(PROTOCOLS["coco-stuff"].fit(ramp))
    assert squashed.shape == (256, 256, 3) and squashed[0, [0, 255], 0].tolist() == pytest.approx([0, 255], abs=1)
    assert PROTOCOLS["icolorit"].fit(ramp).size == (224, 224) and PROTOCOLS["own"].fit(ramp).size == (600, 300)


def test_results_at_the_photos_own_size_are_fitted_as_it_is(folder):
    """A method's results at the photos' size give the same figures as those saved at the protocol's."""
    assert command(folder, "--protocol", "coco-stuff", out="own") == 0
    for path in (folder / "half").iterdir():
        PROTOCOLS["coco-stuff"].fit(Image.open(path)).save(path)
    assert command(folder, "--protocol", "coco-stuff", out="fitted") == 0
    assert report_of(folder, "own")["methods"] == report_of(folder, "fitted")["methods"]


def test_hints_are_icolorits():
    """Its own loop: a text file a picture and count, every coordinate drawn from one stream."""
    files, size = 5, 224
    random.seed(1234)
    expected = {}
    for count in (0, 1, 2, 5, 10, 20, 50, 100, 200):
        for file in range(files):
            expected[count, file] = [
                (random.randint(0, size // 2 - 1) * 2, random.randint(0, size // 2 - 1) * 2) for _ in range(count)
            ]
    found = hint_points.draw(files, (1, 10, 50), size)
    assert set(found) == {1, 10, 50}
    for count, places in found.items():
        for file in range(files):
            assert [tuple(2 * v for v in place) for place in places[file].tolist()] == expected[count, file]
    with pytest.raises(ValueError, match="not 3"):
        hint_points.draw(files, (3,), size)


def test_a_hint_is_the_mean_of_its_patch():
    rgb = torch.rand(3, 9, 8)
    hints = hint_points.reveal(rgb, torch.tensor([[1, 2], [1, 2], [3, 0]]))
    assert hints.shape == (3, 9, 8) and hints[2].sum() == 8
    r, g, b = rgb[:, 2:4, 4:6].mean((1, 2)).tolist()
    y = 0.299 * r + 0.587 * g + 0.114 * b
    assert hints[:, 3, 5].tolist() == pytest.approx([(b - y) / 1.772, (r - y) / 1.402, 1], abs=1e-6)


def test_psnr_at_k_rises_with_the_hints(folder, photos):
    protocol = replace(PROTOCOLS["icolorit"], size=64)
    truths = [sources.to_tensor(protocol.fit(photo)) for photo in photos]
    report = run(options_of(folder, protocol=protocol, hint_counts=(0, 10, 100)), Colours(truths))
    at = report["methods"]["ours"]["psnr_at"]
    assert at["0"] == pytest.approx(report["methods"]["ours"]["psnr"]) and at["0"] < at["10"] < at["100"]
    assert report["methods"]["ours"]["psnr_at_10_over_psnr_at_0"] == pytest.approx(at["10"] - at["0"])
    places = hint_points.draw(8, (100,), 64)[100]
    expected = []
    for truth, drawn in zip(truths, places):
        shown = hint_points.reveal(truth, drawn)[2:] > 0
        expected.append(metrics.psnr(torch.where(shown, truth, half(truth)), truth).item())
    assert at["100"] == pytest.approx(np.mean(expected), rel=1e-5)


def test_photos_without_a_truth_have_colourfulness_alone(folder, photos):
    options = options_of(folder, truth=False, compare={"half": folder / "half"})
    report = run(options, Colours([sources.to_tensor(photo) for photo in photos]))
    fullness = metrics.colorfulness(torch.stack([half(sources.to_tensor(p)) for p in photos])).mean().item()
    assert set(report["methods"]) == {"ours", "half"}
    assert report["methods"]["ours"] == {
        "colorfulness": pytest.approx(fullness, rel=1e-5),
        "colorfulness_signed": report["methods"]["ours"]["colorfulness_signed"],
    }


def test_intervals_are_those_of_the_mean():
    """Against the normal theory of the mean, and pairing: a difference that is the same everywhere is certain."""
    values = np.random.default_rng(0).normal(20, 3, 400)
    low, high = summary.bootstrap(lambda a: a.mean(), values)
    spread = 1.96 * values.std() / 20
    assert low == pytest.approx(values.mean() - spread, abs=0.05)
    assert high == pytest.approx(values.mean() + spread, abs=0.05)
    assert summary.bootstrap(lambda a, b: a.mean() - b.mean(), values + 1, values) == pytest.approx((1, 1))


def test_the_embedded_model_is_evaluated(data_dir, tmp_path, capsys):
    arguments = ["--images", str(data_dir / "val-000.tar"), "--limit", "2", "--out", str(tmp_path), "--device", "cpu"]
    assert main([*arguments, "--steps", "1", "--json"]) == 0
    report = json.loads(capsys.readouterr().out)
    assert report["settings"]["steps"] == 1 and report["methods"]["ours"]["colorfulness"] > 5
    assert len(list((tmp_path / "ours").glob("*.png"))) == 2


# --- the page ---------------------------------------------------------------------------------------------------------


def test_page_in_a_browser(folder, photos):
    """Everything is in the file, every thumbnail loads, and names stay names."""
    node, chromium = shutil.which("node"), os.environ.get("CHROMIUM") or shutil.which("chromium")
    if node is None or chromium is None:
        pytest.skip("the page is tested with node and Debian's chromium; install both, or set CHROMIUM")
    if subprocess.run([node, "-e", "require('playwright-core')"], capture_output=True, cwd=TESTS).returncode:
        pytest.skip("no playwright-core: npm install it anywhere, and set NODE_PATH to its node_modules")
    name = HOSTILE.replace("/", "")
    (folder / "truth" / name).mkdir()
    photos[0].save(folder / "truth" / name / f"{name}.png")
    sources.to_image(half(sources.to_tensor(photos[0]))).save(folder / "half" / f"{name}.png")
    assert command(folder) == 0
    done = subprocess.run(
        [node, TESTS / "report.cjs", chromium, (folder / "report" / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["requests"] == [] and seen["errors"] == [] and not seen["pwned"]
    assert seen["shut"]  # markup that got in all the same would run nothing
    assert seen["pictures"] == 9 * 3 and seen["broken"] == 0  # input, half, truth of each
    assert f"{name}/{name}" in seen["names"]
    assert name in seen["classes"]
    titles = ["Worst by PSNR over grey's", "Best", "Spread evenly over the rest", "Chroma", "By class", "Settings"]
    assert seen["titles"] == titles
    truth = torch.stack([sources.to_tensor(photo) for photo in [*photos, photos[0]]])
    psnr = metrics.psnr(half(truth), truth)
    worst = (psnr - metrics.psnr(sources.gray_of(truth), truth)).argsort(stable=True)[:3]
    assert [float(text) for text in seen["worst"]] == pytest.approx(psnr[worst].tolist(), abs=0.06)
    assert seen["lines"] == 2  # truth and half in the histogram
    report = report_of(folder)
    assert report["methods"]["half"]["psnr"] == pytest.approx(float(seen["psnr"].split()[0]), abs=0.006)


# --- t-SNE ------------------------------------------------------------------------------------------------------------


def test_distances_between_embeddings():
    """Grey one unit aside of colour, each picture alike; refined on the spot: the spread of two points 2 apart is 1."""
    color = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    points = {"color": color, "gray": color + torch.tensor([0.0, 3.0]), "refined": color.flip(0)}
    found = tsne.distances(points)
    assert found["gray_to_color"] == found["gray_to_color_of_means"] == 3 and found["gray_to_color_about_means"] == 0
    assert found["refined_to_color"] == found["refined_to_color_about_means"] == 2
    assert found["refined_to_color_of_means"] == 0


def test_tsne_command(data_dir, tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    out = tmp_path / "tsne.png"
    arguments = ["--data", str(data_dir / "val-000.tar"), "--pictures", "20", "--out", str(out)]
    assert tsne.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["captions"] == 20 and found["gray_to_color"] > 0
    image = np.array(Image.open(out).convert("RGB")).reshape(-1, 3)
    for color in tsne.COLORS.values():  # every kind is in the picture (blended with white)
        wanted = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)])
        assert (np.abs(image - (0.7 * wanted + 0.3 * 255)).max(1) < 12).any()
    assert tsne.main([*arguments, "--data", str(tmp_path)]) == 1


def test_embeddings_are_of_real_tokens(tiny_model):
    """A caption's mean does not depend on the padding after it; the refined one is the adapter's."""
    from seada_core.pipeline import Colorizer

    colorizer = Colorizer.from_pretrained(str(tiny_model), "cpu")
    e, mask = colorizer.part("semantic_encoder")(["a dog"])
    assert 0 < mask.sum() < mask.shape[1]
    torch.testing.assert_close(tsne.embed(colorizer, ["a dog"], False)[0], e[0][mask[0]].mean(0))
    refined = colorizer.part("semantic_adapter")(e)
    torch.testing.assert_close(tsne.embed(colorizer, ["a dog"], True)[0], refined[0][mask[0]].mean(0))

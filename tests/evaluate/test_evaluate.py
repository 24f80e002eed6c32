"""The command `evaluate`: its figures against each measure alone, bad input, resuming, its page in a browser."""

import io
import json
import math
import shutil
import subprocess
import sys
import tarfile

import numpy as np
import pytest
import torch
from evaluation import LITE, Colours, command, half, options_of, report_of
from PIL import Image

from seada_core.evaluate import features, metrics, sources, summary
from seada_core.evaluate.__main__ import main
from seada_core.evaluate.journal import Journal, JournalError
from seada_core.evaluate.measure import measure
from seada_core.evaluate.options import Networks
from seada_core.evaluate.run import evaluate as run
from seada_core.evaluate.run import fingerprint
from seada_core.options import ColorizeOptions

torch.set_num_threads(1)


@pytest.mark.slow
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
    assert "the folder does not exist" in capsys.readouterr().err


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


# --- t-SNE ------------------------------------------------------------------------------------------------------------

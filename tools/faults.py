"""Training under faults: `python -m tools.faults [--kills 30] [--seed 0] [--only FAULT] [--keep FOLDER]`.

A tiny stage is trained by the trainer's own command, in processes of its own, and killed with SIGKILL: at random
moments, and just before each file operation of a run. Then full disks (a small tmpfs, if one can be mounted), a killed
data worker, a broken shard, and NaN in a gradient. Each run is resumed and must end like an uninterrupted one: the same
losses at every step, bitwise equal weights, averages and part files, every picture once per epoch, and no partial
files. Prints one line per fault; exit status 1 if a run did not recover.
"""

from __future__ import annotations

import argparse
import itertools
import json
import multiprocessing
import os
import random
import signal
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path

ROOT = Path(__file__).resolve().parents[1]
SIZES = [
    "--text.width=32", "--text.layers=1", "--text.heads=2", "--text.length=16",
    "--unet.channels", "32", "32", "64", "--unet.heads=2", "--unet.context-dim=32", "--unet.groups=8",
    "--adapter.length=16", "--adapter.width=32", "--control.head-dim=16",
]  # fmt: skip
PICTURES, BATCH, EVERY = 12, 4, 3
OPERATIONS = {"os.rename", "os.remove", "os.rmdir", "os.mkdir", "os.link", "open"}
SECONDS = 300  # time limit of a run


def write_pictures(folder: Path, count: int = PICTURES) -> Path:
    """Small coloured pictures with captions beside them."""
    import numpy as np
    from PIL import Image

    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        colors = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8))
        colors.resize((64, 64), Image.Resampling.BICUBIC).save(folder / f"{i:02}.png")
        (folder / f"{i:02}.txt").write_text(("a photo of a dog", "a photo of green grass", "a photo of the sea")[i % 3])
    return folder


def average_colors(rgb):
    """Replaces the latent encoder: the cells' mean colours."""
    import torch.nn.functional as F

    return F.avg_pool2d(rgb, 8).repeat(1, 2, 1, 1)[:, :4] - 0.5


def write_cache(pictures: Path, folder: Path) -> Path:
    from seada_core.train.data import build_cache

    build_cache(str(pictures), folder, 64, average_colors, log=lambda _: None)
    return folder


def command(pictures: Path, cache: Path, out: Path, steps: int, *more: str) -> list[str]:
    return [
        "base", f"--data={pictures}", f"--cache={cache}", f"--out={out}", "--resolution=64", "--crop=64",
        f"--batch={BATCH}", f"--steps={steps}", f"--checkpoint-every={EVERY}", f"--validate-every={EVERY}",
        "--decay=0", "--chroma-weight=0", "--perceptual-weight=0", "--precision=no", "--workers=1", "--resume",
        *SIZES, *more,
    ]  # fmt: skip


# faults inside a process of the trainer


def kill_at(folder: str, number: int) -> None:
    """SIGKILL just before the n-th file operation in `folder`; 0 only counts them, into `folder`.count."""
    counter = itertools.count(1)

    def hook(event: str, arguments: tuple) -> None:
        if event in OPERATIONS and isinstance(arguments[0], str | os.PathLike) and hook.armed:
            path = os.fspath(arguments[0])
            if isinstance(path, str) and path.startswith(folder) and not path.endswith(".count"):
                here = next(counter)
                if here == number:
                    os.kill(os.getpid(), signal.SIGKILL)
                if not number:
                    hook.armed = False
                    Path(folder + ".count").write_text(str(here))
                    hook.armed = True

    hook.armed = True
    sys.addaudithook(hook)


def limit_files(size: int) -> None:
    """Limit the size of files: writes beyond it fail as on a full disk."""
    import resource

    resource.setrlimit(resource.RLIMIT_FSIZE, (size, size))


def poison(*steps: int) -> None:
    """Put a NaN into one gradient at these steps of the process, counted from 0."""
    from accelerate import Accelerator

    clip, counter = Accelerator.clip_grad_norm_, itertools.count()

    def poisoned(self, parameters, *arguments):
        if next(counter) in steps:
            gradient = next(p.grad for p in parameters if p.grad is not None)
            gradient[(0,) * gradient.ndim] = float("nan")
        return clip(self, parameters, *arguments)

    Accelerator.clip_grad_norm_ = poisoned


FAULTS: dict[str, Callable] = {f.__name__: f for f in (kill_at, limit_files, poison)}


def _child(argv: list[str], log: Path, fault: str | None, arguments: tuple) -> None:
    descriptor = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
    os.dup2(descriptor, 1)
    os.dup2(descriptor, 2)
    multiprocessing.set_start_method("fork", force=True)  # for data workers, as in a trainer that was not forked
    import torch

    from seada_core.train.__main__ import main

    torch.set_num_threads(1)  # the same sums in every run that is compared
    if fault is not None:
        FAULTS[fault](*arguments)
    sys.exit(main(argv))


class Trainer:
    """Starts the trainer's command in processes forked from one that has imported everything."""

    def __init__(self, folder: Path):
        os.environ["OMP_NUM_THREADS"] = "1"
        os.environ["PYTHONPATH"] = os.pathsep.join([str(ROOT), *filter(None, [os.environ.get("PYTHONPATH")])])
        self.context = multiprocessing.get_context("forkserver")
        self.context.set_forkserver_preload(["tools.faults_preload"])
        self.log = folder / "trainer.log"

    def start(self, argv: list[str], fault: str | None = None, *arguments):
        process = self.context.Process(target=_child, args=(argv, self.log, fault, arguments))
        process.start()
        return process

    def run(self, argv: list[str], fault: str | None = None, *arguments) -> tuple[int, str]:
        """The exit status (negative: the signal that ended it) and the output."""
        process = self.start(argv, fault, *arguments)
        process.join(SECONDS)
        if process.is_alive():
            process.kill()
            process.join()
            raise TimeoutError(f"a run takes more than {SECONDS} s: {self.log.read_text()[-2000:]}")
        return process.exitcode, self.log.read_text()


def error_line(output: str) -> str:
    """The last line of an output, which must be an error message and not a traceback."""
    lines = output.strip().splitlines()
    if "Traceback" in output or not lines or not lines[-1].startswith("error: "):
        raise AssertionError(f"no error message: {output[-2000:]}")
    return lines[-1]


# checks of a run's results


def lines(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.is_file() else []


def check_newest(out: Path) -> int:
    """The step of the newest checkpoint, 0 if there is none; all checkpoints must be readable."""
    import torch
    from safetensors.torch import load_file

    from seada_core.train.checks import latest_checkpoint

    newest = latest_checkpoint(out / "base")
    if newest is None:
        return 0
    assert load_file(newest / "model.safetensors") and json.loads((newest / "config.json").read_text())
    for name in ("optimizer.bin", "custom_checkpoint_0.pkl"):
        assert torch.load(newest / name, weights_only=False)
    return int(newest.name.split("-")[1])


def check_same(out: Path, other: Path, cache: Path, steps: int) -> None:
    """Two finished runs must be bitwise equal and have used every picture once per epoch."""
    import torch
    from safetensors.torch import load_file

    from seada_core.train.batches import Batches
    from seada_core.train.data import Cache

    for name in ("losses.jsonl", "validation.jsonl"):
        assert lines(out / "base" / name) == lines(other / "base" / name), f"{name} differs"
    assert [entry["step"] for entry in lines(out / "base" / "losses.jsonl")] == list(range(steps))
    newest, theirs = (folder / "base" / f"checkpoint-{steps}" for folder in (out, other))
    for pair in ((newest, theirs), (out / "parts", other / "parts")):
        files = {file.name for file in pair[0].glob("*.safetensors")}
        assert files and files == {file.name for file in pair[1].glob("*.safetensors")}
        for name in files:
            ours, wanted = (load_file(folder / name) for folder in pair)
            assert ours.keys() == wanted.keys() and all(torch.equal(ours[key], wanted[key]) for key in wanted), name
    averages, wanted = (
        torch.load(folder / "custom_checkpoint_0.pkl", weights_only=False)["shadow_params"]
        for folder in (newest, theirs)
    )
    assert all(map(torch.equal, averages, wanted))
    batches = Batches(Cache(cache), BATCH, 64, seed=0)
    seen = [batches.picture_at(place) for step in range(steps) for place in batches[step].places]
    for start in range(0, len(seen) - PICTURES + 1, PICTURES):
        assert sorted(seen[start : start + PICTURES]) == list(range(PICTURES))
    left = [path for path in out.rglob("*") if ".part" in path.name]
    assert not left, f"left behind: {left}"


# the faults


def random_kills(trainer: Trainer, argv: list[str], out: Path, count: int, steps: int, seed: int) -> tuple[int, int]:
    """Kill a run `count` times, resuming it each time; (kills while a checkpoint was written, steps kept)."""
    rng, losses = random.Random(seed), out / "base" / "losses.jsonl"
    writing = done = 0
    for number in range(count):
        process, base = trainer.start(argv), losses.parent
        if number % 3 == 0:  # while it starts
            time.sleep(rng.uniform(0, 3))
        elif number % 3 == 1:  # while it trains
            more = rng.randrange(2 * EVERY)
            wait(process, lambda n=done + more: len(lines_that_are_whole(losses)) > n)
            time.sleep(rng.uniform(0, 0.3))
        else:  # while it writes a checkpoint
            wait(process, lambda base=base: not any(base.glob("checkpoint-*.part")))  # left by the previous kill
            wait(process, lambda base=base: any(base.glob("checkpoint-*.part")))
            time.sleep(rng.uniform(0, 0.1))
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL, f"the run finished after {number} kills: {trainer.log.read_text()}"
        writing += bool(list((out / "base").glob("checkpoint-*.part")))
        newest = check_newest(out)
        assert done <= newest < steps, (newest, done)
        done = newest
    return writing, done


def wait(process, until: Callable[[], bool]) -> None:
    end = time.monotonic() + SECONDS
    while process.is_alive() and time.monotonic() < end and not until():
        time.sleep(0.002)


def lines_that_are_whole(path: Path) -> list[str]:
    return [line for line in path.read_text().split("\n")[:-1] if line] if path.is_file() else []


@contextmanager
def small_disk(folder: Path, size: int) -> Iterator[bool]:
    """A file system of `size` bytes at `folder`; False if it cannot be mounted."""
    folder.mkdir(parents=True, exist_ok=True)
    mount = ["mount", "-t", "tmpfs", "-o", f"size={size}", "tmpfs", str(folder)]
    try:
        mounted = subprocess.run(mount, capture_output=True).returncode == 0
    except OSError:
        mounted = False
    try:
        yield mounted
    finally:
        if mounted:
            subprocess.run(["umount", str(folder)], check=True)


def workers(pid: int) -> list[int]:
    """The child processes of a process."""
    return [int(child) for child in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


class Scenes:
    """The faults; each method returns a summary line."""

    def __init__(self, folder: Path, kills: int, seed: int):
        self.folder, self.kills, self.seed = folder, kills, seed
        self.trainer = Trainer(folder)
        self.pictures = write_pictures(folder / "pictures")
        self.cache = write_cache(self.pictures, folder / "cache")
        self.straight: dict[int, Path] = {}

    def out(self, name: str) -> Path:
        out = self.folder / name
        out.mkdir(parents=True, exist_ok=True)
        if not (out / "validation-64").exists():
            (out / "validation-64").symlink_to(self.cache)
        return out

    def argv(self, out: Path, steps: int, *more: str) -> list[str]:
        return command(self.pictures, self.cache, out, steps, f"--validation={self.pictures}", *more)

    def check(self, out: Path, steps: int) -> None:
        """Resume to the end and compare with an uninterrupted run."""
        if steps not in self.straight:
            self.straight[steps] = self.out(f"straight-{steps}")
            assert self.trainer.run(self.argv(self.straight[steps], steps))[0] == 0
        status, output = self.trainer.run(self.argv(out, steps))
        assert status == 0, output
        check_same(out, self.straight[steps], self.cache, steps)

    def killed_at_random(self) -> str:
        out, steps = self.out("random"), EVERY * (4 * self.kills + 10)
        writing, kept = random_kills(self.trainer, self.argv(out, steps), out, self.kills, steps, self.seed)
        self.check(out, kept + EVERY)
        return f"{self.kills} kills, {writing} with a checkpoint half written; {kept} steps kept on the way"

    def killed_at_operations(self) -> str:
        counted = self.out("counted")
        assert self.trainer.run(self.argv(counted, 3 * EVERY), "kill_at", str(counted), 0)[0] == 0
        total = int(Path(str(counted) + ".count").read_text())
        for number in range(1, total + 1):
            out = self.out("operation")
            status, output = self.trainer.run(self.argv(out, 3 * EVERY), "kill_at", str(out), number)
            assert status in (-signal.SIGKILL, 0), output
            check_newest(out)
            if status == 0:
                break
        else:
            raise AssertionError("the run never finished")
        self.check(out, 3 * EVERY)
        return f"{number - 1} kills, one before each remaining file operation of a run"

    def full_disk(self) -> str:
        out = self.out("measured")
        assert self.trainer.run(self.argv(out, EVERY))[0] == 0
        room = sum(file.stat().st_size for file in (out / "base" / f"checkpoint-{EVERY}").iterdir())
        errors = []
        for share in (0.5, 1.2, 1.9, 2.5, 3.2):
            out = self.folder / f"disk-{share}"
            with small_disk(out, int(share * room)) as mounted:
                if not mounted:
                    return "not tried: no tmpfs can be mounted here"
                self.out(out.name)
                status, output = self.trainer.run(self.argv(out, 4 * EVERY))
                assert status == 1, (status, output)
                errors.append(error_line(output))
                assert "cannot write" in errors[-1], errors
                kept = check_newest(out)
                assert kept or share < 1.5, (share, kept)
                subprocess.run(["mount", "-o", f"remount,size={20 * room}", str(out)], check=True)
                self.check(out, 4 * EVERY)
        return f"{len(errors)} disks, such as: {errors[2]}"

    def dead_worker(self) -> str:
        out = self.out("worker")
        process = self.trainer.start(self.argv(out, 1000))
        while check_newest(out) < EVERY:
            assert process.is_alive(), self.trainer.log.read_text()
            time.sleep(0.1)
        for worker in workers(process.pid):
            os.kill(worker, signal.SIGKILL)
        process.join(SECONDS)
        assert process.exitcode == 1, process.exitcode
        error = error_line(self.trainer.log.read_text())
        self.check(out, check_newest(out) + EVERY)
        return error

    def broken_shard(self) -> str:
        import tarfile

        from seada_core.train.data import build_cache

        shards, messages, hole = self.folder / "shards", [], 0
        shards.mkdir()
        for number in range(3):  # four pictures each
            with tarfile.open(shards / f"data-{number:03}.tar", "w") as tar:
                for path in sorted(self.pictures.glob("*.png"))[4 * number : 4 * number + 4]:
                    tar.add(path, path.name)
                    hole = tar.offset if path.name == "05.png" else hole
        with open(shards / "data-001.tar", "r+b") as file:
            file.seek(hole)
            file.write(bytes(1024))
        cache = build_cache(str(shards), self.folder / "of-shards", 64, average_colors, log=messages.append)
        keys = [record["key"] for record in cache.records]
        assert keys == [f"{i:02}" for i in range(PICTURES) if i not in (6, 7)], keys
        assert "data-001.tar is cut short" in messages[0], messages
        return messages[0]

    def gradient(self) -> str:
        out = self.out("nan")
        status, output = self.trainer.run(self.argv(out, 4 * EVERY), "poison", 4)
        assert status == 0 and "step 4 skipped" in output, output
        skipped = [entry["step"] for entry in lines(out / "base" / "losses.jsonl") if entry.get("left_out")]
        assert skipped == [4]
        lost = self.out("lost")
        status, output = self.trainer.run(self.argv(lost, 1000), "poison", *range(EVERY, 1000))
        assert status == 1
        check_newest(lost)
        return error_line(output)


SCENES = ("killed_at_random", "killed_at_operations", "full_disk", "dead_worker", "broken_shard", "gradient")


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("--kills", type=int, default=30, help="number of kills at random moments")
    parser.add_argument("--seed", type=int, default=0, help="seed of those moments")
    parser.add_argument("--keep", type=Path, help="keep the runs in this folder instead of deleting them")
    parser.add_argument("--only", nargs="+", choices=SCENES, help="only these faults")
    options = parser.parse_args(arguments)
    failed = 0
    with tempfile.TemporaryDirectory() as temporary:
        scenes = Scenes(options.keep or Path(temporary), options.kills, options.seed)
        for name in options.only or SCENES:
            begun = time.monotonic()
            try:
                came_to = getattr(scenes, name)()
            except (AssertionError, TimeoutError) as error:
                failed, came_to = failed + 1, f"NOT SURVIVED: {error}"
            print(f"{name.replace('_', ' '):21} {time.monotonic() - begun:5.0f} s  {came_to}", flush=True)
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())

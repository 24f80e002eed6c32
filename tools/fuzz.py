"""Fuzzes every file reader: only the reader's own errors may be raised, quickly and within a memory limit.

`python -m tools.fuzz picture|hint|palette|preset|checkpoint|shard [--inputs 100000] [--seed 0] [--keep FOLDER]`

Inputs are made by `fuzz_inputs` from real files and depend only on the seed and their number. A forked worker reads
them; a finding is another exception, more than `SECONDS` of processor time, more memory than the reader's limit, or a
crash. Findings are written to FOLDER as `NUMBER-REASON.bin`, and `--replay FILE` reads one again, with the traceback.
The exit status is 1 if there are findings.
"""

from __future__ import annotations

import argparse
import collections
import gc
import mmap
import os
import resource
import signal
import struct
import sys
import tempfile
import time
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from random import Random

from benchmarks import machine

from . import fuzz_inputs

SECONDS = 5.0  # processor time per input
SPACE = 3_000_000_000  # bytes of address space that a worker may add: WebP reserves 2 GB without using them
PIXELS = 1_000_000  # limit for pictures here
BATCH = 2000  # inputs per worker


@dataclass
class Reader:
    """`read` takes the path of an input and must succeed or raise exactly one of the types in `errors`."""

    files: list[bytes]
    mutate: fuzz_inputs.Mutator
    read: Callable[[Path], object]
    errors: tuple[type[Exception], ...]
    memory: int  # limit, bytes beyond what the process held before


def picture_reader() -> Reader:
    from seada_core.color import frames, kinds
    from seada_core.files import metadata, pictures

    def read(path: Path) -> None:
        try:
            picture = pictures.read(path, PIXELS)
        except pictures.PictureError as error:
            if "machine's memory" in str(error):
                raise MemoryError(str(error)) from error
            if not str(error).endswith("colours what is there"):
                raise
            picture = pictures.read(path, PIXELS, partial=True)
        assert picture.luminance.shape == picture.size[::-1]
        for kind in ("JPEG", "PNG", "TIFF", "WEBP"):
            metadata.png_chunks(metadata.fitted(picture.metadata, kind)[0])
        assert all(photo.bottom > photo.top and photo.right > photo.left for photo in frames.photos(picture.luminance))
        kinds.notices(picture.pixels)

    return Reader(fuzz_inputs.pictures(), fuzz_inputs.mutate_picture, read, (pictures.PictureError,), 64 * PIXELS)


def _argument(path: Path, start: bytes) -> str | None:
    """The text of an input that is used as a command-line argument: those that begin with `start`."""
    with path.open("rb") as file:
        content = file.read(1_000_000)
    return content.decode("utf-8", "surrogateescape").strip('"') if content.startswith(start) else None


def hint_reader() -> Reader:
    import json

    from seada_core.files import hint_format

    hint, stroke = {"x": 1.5, "y": -2, "color": "#aaBBcc", "radius": 3}, {"points": [[1, 2], [-3, 4.5]]}
    stroke |= {"color": "#010203"}
    trees = [[hint], {"hints": [hint, stroke]}, [hint, hint | {"radius": 0}, stroke | {"radius": 2}]]
    files = [*(json.dumps(tree).encode() for tree in trees), b'"120,80,#d0a070,12"', b'"1,2,#000000"']

    def read(path: Path) -> None:
        if (text := _argument(path, b'"1')) is not None:  # what --hint takes
            hint_format.parse_hint(text)
        else:
            hint_format.load_hints(path)

    return Reader(files, fuzz_inputs.mutate_json, read, (ValueError,), 100_000_000)


def palette_reader() -> Reader:
    import json

    from seada_core.files import hint_format
    from seada_core.hints import palettes

    bank = json.loads(palettes.BANK.read_text())["schemes"]
    trees = [{"schemes": bank[k : k + 3], "note": "n"} for k in (0, 9, 20)] + [{"schemes": bank[:1]}]
    files = [*(json.dumps(tree).encode() for tree in trees), b'"#aabbcc,#ddeeff"']

    def read(path: Path) -> None:
        if (text := _argument(path, b'"#')) is not None:  # what --palette takes
            hint_format.parse_palette(text)
        else:
            palettes.read_schemes(path)

    return Reader(files, fuzz_inputs.mutate_json, read, (ValueError,), 100_000_000)


def _parts() -> dict[str, bytes]:
    """Small part files, by part."""
    import torch

    from seada_core import presets as p
    from seada_core.models.tokenizer import Tokenizer
    from seada_core.weights import part_files

    torch.manual_seed(0)
    unet = p.UNetConfig((32, 64), 1, (False, True), 2, context_dim=32, groups=8)
    preset = p.Preset("small", p.TextConfig(64, 16, 32, 1, 2), unet, adapter=p.AdapterConfig(16, 32))
    parts = {}
    with tempfile.TemporaryDirectory() as folder:
        for part in ("semantic_adapter", "semantic_encoder", "unet"):
            tokenizer = Tokenizer(16, range(61)) if part == "semantic_encoder" else None
            file = Path(folder) / part
            part_files.save_part(file, part, preset, part_files.build(part, preset, tokenizer))
            parts[part] = file.read_bytes()
    return parts


def _part_of(path: Path, parts: dict[str, bytes]) -> str:
    with path.open("rb") as file:
        start = file.read(3000)
    return next((part for part in parts if f'"seada.part": "{part}"'.encode() in start), "semantic_adapter")


def preset_reader() -> Reader:
    from seada_core.weights import part_files

    parts = _parts()

    def read(path: Path) -> None:
        part = _part_of(path, parts)
        part_files.read_preset(path, part)
        part_files.plan_part(path, part)

    files = [parts["semantic_adapter"]] * 8 + [parts["semantic_encoder"]] * 2 + [parts["unet"]]
    return Reader(files, fuzz_inputs.mutate_preset, read, (part_files.CheckpointError,), 300_000_000)


def checkpoint_reader() -> Reader:
    from seada_core.files import weight_headers
    from seada_core.weights import part_files

    parts = _parts()

    def read(path: Path) -> None:
        weight_headers.kind(weight_headers.read_header(path))
        part_files.load_part(path, _part_of(path, parts))

    files = [parts["semantic_adapter"]] * 8 + [parts["semantic_encoder"]]
    return Reader(files, fuzz_inputs.mutate_weights, read, (part_files.CheckpointError,), 300_000_000)


def shard_reader() -> Reader:
    from seada_core.colorize.shard_results import Shard
    from seada_core.files import pictures
    from seada_core.files.shards import ShardError, read_at

    def read(path: Path) -> None:
        shard = Shard(path, path.with_name("result"))
        for sample in shard.samples():
            if sample.photo:
                assert ".." not in sample.result and not sample.result.startswith("/")
                with open(path, "rb") as file:
                    encoded = read_at(file, sample.members[sample.photo])
                try:
                    pictures.read_bytes(encoded, sample.photo, PIXELS)
                except pictures.PictureError:
                    continue

    return Reader(fuzz_inputs.shards(fuzz_inputs.pictures()), fuzz_inputs.mutate_shard, read, (ShardError,), 10**8)


READERS = {
    "picture": picture_reader,
    "hint": hint_reader,
    "palette": palette_reader,
    "preset": preset_reader,
    "checkpoint": checkpoint_reader,
    "shard": shard_reader,
}


def make(reader: Reader, name: str, seed: int, number: int) -> bytes:
    """Input `number`."""
    rng = Random(f"{name} {seed} {number}")
    return reader.mutate(rng, rng.choice(reader.files), reader.files)


class TooLong(BaseException):
    """An input exceeded the time limit. A BaseException, so that no reader handles it as a damaged file."""


def _stop(*_) -> None:
    raise TooLong


def memory(peak: bool) -> int:
    """Resident bytes of the process, or their peak since `forget_peak`."""
    name = b"VmHWM:" if peak else b"VmRSS:"
    with open("/proc/self/status", "rb") as status:
        return next(int(line.split()[1]) for line in status if line.startswith(name)) * 1024


def forget_peak() -> None:
    with open("/proc/self/clear_refs", "w") as file:
        file.write("5")


def judge(reader: Reader, path: Path) -> tuple[str, str | None]:
    """("read" or "refused", None), or a finding: its kind and a description."""
    forget_peak()
    before = memory(peak=False)
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        reader.read(path)
        result = "read", None
    except TooLong:
        result = "slow", f"more than {SECONDS} s"
    except Exception as error:
        fits = type(error) in reader.errors
        result = ("refused", None) if fits else (type(error).__name__, f"{type(error).__name__}: {error}"[:300])
        if fits and len(str(error)) > 2000:
            result = "long", f"a message of {len(str(error))} characters"
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)
    used = memory(peak=True) - before
    return ("memory", f"{used / 1e6:.0f} MB") if used > reader.memory else result


def _work(reader: Reader, name: str, seed: int, first: int, last: int, folder: Path, report: mmap.mmap) -> None:
    """A worker: writes the current input's number to `report` and prints nothing."""
    with open("/proc/self/statm") as statm:
        size = int(statm.read().split()[0]) * mmap.PAGESIZE
    resource.setrlimit(resource.RLIMIT_AS, (size + SPACE, size + SPACE))
    resource.setrlimit(resource.RLIMIT_CORE, (0, 0))
    signal.signal(signal.SIGPROF, _stop)
    file = os.memfd_create("input")  # opening a file on a disk would take most of an input's time
    path = Path(f"/proc/self/fd/{file}")
    gc.freeze()
    counts = collections.Counter()
    with open(folder / "found", "a") as found:
        for number in range(first, last):
            struct.pack_into("<Q", report, 0, number)
            os.ftruncate(file, 0)
            os.pwrite(file, make(reader, name, seed, number), 0)
            kind, line = judge(reader, path)
            counts[kind] += 1
            if line is not None:
                print(number, kind, line.replace("\n", " "), sep="\t", file=found, flush=True)
    (folder / "counts").write_text(" ".join(f"{kind}={count}" for kind, count in counts.items()))


def run(name: str, inputs: int, seed: int = 0, keep: Path | None = None) -> tuple[collections.Counter, list[str]]:
    """The number of inputs by outcome, and a line for each finding."""
    reader = READERS[name]()
    counts, findings = collections.Counter(), []
    report = mmap.mmap(-1, 8)
    with tempfile.TemporaryDirectory() as place:
        folder, number = Path(place), 0
        while number < inputs:
            last = min(number + BATCH, inputs)
            pid = os.fork()
            if pid == 0:
                try:
                    _work(reader, name, seed, number, last, folder, report)
                finally:
                    os._exit(0 if (folder / "counts").exists() else 1)
            end = _watch(pid, report)
            if (folder / "counts").exists():
                counts.update({k: int(v) for k, v in (f.split("=") for f in (folder / "counts").read_text().split())})
                (folder / "counts").unlink()
                number = last
            else:
                at = struct.unpack_from("<Q", report)[0]
                with open(folder / "found", "a") as found:
                    print(at, "death", end, sep="\t", file=found)
                counts.update({"death": 1, "before a death": at - number})
                number = at + 1
        lines = (folder / "found").read_text().splitlines() if (folder / "found").exists() else []
    for line in lines:
        number, kind, _ = line.split("\t", 2)
        findings.append(line.replace("\t", "  "))
        if keep is not None:
            keep.mkdir(parents=True, exist_ok=True)
            (keep / f"{number}-{kind}.bin").write_bytes(make(reader, name, seed, int(number)))
    return counts, findings


def _watch(pid: int, report: mmap.mmap) -> str:
    """Waits for a worker, and kills one that is stuck outside Python. Returns how it ended, in words."""
    at, since = None, time.monotonic()
    while True:
        done, status = os.waitpid(pid, os.WNOHANG)
        if done:
            return f"signal {os.WTERMSIG(status)}" if os.WIFSIGNALED(status) else f"exit {os.WEXITSTATUS(status)}"
        number = struct.unpack_from("<Q", report)[0]
        if number != at:
            at, since = number, time.monotonic()
        if time.monotonic() - since > 60 * SECONDS:
            os.kill(pid, signal.SIGKILL)
        time.sleep(0.01)


def main(arguments: list[str] | None = None) -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n\n")[0])
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--inputs", type=int, default=100_000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--keep", type=Path, help="folder for findings")
    parser.add_argument("--replay", type=Path, help="read this file again instead")
    options = parser.parse_args(arguments)
    if options.replay:
        READERS[options.reader]().read(options.replay)
        return 0
    print(machine())
    start = time.perf_counter()
    counts, findings = run(options.reader, options.inputs, options.seed, options.keep)
    for line in findings[:50]:
        print(line)
    summary = ", ".join(f"{count} {kind}" for kind, count in counts.most_common())
    print(f"{options.reader}: {options.inputs} inputs in {time.perf_counter() - start:.0f} s: {summary}")
    print(f"{len(findings)} findings")
    return 1 if findings else 0


if __name__ == "__main__":
    sys.exit(main())

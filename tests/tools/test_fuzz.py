"""Damaged and hostile files, a few hundred of each; `python -m tools.fuzz` reads a hundred thousand."""

import json
import os
import signal
import struct
import subprocess
import sys
from pathlib import Path
from random import Random

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from seada_core import presets
from seada_core.files import hint_format, pictures, shards, weight_headers
from seada_core.files.weight_headers import CheckpointError
from seada_core.hints import palettes
from seada_core.settings import from_dict, to_dict
from seada_core.weights import part_files
from tools import fuzz, fuzz_inputs

COUNTS = {"picture": 300, "hint": 300, "palette": 300, "shard": 100, "checkpoint": 100, "preset": 60}
QUICK = settings(max_examples=200, deadline=None, suppress_health_check=list(HealthCheck))


@pytest.mark.parametrize("name", COUNTS)
def test_readers_raise_only_their_own_errors(name, tmp_path):
    reader = fuzz.READERS[name]()
    path, seen = tmp_path / "input", set()
    for number in range(COUNTS[name]):
        path.write_bytes(fuzz.make(reader, name, 1, number))
        try:
            reader.read(path)
            seen.add("read")
        except reader.errors as error:
            assert type(error) in reader.errors and len(str(error)) < 2000, number
            seen.add("refused")
    assert seen == {"read", "refused"}


def test_the_fuzzer_finds_seeded_faults(tmp_path, monkeypatch, capsys):
    def read(path: Path) -> None:
        content = path.read_bytes()
        if content[-1] == 1:
            raise KeyError("not its own")
        if content[-1] == 2:
            bytearray(200_000_000)[::4096] = b"x" * -(-200_000_000 // 4096)
        if content[-1] == 3:
            os.kill(os.getpid(), signal.SIGKILL)
        while content[-1] == 4:
            pass

    reader = fuzz.Reader([b"x"], lambda rng, data, others: bytes([rng.randrange(8)]), read, (ValueError,), 50_000_000)
    monkeypatch.setitem(fuzz.READERS, "bad", lambda: reader)
    monkeypatch.setattr(fuzz, "SECONDS", 1.0)
    counts, findings = fuzz.run("bad", 30, keep=tmp_path)
    kinds = {line.split("  ")[1] for line in findings}
    assert kinds == {"KeyError", "memory", "death", "slow"} and counts["read"] + counts["before a death"] > 3
    for file in tmp_path.iterdir():
        wanted = {"KeyError": 1, "memory": 2, "death": 3, "slow": 4}[file.stem.split("-")[1]]
        assert file.read_bytes() == bytes([wanted])


# --- any text, any JSON -----------------------------------------------------------------------------------------------

VALUES = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=30),
    lambda inner: (
        st.lists(inner, max_size=4)
        | st.dictionaries(st.sampled_from(["x", "y", "color", "radius", "points", "hints", "schemes", "name"]), inner)
    ),
    max_leaves=12,
)


@QUICK
@given(VALUES)
def test_hints_of_any_json(value):
    try:
        hints = hint_format.parse_hints(value)
    except ValueError as error:
        assert type(error) is ValueError and len(str(error)) < 1000
    else:
        assert all(isinstance(one, hint_format.Hint | hint_format.Stroke) for one in hints)


@QUICK
@given(st.text() | st.from_regex(r"[-+\d.einfa]{1,9},[-+\d.einfa]{1,9},#[0-9a-fA-F]{5,7}(,[\d.e]+)?"))
def test_hints_and_palettes_of_any_text(text):
    for parse in (hint_format.parse_hint, hint_format.parse_palette, hint_format.parse_color):
        try:
            parse(text)
        except ValueError as error:
            assert type(error) is ValueError and len(str(error)) < 1000


@QUICK
@given(st.dictionaries(st.sampled_from([*to_dict(presets.SD15.codec)]), VALUES, min_size=1))
def test_presets_of_any_json(values):
    try:
        config = from_dict(presets.CodecConfig, values)
    except (TypeError, ValueError) as error:
        assert len(str(error)) < 1000
    else:
        again = json.loads(json.dumps(to_dict(config)))
        assert from_dict(presets.CodecConfig, again) == config


# --- one test for each fault that was found ---------------------------------------------------------------------------


def weights(header: object, tensors: bytes = b"", length: int | None = None) -> bytes:
    text = header if isinstance(header, bytes) else json.dumps(header).encode()
    return fuzz_inputs.join_weights(text, tensors, length)


def entry(shape: list, first: object, last: object, dtype: object = "F32") -> dict:
    return {"dtype": dtype, "shape": shape, "data_offsets": [first, last]}


HEADERS = {
    "overlapping": ({"a": entry([2], 0, 8), "b": entry([2], 4, 12)}, bytes(12), "'b' overlaps another tensor"),
    "gap": ({"a": entry([2], 0, 8), "b": entry([2], 12, 20)}, bytes(20), "'b' does not follow another tensor"),
    "gigantic": ({"a": entry([2**40, 2**20], 0, 8)}, bytes(8), "does not have the bytes that its shape"),
    "beyond 64 bits": ({"a": entry([10**30], 0, 8)}, bytes(8), "no shape or place"),
    "negative": ({"a": entry([-2], 8, 0)}, bytes(8), "no shape or place"),
    "a truth value": ({"a": entry([True], 0, 4)}, bytes(4), "no shape or place"),
    "a fraction": ({"a": entry([1.0], 0, 4)}, bytes(4), "no shape or place"),
    "data type": ({"a": entry([1], 0, 4, "OBJECT")}, bytes(4), "unknown data type"),
    "metadata": ({"__metadata__": {"seada.part": {"unet": 1}}}, b"", "metadata is not text"),
    "metadata list": ({"__metadata__": []}, b"", "metadata is not text"),
    "twice": (b'{"a": 1, "a": 2}', b"", "names something twice"),
    "NaN": (b'{"a": NaN}', b"", "holds NaN"),
    "deep": (b'{"a":' * 100_000, b"", "nested too deeply|not a safetensors header"),
    "not UTF-8": (b'{"\xff": 1}', b"", "not a safetensors header"),
}


@pytest.mark.parametrize("fault", HEADERS)
def test_hostile_headers_are_refused_by_name(fault, tmp_path):
    header, tensors, message = HEADERS[fault]
    path = tmp_path / "x.safetensors"
    path.write_bytes(weights(header, tensors))
    with pytest.raises(CheckpointError, match=message) as caught:
        weight_headers.read_header(path)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 1000


def test_a_header_of_100_megabytes_is_not_parsed(tmp_path, monkeypatch):
    path = tmp_path / "x.safetensors"
    with path.open("wb") as file:
        file.write(struct.pack("<Q", 100_000_000) + b'{"a":' + b" ")
        file.truncate(100_000_100)
    monkeypatch.setattr(weight_headers, "_parse", lambda *_: pytest.fail("it was parsed"))
    with pytest.raises(CheckpointError, match="its header has 100,000,000 bytes, more than the 16,000,000"):
        weight_headers.read_header(path)


CONFIGS = {
    "widths": ({"width": 65_536, "mlp_ratio": 1024}, "does not fit its own configuration"),
    "beyond": ({"width": 10**12}, "width is 1000000000000, expected 1 to 65536"),
    "nan": ({"scale": float("nan")}, "scale is nan"),
    "infinite": ({"scale": float("inf")}, "scale is inf"),
    "text": ({"width": "32"}, "width is '32', expected int"),
    "truth": ({"length": True}, "length is True, expected int"),
    "nothing": ({"width": 0}, "width is 0, expected 1"),
    "unknown": ({"colour": 3}, "has no field 'colour'"),
}


@pytest.mark.parametrize("fault", CONFIGS)
def test_absurd_sizes_are_refused_before_memory_is_taken(fault, tmp_path):
    """In a process that may allocate only 300 MB more."""
    changes, message = CONFIGS[fault]
    part = "semantic_adapter"
    header, tensors = fuzz_inputs.split_weights(fuzz._parts()[part])
    config = json.loads(header["__metadata__"]["seada.config"])
    config["adapter"] |= changes
    header["__metadata__"]["seada.config"] = json.dumps(config)
    path = tmp_path / "x.safetensors"
    path.write_bytes(weights(header, tensors))
    before = fuzz.memory(peak=False)
    fuzz.forget_peak()
    with pytest.raises(CheckpointError, match=message):
        part_files.load_part(path, part)
    assert fuzz.memory(peak=True) - before < 300_000_000


def test_configurations_that_nest_or_cannot_be_built(tmp_path):
    header, tensors = fuzz_inputs.split_weights(fuzz._parts()["semantic_encoder"])
    good = header["__metadata__"]["seada.config"]
    path = tmp_path / "x.safetensors"
    for config, message in (
        ("[" * 100_000, "broken seada.config"),
        (good.replace('"heads": 2', '"heads": 3'), "of which no semantic_encoder can be built|does not fit"),
        (good.replace('"activation": "quick_gelu"', '"activation": "os.system"'), "can be built"),
        (json.dumps({**json.loads(good), "vocabulary": [10**9]}), "not a list of different tokens"),
        (json.dumps({**json.loads(good), "length": 10**9}), "the texts' length is 1000000000"),
    ):
        header["__metadata__"]["seada.config"] = config
        path.write_bytes(weights(header, tensors))
        with pytest.raises(CheckpointError, match=message):
            part_files.load_part(path, "semantic_encoder")


def test_weights_of_another_data_type_are_refused(tmp_path):
    header, _ = fuzz_inputs.split_weights(fuzz._parts()["semantic_adapter"])
    path = tmp_path / "x.safetensors"
    path.write_bytes(fuzz._parts()["semantic_adapter"])
    from safetensors.torch import save_file

    whole = {name: tensor.to(torch.int32) for name, tensor in load_file(path).items()}
    save_file(whole, path, header["__metadata__"])
    with pytest.raises(CheckpointError, match=r"as I32, which is not torch\.float32"):
        part_files.load_part(path, "semantic_adapter")


def test_a_hints_file_has_a_size_limit(tmp_path):
    path = tmp_path / "hints.json"
    with path.open("wb") as file:
        file.truncate(hint_format.MAX_BYTES + 1)
    with pytest.raises(ValueError, match="a hints file has at most 16000000"):
        hint_format.load_hints(path)


def test_messages_do_not_repeat_a_whole_file(tmp_path):
    path = tmp_path / "p.json"
    path.write_text(json.dumps({"schemes": [{"name": "x", "description": "y", "colors": ["z" * 10**6]}]}))
    with pytest.raises(ValueError, match="colour 1") as caught:
        palettes.read_schemes(path)
    assert len(str(caught.value)) < 1000
    with pytest.raises(ValueError, match="bad hint") as caught:
        hint_format.parse_hint("9" * 10**6)
    assert len(str(caught.value)) < 1000


@pytest.mark.parametrize("size", [b"\x80" + b"\xff" * 11, b"\x80\x00\x7f" + b"\xff" * 9, b"\xff" * 12])
def test_shards_with_wild_sizes_are_refused(size, tmp_path):
    good = bytearray(fuzz_inputs.shards(fuzz_inputs.pictures())[0])
    good[124:136] = size
    good[148:156] = b" " * 8
    good[148:156] = b"%06o\0 " % sum(good[:512])
    path = tmp_path / "x.tar"
    path.write_bytes(good)
    with pytest.raises(shards.ShardError):
        list(shards.samples(path))


def test_pictures_in_shards_and_caches_cannot_run_programs(monkeypatch):
    """EPS runs Ghostscript; Pillow opens untrusted files only with a list of allowed formats."""
    from seada_core.train import data

    script = b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 9 9\n%%EndComments\nshowpage\n"
    monkeypatch.setattr(subprocess, "check_call", lambda *_, **__: pytest.fail("a program was run"))
    for read in (lambda: pictures.read_bytes(script, "x"), lambda: data.square(script, 32)):
        with pytest.raises(Exception, match=r"not a picture|cannot identify|PostScript, which is not read"):
            read()


@pytest.mark.slow
def test_the_command_fuzzes(tmp_path):
    command = [sys.executable, "-m", "tools.fuzz", "hint", "--inputs", "20"]
    root = Path(__file__).resolve().parents[2]
    done = subprocess.run(command, capture_output=True, text=True, cwd=root, check=False)
    assert done.returncode == 0 and "hint: 20 inputs" in done.stdout and "0 findings" in done.stdout
    assert Random("hint 0 3").random() == Random("hint 0 3").random()


def test_a_declared_length_in_a_picture_allocates_no_memory(tmp_path):
    """JPEG 2000's boxes declare their lengths; Python's `read` would allocate that much memory first."""
    file = tmp_path / "x.jp2"
    file.write_bytes(b"\0\0\0\x0cjP  \r\n\x87\n" + b"\0\0\0\x14ftypjp2 \0\0\0\0jp2 " + b"\xff\0\0\x2djp2h" + bytes(99))
    with pictures._Bounded(file.open("rb", buffering=0)) as stream:
        assert len(stream.read(2**62)) == file.stat().st_size and stream.read(2**62) == b""
    with pytest.raises(pictures.PictureError, match="damaged or cut short"):
        pictures.read(file)

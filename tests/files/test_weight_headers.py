"""Headers of weights files, and other files with such a name."""

import io
import json
import struct

import pytest
import torch
from safetensors import safe_open
from safetensors.torch import save, save_file

from seada_core.files import weight_headers
from seada_core.files.weight_headers import CheckpointError, read_header
from seada_core.models.captioners import loading
from seada_core.train import encoder
from seada_core.weights import part_files


def written(length: int) -> bytes:
    """A safetensors file whose header has that length."""
    header = {"__metadata__": {"pad": ""}, "x": {"dtype": "F32", "shape": [2], "data_offsets": [0, 8]}}
    header["__metadata__"]["pad"] = "p" * (length - len(json.dumps(header)))
    return struct.pack("<Q", length) + json.dumps(header).encode() + struct.pack("<2f", 1, 2)


def pickled(legacy: bool) -> bytes:
    buffer = io.BytesIO()
    torch.save({"x": torch.zeros(2)}, buffer, _use_new_zipfile_serialization=not legacy)
    return buffer.getvalue()


def test_names_and_shapes_match_safetensors(tmp_path):
    path = tmp_path / "some.safetensors"
    save_file({"a.b": torch.zeros(2, 3).half(), "scalar": torch.tensor(1), "none": torch.zeros(0, 4)}, path, {"m": "1"})
    header = read_header(path)
    with safe_open(path, "pt") as file:
        names = list(file.keys())
        assert header.shapes == {name: tuple(file.get_slice(name).get_shape()) for name in names}
        assert header.metadata == file.metadata()
    save_file({}, path)
    assert read_header(path).shapes == {}


@pytest.mark.parametrize("length", [0x280, 0x380, 0x480, 0x044B50])
def test_a_header_length_that_looks_like_a_pickle_is_accepted(length, tmp_path):
    """Its first bytes are those of a pickle, or almost those of a zip file."""
    path = tmp_path / "some.safetensors"
    path.write_bytes(written(length))
    assert read_header(path).shapes == {"x": (2,)}
    with safe_open(path, "pt") as file:
        assert file.get_tensor("x").tolist() == [1, 2]


GOOD = written(200)
FAULTS = {
    "empty": (b"", "it is empty"),
    "torn header": (GOOD[:100], "has 100 bytes and its header expects at least 208: the download was interrupted"),
    "torn": (GOOD[:-3], "has 213 bytes and its header expects 216: the download was interrupted"),
    "longer": (GOOD + b"x", "1 bytes follow its last tensor"),
    "seven bytes": (GOOD[:7], "not a readable safetensors file"),
    "lfs": (b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 1\n", "git-lfs pointer.*git lfs pull"),
    "page": (b"\n<!DOCTYPE html><html>", "is a web page"),
    "xml": (b"<?xml version='1.0'?><Error><Code>AccessDenied", "is a web page"),
    "json": (b'{"error":"Invalid username or password."}', "a server's error message"),
    "text": (b"Entry not found", "a server's error message"),
    "zip pickle": (pickled(legacy=False), r"is a pickle, which can run any program.*docs/weights\.md"),
    "old pickle": (pickled(legacy=True), "is a pickle"),
    "gguf": (b"GGUF\x03\x00\x00\x00" + bytes(50), "GGUF"),
    "noise": (bytes(range(256)) * 9, "not a safetensors header"),
    "not json": (struct.pack("<Q", 20) + b"{" * 40, "not a safetensors header"),
    "a list": (struct.pack("<Q", 20) + b"[]".ljust(20), "not a safetensors header"),
    "wrong fields": (struct.pack("<Q", 30) + b'{"x":{"shape":3}}'.ljust(30), "not a safetensors header"),
}


@pytest.mark.parametrize("fault", FAULTS)
def test_files_that_are_not_weights_are_identified(fault, tmp_path):
    content, message = FAULTS[fault]
    path = tmp_path / "model.safetensors"
    path.write_bytes(content)
    with pytest.raises(CheckpointError, match=message) as error:
        read_header(path)
    assert str(path) in str(error.value) and "\n" not in str(error.value)
    # all functions that take a weights file
    for read in (
        lambda: part_files.load_part(path, "unet"),
        lambda: loading.load_captioner("coca", path),
        lambda: encoder.load_encoder(str(path)),
    ):
        with pytest.raises(ValueError, match=message):
            read()


def test_folders_and_missing_files_are_refused(tmp_path):
    with pytest.raises(CheckpointError, match="is a folder, expected a file"):
        read_header(tmp_path)
    with pytest.raises(CheckpointError, match="does not exist"):
        read_header(tmp_path / "x")


@pytest.mark.parametrize(
    "name, kind",
    [
        ("embedded part", "part unet"),
        ("taesd encoder", "taesd"),
        ("taesd", "taesd"),
        ("blip", "clip"),
        ("clipcap", "clipcap"),
        ("control lllite", "control-lllite"),
        ("difference", "control-difference"),
        ("wan", "transformer"),
    ],
)
def test_kinds(name, kind, tmp_path):
    names = {
        "taesd encoder": ["0.weight", "1.conv.0.weight"],
        "taesd": ["encoder.layers.0.weight", "decoder.layers.1.weight"],
        "blip": ["vision_model.embeddings.class_embedding"],
        "clipcap": ["clip_project.model.0.weight", "gpt.transformer.wte.weight"],
        "control lllite": ["lllite_unet_input_blocks_1_1.down.0.weight"],
        "difference": ["difference", "input_hint_block.0.weight"],
        "wan": ["blocks.0.self_attn.q.weight"],
    }
    path = tmp_path / "some.safetensors"
    if name == "embedded part":
        path = part_files.EMBEDDED / "unet.safetensors"
    else:
        path.write_bytes(save({key: torch.zeros(1) for key in names[name]}))
    assert weight_headers.kind(read_header(path)).name == kind


def test_a_whole_model_in_place_of_a_part_is_identified(small_sd15):
    with pytest.raises(
        CheckpointError, match=r"not a SeAda part file .* a single-file checkpoint; .*seada_core\.convert"
    ):
        part_files.load_part(small_sd15.single_file, "unet")


def test_a_part_that_does_not_fit_is_not_read(tiny_model, tmp_path, monkeypatch):
    from safetensors.torch import load_file

    source = tiny_model / "hint_encoder.safetensors"
    tensors = load_file(source)
    tensors.popitem()
    save_file(tensors, tmp_path / "x.safetensors", read_header(source).metadata)
    monkeypatch.setattr(part_files, "_tensors", lambda _: pytest.fail("the weights were read"))
    with pytest.raises(CheckpointError, match=r"does not fit its own configuration: 1 tensors, .* is missing"):
        part_files.load_part(tmp_path / "x.safetensors", "hint_encoder")


def test_the_documented_pickle_conversion_works(tmp_path):
    import re
    import subprocess
    import sys
    from pathlib import Path

    document = Path(__file__).resolve().parents[2] / "docs" / "weights.md"
    code = re.search(r"```python\n(import sys\n.*?)```", document.read_text("utf-8"), re.S)[1]
    shared = torch.arange(6.0).view(2, 3)
    torch.save({"state_dict": {"a": shared, "b": shared.T, "step": 3}, "epoch": 1}, tmp_path / "old.ckpt")
    subprocess.run([sys.executable, "-c", code, tmp_path / "old.ckpt", tmp_path / "new.safetensors"], check=True)
    with safe_open(tmp_path / "new.safetensors", "pt") as file:
        assert torch.equal(file.get_tensor("a"), shared) and torch.equal(file.get_tensor("b"), shared.T)

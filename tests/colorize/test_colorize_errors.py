"""What goes wrong with `python -m seada_core.colorize`: one line, and nothing lost."""

import errno
import json
import os
import shutil
from pathlib import Path

import pytest
from command import FullDisk, no_traces, scene
from PIL import Image

from seada_core.colorize.__main__ import main
from seada_core.files import atomic


def test_nothing_is_overwritten_unasked(run, photo):
    target = photo.with_name("photo-color.png")
    target.write_bytes(b"mine")
    status, _, err = run(photo)
    assert status == 1
    assert len(err) == 1
    assert "--overwrite" in err[0]
    assert target.read_bytes() == b"mine"
    assert run(photo, "--overwrite", "--steps", 1)[0] == 0
    assert Image.open(target).size == (40, 28)
    (photo.with_name("v-seed1.png")).write_bytes(b"mine")
    assert run(photo, "-o", photo.with_name("v.png"), "--variants", 2)[0] == 1
    assert not photo.with_name("v.png").exists()
    assert not photo.with_name("v-seed0.png").exists()


@pytest.mark.parametrize("link", [False, True])
def test_the_input_is_never_replaced(run, photo, tmp_path, link):
    target = photo
    if link:
        target = tmp_path / "link.png"
        target.symlink_to(photo)
    before = photo.read_bytes()
    status, _, err = run(photo, "-o", target, "--overwrite")
    assert status == 1
    assert "is an input" in err[0]
    assert photo.read_bytes() == before
    assert run(photo.parent, "-o", photo.parent, "--overwrite")[0] == 2
    assert photo.read_bytes() == before


def test_two_inputs_with_one_result(run, tmp_path):
    for folder in ("one", "two"):
        (tmp_path / folder).mkdir()
        scene().save(tmp_path / folder / "a.png")
    status, out, err = run(tmp_path / "one", tmp_path / "two", "-o", tmp_path / "out", "--steps", 1, "--overwrite")
    assert status == 1
    assert len(out) == 1
    assert "already the result of" in err[0]


@pytest.mark.parametrize(
    ("argv", "says"),
    [
        (["--steps", "0"], "at least 1"),
        (["--steps", "-3"], "at least 1"),
        (["--steps", "many"], "at least 1"),
        (["--size", "100"], "multiple of 8"),
        (["--guidance", "nan"], "0 to 100"),
        (["--strength", "-1"], "0 to 10"),
        (["--temperature", "0"], "above 0"),
        (["--variants", "0"], "1 to 256"),
        (["--seed", "-1"], "from 0"),
        (["--hint", "1,2"], "X,Y,COLOUR"),
        (["--hint", "1,2,reddish"], "a CSS colour such as #d0a070"),
        (["--palette", "navy,reddish"], "'reddish'"),
        (["--hint", "a,2,#ff0000"], "numbers"),
        (["--hints", "missing.json"], "missing.json"),
        (["--palette", "#aabbcc,#dd"], "#dd"),
        (["--palette", " "], "palette is empty"),
        (["--palette", "Duch interor"], "'Dutch interior'"),
        (["--palette", "missing.json"], "cannot read palettes from missing.json"),
        (["--palette", "auto", "--palette-strength", "11"], "0 to 10"),
        (["--dtype", "int8"], "int8"),
        (["--colour"], "--colour"),
        (["--scheduler", "euler"], "euler"),
        (["--batch", "0"], "1 to 1024"),
        (["--compile", "--offload"], "one of the two"),
        (["-o", "out.xyz"], ".xyz"),
        (["-o", "out"], "no suffix"),
        (["-o", "nowhere/out.png"], "nowhere"),
    ],
)
def test_bad_usage(run, photo, tmp_path, monkeypatch, argv, says):
    monkeypatch.chdir(tmp_path)
    status, out, err = run(photo, *argv)
    assert (status, out) == (2, [])
    assert len(err) == 1
    assert err[0].startswith("error: ")
    assert says in err[0]
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_no_input_and_a_file_for_a_folder(run, photo, tmp_path):
    assert run()[0] == 2
    (tmp_path / "out.png").write_bytes(b"mine")
    status, _, err = run(photo, photo, "-o", tmp_path / "out.png", "--overwrite")
    assert status == 2
    assert "folder" in err[0]


def test_a_folder_without_pictures(run, photo, tmp_path):
    (tmp_path / "empty").mkdir()
    status, _, err = run(tmp_path / "empty", "-o", tmp_path / "out")
    assert status == 1
    assert len(err) == 1
    assert "no pictures in" in err[0]
    assert not (tmp_path / "out").exists()
    assert run(tmp_path / "empty", photo, "-o", tmp_path / "out", "--steps", 1)[0] == 1
    assert (tmp_path / "out" / "photo.png").is_file()


def test_a_hint_outside_one_of_two_pictures(run, tmp_path):
    scene(20, 20).save(tmp_path / "small.png")
    scene(60, 60).save(tmp_path / "large.png")
    status, out, err = run(tmp_path / "small.png", tmp_path / "large.png", "--hint", "50,50,#ff0000", "--steps", 1)
    assert status == 1
    assert len(out) == 1
    assert len(err) == 1
    assert err[0].startswith(f"error: {tmp_path / 'small.png'}: ")
    assert "outside the photo" in err[0]
    assert not (tmp_path / "small-color.png").exists()
    assert (tmp_path / "large-color.png").is_file()


def wrong_part(folder: Path) -> None:
    shutil.copy(folder / "vq_decoder.safetensors", folder / "unet.safetensors")


def other_version(folder: Path) -> None:
    rewrite(folder / "vq_decoder.safetensors", metadata={"seada.version": "99"})


def not_finite(folder: Path) -> None:
    rewrite(folder / "controlnet_rca.safetensors", nan=True)


def cut_short(folder: Path) -> None:
    file = folder / "semantic_adapter.safetensors"
    file.write_bytes(file.read_bytes()[:1000])


def missing_part(folder: Path) -> None:
    (folder / "unet.safetensors").unlink()


def rewrite(file: Path, metadata: dict | None = None, nan: bool = False) -> None:
    from safetensors import safe_open
    from safetensors.torch import save_file

    with safe_open(file, "pt") as source:
        tensors = {name: source.get_tensor(name) for name in source.keys()}  # noqa: SIM118
        described = source.metadata()
    if nan:
        next(iter(tensors.values())).flatten()[0] = float("nan")
    file.unlink()
    save_file(tensors, file, described | (metadata or {}))


@pytest.mark.parametrize(
    ("harm", "says"),
    [
        (wrong_part, "holds the part 'vq_decoder', expected 'unet'"),
        (other_version, "version 99"),
        (not_finite, "not finite"),
        (cut_short, "safetensors"),
        (missing_part, "no unet file"),
    ],
)
def test_a_broken_model_is_one_line(run, photo, tiny_model, tmp_path, harm, says):
    model = tmp_path / "model"
    shutil.copytree(tiny_model, model)
    harm(model)
    scene().save(tmp_path / "second.png")
    status, out, err = run(photo, tmp_path / "second.png", "--json", "-o", tmp_path / "out", model=model)
    assert status == 1
    assert len(err) == 1  # not once for each picture
    assert err[0].startswith("error: ")
    assert says in err[0]
    assert [says in json.loads(line)["error"] for line in out] == [True, True]
    assert not (tmp_path / "out").exists()


def test_unknown_model_and_device(run, photo, capfd):
    status, out, err = run(photo, model="no-such-model")
    assert (status, out, len(err)) == (1, [], 1)
    assert "no-such-model" in err[0]
    assert main([str(photo), "--device", "abacus"]) == 1
    assert capfd.readouterr().err.startswith("error: device 'abacus' cannot be used")
    assert [p.name for p in photo.parent.iterdir()] == ["photo.png"]


def test_a_full_disk(run, photo, tmp_path, monkeypatch):
    monkeypatch.setattr(atomic, "open", lambda path, *_, **__: FullDisk(path, "w"), raising=False)
    status, out, err = run(photo, "-o", tmp_path / "out.png", "--steps", 1)
    assert (status, out, len(err)) == (1, [], 1)
    assert os.strerror(errno.ENOSPC) in err[0]
    assert [p.name for p in tmp_path.iterdir()] == ["photo.png"]


def test_offloading_needs_somewhere_to_load_from(run, photo):
    status, _, err = run(photo, "--offload")
    assert (status, len(err)) == (1, 1)
    assert "run without it" in err[0]


def test_a_compiler_that_fails_ends_the_run(run, photo, tmp_path, monkeypatch):
    import torch._dynamo.exc

    from seada_core.models import sampling
    from seada_core.pipeline import Colorizer

    def compile(self):
        def fail(*_):
            raise torch._dynamo.exc.InternalTorchDynamoError("no such header")

        self.graphs.compiled[sampling.predict] = fail

    monkeypatch.setattr(Colorizer, "compile", compile)
    scene(20, 20).save(tmp_path / "second.png")
    status, out, err = run(photo, tmp_path / "second.png", "-o", tmp_path / "out", "--compile")
    assert (status, out, len(err)) == (1, [], 1)
    assert err[0] == "error: torch.compile failed: no such header; run without --compile"


def test_interrupted_while_writing(run, photo, tmp_path, monkeypatch):
    target = photo.with_name("photo-color.png")
    target.write_bytes(b"mine")

    def interrupt(self, file, *args, **kwargs):
        file.write(b"half a picture")
        raise KeyboardInterrupt

    monkeypatch.setattr(Image.Image, "save", interrupt)
    status, out, err = run(photo, "--overwrite", "--steps", 1)
    assert (status, out, len(err)) == (130, [], 1)
    assert "interrupted" in err[0]
    assert target.read_bytes() == b"mine"
    assert no_traces(tmp_path)

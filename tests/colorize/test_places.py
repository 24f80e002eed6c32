"""Names and places of files: long names, results that cannot be where they are asked for, inputs that are no files."""

import errno
import os
import subprocess
import sys

import pytest
from command import ROOT, scene
from PIL import Image

from seada_core.colorize import plan
from seada_core.colorize.plan import named


@pytest.mark.parametrize(
    "stem", ["n" * 246, "写" * 79, "é" * 120, "x" * 251], ids=["ascii", "japanese", "accents", "full"]
)
@pytest.mark.parametrize("variants", [1, 2])
def test_long_names_are_shortened_where_the_result_needs_room(run, tmp_path, stem, variants):
    source = tmp_path / f"{stem}.png"
    scene().save(source)
    status, out, err = run(source, "--steps", 1, "--variants", variants)
    assert (status, len(out), err) == (0, 1, [])
    results = sorted(p.name for p in tmp_path.iterdir() if p != source)
    assert len(results) == (1 if variants == 1 else 3)
    assert all(name.startswith(stem[:70]) and len(os.fsencode(name)) <= 255 for name in results)


def test_two_long_names_do_not_become_one_result(run, tmp_path):
    for last in "ab":
        scene().save(tmp_path / f"{'n' * 245}{last}.png")
    status, out, err = run(*tmp_path.glob("*.png"), "--steps", 1)
    assert (status, len(out), len(err)) == (1, 1, 1)
    assert "is already the result of" in err[0]
    assert named("abc", "-color.png") == "abc-color.png"


def test_a_name_that_no_file_can_have(run, photo, tmp_path):
    status, out, err = run("n" * 300 + ".png", photo, "-o", tmp_path / "out", "--steps", 1)
    assert (status, len(out), len(err)) == (1, 1, 1)
    assert "is longer than a file's name can be" in err[0]
    status, _, err = run(photo, "-o", tmp_path / ("o" * 300 + ".png"))
    assert (status, len(err)) == (2, 1)
    assert "choose a shorter -o" in err[0]


INPUTS = {
    "-": "standard input",
    "https://example.org/a.jpg": "download the picture",
    "file:///home/me/a%20b.jpg": "name the file itself, /home/me/a b.jpg",
    "scans/*.tif": "only outside quotes",
    "a[1].jpg": "only outside quotes",
    "missing.jpg": "missing.jpg does not exist",
}


@pytest.mark.parametrize("given", INPUTS)
def test_what_is_no_file_gets_a_hint(run, tmp_path, monkeypatch, given):
    monkeypatch.chdir(tmp_path)
    scene().save("good.png")
    status, out, err = run(given, "good.png", "-o", "out", "--steps", 1)
    assert (status, len(out), len(err)) == (1, 1, 1)
    assert err[0].startswith("error: ")
    assert INPUTS[given] in err[0]
    assert (tmp_path / "out" / "good.png").is_file()


def test_brackets_in_a_file_that_exists_are_a_name(run, tmp_path):
    scene().save(tmp_path / "a[1]*.png")
    assert run(tmp_path / "a[1]*.png", "--steps", 1)[0] == 0


@pytest.mark.parametrize(
    ("out", "says"),
    [
        ("o.jpg", "o.jpg names one file; several pictures need a folder, such as o"),
        ("file/sub", "file is a file, so file/sub cannot be in it"),
        ("file", "file is a file; several pictures need a folder"),
    ],
)
def test_places_for_several_results(run, tmp_path, monkeypatch, out, says):
    monkeypatch.chdir(tmp_path)
    for name in ("a.png", "b.png"):
        scene().save(name)
    (tmp_path / "file").write_text("x")
    status, lines, err = run("a.png", "b.png", "-o", out)
    assert (status, lines, len(err)) == (2, [], 1)
    assert says in err[0]
    assert not (tmp_path / "o.jpg").exists()
    assert run("a.png", "b.png", "-o", "o.jpg/", "--steps", 1)[0] == 0  # with a slash it is a folder
    assert Image.open("o.jpg/a.png").size == (40, 28)


def test_a_file_for_a_folder_of_one_result(run, photo, tmp_path):
    (tmp_path / "file").write_text("x")
    status, _, err = run(photo, "-o", tmp_path / "file" / "x.jpg")
    assert (status, len(err)) == (2, 1)
    assert f"{tmp_path / 'file'} is a file, so" in err[0]


@pytest.mark.parametrize("where", [["-o", "out"], ["-o", "out.png"], []], ids=["folder", "file", "beside"])
def test_a_place_that_cannot_be_written_to_is_found_before_the_first_picture(run, tmp_path, monkeypatch, where):
    from seada_core.colorize.worker import Worker

    def read_only(dir):
        raise OSError(errno.EROFS, os.strerror(errno.EROFS))

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(plan.tempfile, "TemporaryFile", read_only)
    monkeypatch.setattr(Worker, "__call__", lambda *_: pytest.fail("a picture was coloured"))
    (tmp_path / "in").mkdir()
    scene().save("in/a.png")
    scene().save("in/b.png")
    inputs = ["in/a.png"] if where[-1:] == ["out.png"] else ["in/a.png", "in/b.png"]
    status, out, err = run(*inputs, *where)
    assert (status, out) == (1, [])
    assert all("Read-only file system" in line and "choose another folder with -o" in line for line in err)
    assert len(err) == (1 if where else 2)


def test_a_reader_that_stops_ends_the_command_quietly(tmp_path):
    command = f"{sys.executable} -m seada_core.colorize --list-palettes | head -1"
    done = subprocess.run(["bash", "-c", f"set -o pipefail; {command}"], cwd=ROOT, capture_output=True, text=True)
    assert (len(done.stdout.splitlines()), done.stderr) == (1, "")


def test_a_closed_output_has_a_status_of_its_own(capfd):
    from seada_core.command_line import CLOSED, exit_status

    def command():
        raise BrokenPipeError

    kept = os.dup(1)
    try:
        assert exit_status(command) == CLOSED == 141
    finally:
        os.dup2(kept, 1)
    assert capfd.readouterr().err == ""

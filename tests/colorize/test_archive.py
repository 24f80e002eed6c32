"""Archives: shards in and out, going on after a kill, and what cannot be done. With Ray: test_archive_ray.py."""

import json
import os
import signal
import subprocess
import sys
import tarfile

import numpy as np
import pytest
from command import ROOT, album, encoded, one_step, scene
from PIL import Image
from tars import read_tar, write_tar

from seada_core.colorize import plan
from seada_core.colorize.plan import JOURNAL
from seada_core.colorize.shard_results import Shard
from seada_core.errors import CommandError
from seada_core.files import atomic
from seada_core.files.shards import ShardError


@pytest.fixture
def run(tiny_model, capfd):
    return one_step(tiny_model, capfd)


# --- folders ----------------------------------------------------------------------------------------------------------


def test_a_second_run_does_what_is_missing(run, tmp_path):
    folder, out = album(tmp_path / "in", 5, bad=2), tmp_path / "out"
    status, lines, err = run(folder, "-o", out)
    assert (status, len(lines)) == (1, 4)
    assert err[0].startswith(f"error: {folder / '02.png'} is not a picture")
    assert err[1].startswith(f"4 coloured, 1 failed (listed in {out / JOURNAL}) in ")
    assert err[1].endswith(" pictures/s")
    [failure] = map(json.loads, (out / JOURNAL).read_text().splitlines())
    assert failure["input"] == str(folder / "02.png")
    assert "is not a picture" in failure["error"]
    before = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    scene().save(folder / "02.png")
    (out / "04.png").unlink()
    status, lines, err = run(folder, "-o", out)
    assert (status, len(lines)) == (0, 2)
    assert err[0].startswith("2 coloured, 3 there already in ")
    assert not (out / JOURNAL).exists()
    after = {path.name: path.stat().st_mtime_ns for path in out.glob("*.png")}
    assert [name for name in after if after[name] != before.get(name)] in (["02.png", "04.png"], ["04.png", "02.png"])
    assert run(folder, "-o", out, "--overwrite")[2][0].startswith("5 coloured in ")


@pytest.mark.slow
def test_killed_and_gone_on_with(tiny_model, tmp_path):
    """A run that is killed leaves whole pictures; the next makes the rest; all are as if never interrupted."""
    folder = album(tmp_path / "in", 8)
    argv = [sys.executable, "-m", "seada_core.colorize", str(folder), "--model", str(tiny_model), "--prompt", "x"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    out = tmp_path / "out"
    with subprocess.Popen([*argv, "-o", out], env=environment, stdout=subprocess.PIPE, text=True) as process:
        process.stdout.readline()  # one is done
        process.send_signal(signal.SIGKILL)
    found = {path.name: path.read_bytes() for path in out.glob("*.png")}
    assert 1 <= len(found) < 8
    done = subprocess.run([*argv, "-o", out, "--json"], env=environment, capture_output=True, text=True)
    assert done.returncode == 0
    assert len(done.stdout.splitlines()) == 8 - len(found)
    assert subprocess.run([*argv, "-o", tmp_path / "whole"], env=environment, capture_output=True).returncode == 0
    whole = {path.name: path.read_bytes() for path in (tmp_path / "whole").iterdir()}
    assert {path.name: path.read_bytes() for path in out.glob("*.png")} == whole
    assert found.items() <= whole.items()


def test_folders_in_folders_keep_their_tree(run, tmp_path):
    folder = album(tmp_path / "in", 1)
    album(folder / "deep", 1)
    (folder / ".hidden").mkdir()
    scene().save(folder / ".hidden" / "a.png")
    assert run(folder, "-r", "-o", tmp_path / "out")[0] == 0
    assert {p.relative_to(tmp_path / "out").as_posix() for p in (tmp_path / "out").rglob("*.png")} == {
        "00.png",
        "deep/00.png",
    }
    for out, says in ((folder / "out", " is in "), (folder, "is the folder of the photos")):
        status, _, err = run(folder, "-r", "-o", out)
        assert (status, len(err)) == (2, 1)
        assert says in err[0]


@pytest.mark.slow
def test_together_is_as_alone_but_for_rounding(run, tmp_path, monkeypatch):
    from seada_core.pipeline import Colorizer

    folder = album(tmp_path / "in", 6, bad=3)
    seen = []
    chroma = Colorizer.chroma

    def record(self, gray, *options, **fields):
        seen.append(len(gray))
        return chroma(self, gray, *options, **fields)

    monkeypatch.setattr(Colorizer, "chroma", record)
    assert run(folder, "-o", tmp_path / "alone")[0] == 1
    assert seen == [1] * 5
    seen.clear()
    assert run(folder, "-o", tmp_path / "together", "--batch", 4)[0] == 1
    assert max(seen) > 1
    for path in (tmp_path / "alone").glob("*.png"):
        a, b = (np.asarray(Image.open(p)).astype(int) for p in (path, tmp_path / "together" / path.name))
        assert abs(a - b).max() <= 1
    seen.clear()
    assert run(folder, "-o", tmp_path / "hinted", "--batch", 4, "--hint", "3,3,#ff0000")[0] == 1
    assert seen == [1] * 5  # hints are places of one photo


def test_what_fails_together_is_tried_alone(run, tmp_path, monkeypatch):
    from seada_core.pipeline import Colorizer

    chroma = Colorizer.chroma

    def small_gpu(self, gray, *options, **fields):
        if len(gray) > 1:
            raise RuntimeError("CUDA out of memory")
        return chroma(self, gray, *options, **fields)

    monkeypatch.setattr(Colorizer, "chroma", small_gpu)
    assert run(album(tmp_path / "in", 4), "-o", tmp_path / "out", "--batch", 4)[0] == 0
    assert len(list((tmp_path / "out").iterdir())) == 4


def test_a_full_disk_ends_the_run(run, tmp_path, monkeypatch):
    from command import FullDisk

    folder, out = album(tmp_path / "in", 4), tmp_path / "out"
    opened = []

    def open_third(path, mode, **options):
        opened.append(path)
        return FullDisk(path, "w") if len(opened) > 2 else open(path, mode, **options)

    monkeypatch.setattr(atomic, "open", open_third, raising=False)
    status, lines, err = run(folder, "-o", out, "--workers", 1)
    assert (status, len(lines), len(opened)) == (1, 2, 3)  # no fourth picture was coloured in vain
    assert "No space left" in err[0] and "make room" in err[0]
    monkeypatch.undo()
    assert run(folder, "-o", out)[2][0].startswith("2 coloured, 2 there already")


# --- shards -----------------------------------------------------------------------------------------------------------


def test_a_shard_becomes_a_shard_with_the_same_keys(run, tmp_path):
    source = {
        "b/1.png": encoded(),
        "b/1.json": b'{"captions": []}',
        "a.gif": encoded(kind="GIF"),
        "bad.jpg": b"no picture",
        "bad.txt": b"kept by nobody",
        "c.jpg": encoded(33, 20, "JPEG"),
        "c.mask.png": encoded(),
    }
    path = write_tar(tmp_path / "in.tar", source)
    status, lines, err = run(path, "-o", tmp_path / "out.tar")
    assert (status, len(lines)) == (1, 3)
    assert err[0].startswith(f"error: {path}:bad.jpg is not a picture")
    result = read_tar(tmp_path / "out.tar")
    assert list(result) == ["b/1.png", "b/1.json", "a.png", "c.jpg", "c.mask.png"]
    assert result["b/1.json"] == source["b/1.json"]
    assert result["c.mask.png"] == source["c.mask.png"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["in.tar", "out.tar"]
    # the pictures are those that files become
    for name in ("1.png", "c.jpg"):
        (tmp_path / name).write_bytes(source[f"b/{name}" if name == "1.png" else name])
        run(tmp_path / name, "-o", tmp_path / f"file-{name}")
        assert (tmp_path / f"file-{name}").read_bytes() == result[f"b/{name}" if name == "1.png" else name]
    # what failed is tried again, and joins the rest
    assert run(path, "-o", tmp_path / "out.tar")[2][-1].startswith("0 coloured, 3 there already, 1 failed")
    source["bad.jpg"] = encoded(20, 20, "JPEG")
    write_tar(path, source)
    assert run(path, "-o", tmp_path / "out.tar")[0] == 0
    again = read_tar(tmp_path / "out.tar")
    assert list(again) == ["b/1.png", "b/1.json", "a.png", "bad.jpg", "bad.txt", "c.jpg", "c.mask.png"]
    assert result.items() <= again.items()


def test_webdataset_reads_what_comes_out(run, tmp_path):
    wds = pytest.importorskip("webdataset")
    for k in range(2):
        write_tar(
            tmp_path / f"in-{k}.tar",
            {f"{k}{i}.{e}": c for i in range(2) for e, c in (("png", encoded()), ("txt", b"x"))},
        )
    assert run(tmp_path / "in-0.tar", tmp_path / "in-1.tar", "-o", tmp_path / "out")[0] == 0
    shards = sorted(map(str, (tmp_path / "out").glob("*.tar")))
    found = list(wds.WebDataset(shards, shardshuffle=False, empty_check=False).decode("rgb8"))
    assert [sample["__key__"] for sample in found] == ["00", "01", "10", "11"]
    assert all(sample["png"].shape == (28, 40, 3) and sample["txt"] == "x" for sample in found)


def test_a_shard_that_was_broken_off_goes_on(run, tmp_path, monkeypatch):
    from seada_core.pipeline import Colorizer

    path = write_tar(tmp_path / "in.tar", {f"{k}.png": encoded(40, 20 + k) for k in range(4)})
    call, count = Colorizer.__call__, []

    def interrupted(self, image, options, callback):
        count.append(1)
        if len(count) == 3:
            raise KeyboardInterrupt
        return call(self, image, options, callback=callback)

    monkeypatch.setattr(Colorizer, "__call__", interrupted)
    assert run(path, "-o", tmp_path / "out.tar", "--workers", 1)[0] == 130
    assert not (tmp_path / "out.tar").exists()
    assert sorted(p.name for p in (tmp_path / ".out.tar.work").iterdir()) == ["0.png", "1.png"]
    monkeypatch.setattr(Colorizer, "__call__", call)
    status, lines, err = run(path, "-o", tmp_path / "out.tar")
    assert (status, len(lines)) == (0, 2)
    assert err[-1].startswith("2 coloured, 2 there already")
    run(path, "-o", tmp_path / "whole.tar")
    assert (tmp_path / "out.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()
    assert not (tmp_path / ".out.tar.work").exists()
    # killed between the last picture and packing
    Shard(path, tmp_path / "late.tar").work.mkdir()
    for name, content in read_tar(tmp_path / "out.tar").items():
        (tmp_path / ".late.tar.work" / name).write_bytes(content)
    status, lines, err = run(path, "-o", tmp_path / "late.tar")
    assert (status, lines) == (0, [])
    assert (tmp_path / "late.tar").read_bytes() == (tmp_path / "whole.tar").read_bytes()


def test_shards_unpacked(run, tmp_path):
    path = write_tar(tmp_path / "in.tar", {"a/1.png": encoded(), "a/1.txt": b"x", "2.gif": encoded(kind="GIF")})
    assert run(path, "-o", tmp_path / "out", "--unpack")[0] == 0
    out = tmp_path / "out" / "in"
    assert {p.relative_to(out).as_posix() for p in out.rglob("*") if p.is_file()} == {"a/1.png", "2.png"}
    assert run(path, "-o", tmp_path / "out", "--unpack")[2][0].startswith("0 coloured, 2 there already")


def test_shards_that_cannot_be_used(run, tmp_path):
    """Each is said before anything is coloured; what can be done is done."""
    good = {"1.png": encoded(), "2.png": encoded(30, 30)}
    cases = {
        "twice.tar": good | {"1.txt": b"again"},
        "two.tar": {"1.png": encoded(), "1.jpg": encoded(kind="JPEG"), "2.png": encoded()},
        "out.tar": {"../../evil.png": encoded(), "2.png": encoded()},
        "none.tar": {"1.txt": b"x", "2.png": encoded()},
    }
    for name, content in cases.items():
        write_tar(tmp_path / name, content)
    cut = write_tar(tmp_path / "cut.tar", good | {"3.png": encoded(200, 200)})
    with tarfile.open(cut) as tar:
        start = tar.getmember("3.png").offset_data
    cut.write_bytes(cut.read_bytes()[: start + 100])
    (tmp_path / "text.tar").write_text("no tar")
    says = {
        "twice.tar": "the key '1' is there twice",
        "two.tar": "sample '1' has 2 pictures (1.png, 1.jpg)",
        "out.tar": "is a path outside the results' folder",
        "none.tar": "sample '1' has no picture",
        "cut.tar": "cut.tar is not an uncompressed tar, or is damaged or cut short",
        "text.tar": "text.tar is not an uncompressed tar",
    }
    found = plan.plan([tmp_path], str(tmp_path / "results"))
    assert not (tmp_path / "results").exists()
    assert len(found.refused) == len(says)
    for name, said in says.items():
        [job] = [job for job in found.refused if job.source.name == name]
        assert said in job.error
        assert name in job.error
    assert {s.source.name: s.todo for s in found.shards} == {
        "twice.tar": 2, "two.tar": 1, "out.tar": 1, "none.tar": 1, "cut.tar": 2
    }  # fmt: skip
    assert len(list(found.jobs())) == found.todo == 7
    status, lines, err = run(tmp_path, "-o", tmp_path / "results")
    assert (status, len(lines)) == (1, 7)
    assert err[-1].startswith("7 coloured, 6 failed")
    assert not (tmp_path.parent / "evil.png").exists()
    assert set(read_tar(tmp_path / "results" / "cut.tar")) == {"1.png", "2.png"}


def test_results_that_are_anothers_are_left_alone(run, tmp_path):
    path = write_tar(tmp_path / "in.tar", {"1.png": encoded()})
    mine = write_tar(tmp_path / "mine.tar", {"other.png": encoded()})
    before = mine.read_bytes()
    status, _, err = run(path, "-o", mine)
    assert status == 1
    assert "mine.tar holds other.png, which is not a result of" in err[0]
    assert mine.read_bytes() == before
    (tmp_path / "out").mkdir()
    (tmp_path / "out" / "in").write_text("a file")
    assert "--unpack needs a folder" in run(path, "-o", tmp_path / "out", "--unpack")[2][0]
    (tmp_path / "twin").mkdir()
    write_tar(tmp_path / "twin" / "in.tar", {"1.png": encoded()})
    status, lines, err = run(path, tmp_path / "twin" / "in.tar", "-o", tmp_path / "all")
    assert (status, len(lines)) == (1, 1)
    assert "already the result of" in err[0]
    status, _, err = run(path, "-o", tmp_path / "all", "--variants", 2)
    assert (status, len(err)) == (2, 1)
    assert "do not use --variants" in err[0]


def test_a_disk_that_fills_up_while_packing(run, tmp_path, monkeypatch):
    import errno

    path = write_tar(tmp_path / "in.tar", {"1.png": encoded()})

    def full(self):
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    monkeypatch.setattr(Shard, "pack", full)
    status, _, err = run(path, "-o", tmp_path / "out.tar")
    assert status == 1
    assert "No space left" in err[0] and ".out.tar.work" in err[0]
    monkeypatch.undo()
    status, lines, _ = run(path, "-o", tmp_path / "out.tar")
    assert (status, lines, list(read_tar(tmp_path / "out.tar"))) == (0, [], ["1.png"])


def test_shard_errors_name_the_shard(tmp_path):
    with pytest.raises(ShardError, match=r"none\.tar is not an uncompressed tar"):
        Shard(tmp_path / "none.tar", tmp_path / "out.tar").check()
    with pytest.raises(CommandError, match="is a file"):
        (tmp_path / "file").write_text("")
        plan.plan([write_tar(tmp_path / "a.tar", {"1.png": encoded()}), tmp_path / "b.tar"], str(tmp_path / "file"))

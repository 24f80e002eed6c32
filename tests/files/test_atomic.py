"""Atomic writes: files are complete or unchanged after any error, for names of any length."""

import errno
import os
from pathlib import Path

import numpy as np
import pytest

from seada_core.files import atomic, pictures

LONG = ["x" * 251 + ".txt", "ü" * 125 + ".txt", "写" * 83 + ".txt", "x" * 101, "a.b"]


def names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir())


@pytest.mark.parametrize("name", LONG, ids=[f"{len(os.fsencode(name))} bytes" for name in LONG])
@pytest.mark.parametrize("unique", [False, True])
def test_names_up_to_the_file_systems_limit(tmp_path, name, unique):
    target = tmp_path / name
    for text in (b"first", b"second"):
        with atomic.opened(target, unique=unique) as file:
            file.write(text)
            inside = [other for other in names(tmp_path) if other != name]
            assert len(inside) == 1 and len(os.fsencode(inside[0])) < 130 and inside[0].endswith(".part")
    assert target.read_text() == "second" and names(tmp_path) == [name]


def test_long_names_with_the_same_prefix_have_different_temporary_names(tmp_path):
    first, second = tmp_path / ("x" * 200 + "1"), tmp_path / ("x" * 200 + "2")
    assert atomic.part_path(first) != atomic.part_path(second)
    assert atomic.part_path(first) == atomic.part_path(first)
    assert atomic.part_path(first, unique=True) != atomic.part_path(first, unique=True)
    assert atomic.part_path(tmp_path / "unet.safetensors").name == ".unet.safetensors.part"


def test_a_picture_with_a_long_multibyte_name(tmp_path):
    path = tmp_path / ("写" * 83 + ".png")
    pictures.write(pictures.Picture(np.zeros((4, 4), np.uint8)), path)
    assert pictures.read(path).pixels.shape == (4, 4) and names(tmp_path) == [path.name]


def test_an_error_leaves_only_the_old_file(tmp_path):
    target = tmp_path / "a.txt"
    atomic.write_text(target, "old")
    with pytest.raises(ZeroDivisionError), atomic.opened(target) as file:
        file.write(b"new" + bytes(1 // 0))
    assert target.read_text() == "old" and names(tmp_path) == ["a.txt"]
    (tmp_path / "folder").mkdir()
    with pytest.raises(OSError), atomic.opened(tmp_path / "folder") as file:
        file.write(b"a file cannot take a folder's name")
    assert names(tmp_path) == ["a.txt", "folder"]


def test_a_leftover_temporary_file_is_replaced(tmp_path):
    target = tmp_path / "a.txt"
    atomic.part_path(target).write_text("half of a lo")
    atomic.write_text(target, "new")
    assert target.read_text() == "new" and names(tmp_path) == ["a.txt"]
    half = atomic.part_path(tmp_path / "folder")
    half.mkdir()
    (half / "stray").touch()
    with atomic.new_folder(tmp_path / "folder") as part:
        (part / "b").touch()
    assert names(tmp_path / "folder") == ["b"] and names(tmp_path) == ["a.txt", "folder"]


def test_a_folder_is_replaced_only_on_request_and_only_by_a_complete_one(tmp_path):
    folder = tmp_path / "folder"
    folder.mkdir()
    (folder / "precious").touch()
    with pytest.raises(OSError), atomic.new_folder(folder) as part:
        (part / "new").touch()
    with pytest.raises(ZeroDivisionError), atomic.new_folder(folder, overwrite=True) as part:
        (part / "new").write_text(str(1 / 0))
    assert names(folder) == ["precious"] and names(tmp_path) == ["folder"]
    with atomic.new_folder(folder, overwrite=True) as part:
        (part / "new").touch()
    assert names(folder) == ["new"] and names(tmp_path) == ["folder"]


def test_a_folder_that_cannot_be_replaced_stays(tmp_path, monkeypatch):
    folder, replace = tmp_path / "folder", os.replace
    folder.mkdir()
    (folder / "precious").touch()

    def full(source, target):
        if Path(target) == folder and ".part" in str(source):
            raise OSError(errno.ENOSPC, "No space left on device")
        replace(source, target)

    monkeypatch.setattr(os, "replace", full)
    with pytest.raises(OSError, match="No space left"), atomic.new_folder(folder, overwrite=True) as part:
        (part / "new").touch()
    assert names(folder) == ["precious"] and names(tmp_path) == ["folder"]


@pytest.mark.skipif(not Path("/proc/self/fd").exists(), reason="which file a descriptor is of is read from /proc")
def test_files_are_flushed_before_they_are_renamed(tmp_path, monkeypatch):
    (tmp_path / "a.part" / "b").mkdir(parents=True)
    (tmp_path / "a.part" / "b" / "c").write_text("c")
    done, replace, fsync = [], os.replace, os.fsync
    monkeypatch.setattr(os, "fsync", lambda d: done.append(os.readlink(f"/proc/self/fd/{d}")) or fsync(d))
    monkeypatch.setattr(os, "replace", lambda *paths: done.append("renamed") or replace(*paths))
    atomic.rename(tmp_path / "a.part", tmp_path / "a")
    found = [Path(name).relative_to(tmp_path).as_posix() if name != "renamed" else name for name in done]
    assert sorted(found[:3]) == ["a.part", "a.part/b", "a.part/b/c"] and found[3:] == ["renamed", "."]


def test_flushing_a_folder_may_fail_but_flushing_a_file_may_not(tmp_path, monkeypatch):
    fsync = os.fsync

    def refuse(descriptor, *, of_folders: bool):
        if Path(f"/proc/self/fd/{descriptor}").is_dir() == of_folders:
            raise OSError(errno.EINVAL, "Invalid argument")
        fsync(descriptor)

    if not Path("/proc/self/fd").exists():
        pytest.skip("which file a descriptor is of is read from /proc")
    monkeypatch.setattr(os, "fsync", lambda d: refuse(d, of_folders=True))
    atomic.write_text(tmp_path / "a", "a")
    monkeypatch.setattr(os, "fsync", lambda d: refuse(d, of_folders=False))
    with pytest.raises(OSError, match="Invalid argument"):
        atomic.write_text(tmp_path / "b", "b")
    assert names(tmp_path) == ["a"]

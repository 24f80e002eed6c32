"""The reader of webdataset shards, and the expansion of patterns."""

import bz2
import gzip
import tarfile
from pathlib import Path

import pytest
from tars import write_tar

from seada_core.files import shards

MEMBERS = {
    "a/1.jpg": b"photo", "a/1.json": b"{}", "a/1.mask.png": b"mask", "b.c/2.PNG": b"second", "b.c/2.txt": b"words",
    ".hidden.jpg": b"no key", "noname": b"no suffix", "b.c/2.cls": b"7",
}  # fmt: skip


def contents(path: Path) -> list[tuple[str, dict[str, bytes]]]:
    with open(path, "rb") as file:
        found = shards.samples(path)
        return [(key, {n: shards.read_at(file, place) for n, place in members.items()}) for key, members in found]


def test_members_are_grouped_by_their_names_up_to_the_first_dot(tmp_path):
    path = write_tar(tmp_path / "x.tar", MEMBERS)
    assert contents(path) == [
        ("a/1", {"a/1.jpg": b"photo", "a/1.json": b"{}", "a/1.mask.png": b"mask"}),
        ("b.c/2", {"b.c/2.PNG": b"second", "b.c/2.txt": b"words", "b.c/2.cls": b"7"}),
    ]
    assert shards.suffix_of("a/1", "a/1.mask.PNG") == "mask.png"


def test_the_same_groups_as_webdataset(tmp_path):
    wds = pytest.importorskip("webdataset")
    path = write_tar(tmp_path / "x.tar", MEMBERS)
    theirs = [
        {name: value for name, value in sample.items() if name[0] != "_"} | {"key": sample["__key__"]}
        for sample in wds.WebDataset([str(path)], shardshuffle=False)
        if sample["__key__"] != ""
    ]
    ours = [
        {shards.suffix_of(key, name): value for name, value in members.items()} | {"key": key}
        for key, members in contents(path)
    ]
    assert ours == theirs


def until_the_fault(path: Path) -> tuple[list[str], str]:
    """The keys of a shard's readable samples, and the reason of the error."""
    keys = []
    with pytest.raises(shards.ShardError) as fault:
        for key, _ in shards.samples(path):
            keys.append(key)
    assert str(path) in str(fault.value) and fault.value.reason in str(fault.value)
    return keys, fault.value.reason


def three(tmp_path: Path) -> tuple[Path, list[tarfile.TarInfo]]:
    path = write_tar(tmp_path / "x.tar", {f"{k}.png": bytes([k + 1]) * 700 for k in range(3)})
    with tarfile.open(path) as tar:
        return path, tar.getmembers()


def test_a_truncated_shard_gives_its_complete_samples(tmp_path):
    path, members = three(tmp_path)
    whole = path.read_bytes()
    path.write_bytes(whole[: members[2].offset_data + 100])
    assert until_the_fault(path) == (["0", "1"], "2.png is cut off")
    path.write_bytes(whole[: members[2].offset + 100])  # in the middle of a header
    keys, reason = until_the_fault(path)
    assert keys == ["0", "1"] and reason.startswith(f"no member's header at byte {members[2].offset}")
    path.write_bytes(b"")
    assert until_the_fault(path)[0] == []


@pytest.mark.parametrize("hole", [bytes(1024), b"noise" * 200])
def test_a_hole_in_the_middle_is_not_the_end(tmp_path, hole):
    path, members = three(tmp_path)
    with open(path, "r+b") as file:
        file.seek(members[1].offset)
        file.write(hole)
    keys, reason = until_the_fault(path)
    assert keys == ["0"] and f"at byte {members[1].offset}, and data behind it" in reason


def test_files_that_are_not_plain_tars_are_refused(tmp_path):
    path, _ = three(tmp_path)
    for name, packed in (("x.tar.gz", gzip.compress(path.read_bytes())), ("bz.tar", bz2.compress(path.read_bytes()))):
        (tmp_path / name).write_bytes(packed)
        assert until_the_fault(tmp_path / name) == ([], "it is compressed; unpack it to a plain .tar")
    (tmp_path / "text.tar").write_text("no tar")
    assert until_the_fault(tmp_path / "text.tar")[0] == []
    assert until_the_fault(tmp_path / "missing.tar") == ([], "No such file or directory")


@pytest.mark.parametrize(
    "pattern, names",
    [
        ("x.tar", ["x.tar"]),
        ("d-{8..11}.tar", ["d-8.tar", "d-9.tar", "d-10.tar", "d-11.tar"]),
        ("d-{008..011}.tar", ["d-008.tar", "d-009.tar", "d-010.tar", "d-011.tar"]),
        ("d-{000..002}", ["d-000", "d-001", "d-002"]),
        ("d-{2..0}", ["d-2", "d-1", "d-0"]),
        ("{a,b}-{1..2}", ["a-1", "a-2", "b-1", "b-2"]),
        ("x{,.old}", ["x", "x.old"]),
        ("{x}-{}", ["{x}-{}"]),
    ],
)
def test_braces_expand_as_in_bash(pattern, names):
    assert shards.expand_braces(pattern) == names


def test_braces_match_braceexpand():
    braceexpand = pytest.importorskip("braceexpand").braceexpand
    for pattern in ("d-{0..3}.tar", "d-{00..12}.tar", "{train,val}-{000..001}.tar", "{3..1}", "{x}", "a{b,c}d{e,f}"):
        assert shards.expand_braces(pattern) == list(braceexpand(pattern))


def test_shards_of_a_source(tmp_path):
    for name in ("b-1.tar", "b-0.tar", "odd-{0..1}.tar"):
        write_tar(tmp_path / name, {})
    (tmp_path / "pictures").mkdir()
    both = [tmp_path / "b-0.tar", tmp_path / "b-1.tar"]
    assert shards.find(tmp_path) == [*both, tmp_path / "odd-{0..1}.tar"]
    assert shards.find(f"{tmp_path}/b-{{0..1}}.tar") == both
    assert shards.find(f"{tmp_path}/b-1.tar::{tmp_path}/b-0.tar") == both[::-1]
    assert shards.find(f"{tmp_path}/b-1.tar::{tmp_path}") == [both[1], *both, tmp_path / "odd-{0..1}.tar"]
    assert shards.find(tmp_path / "odd-{0..1}.tar") == [tmp_path / "odd-{0..1}.tar"]  # a file of that very name
    assert shards.find(tmp_path / "pictures") == []
    assert shards.find("missing-{1..2}.tar") == [Path("missing-1.tar"), Path("missing-2.tar")]

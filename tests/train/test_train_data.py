"""Sources with faults in them, caches in shares, and epochs that show every picture once."""

import json
import tarfile
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from tars import png, write_tar
from torch.utils.data import DataLoader
from training import encode, write_shards

from seada_core.train.batches import Batches
from seada_core.train.cache import build_shares, join_shares, main
from seada_core.train.data import Cache, Joined, build_cache, cache_recognized, check_captions
from seada_core.train.sources import DataError, Tally, samples


def write_pictures(folder: Path, count: int, captions: bool = True) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    rng = np.random.default_rng(0)
    for i in range(count):
        Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).resize((40, 32)).save(folder / f"{i:03}.png")
        if captions:
            (folder / f"{i:03}.txt").write_text(f"picture {i}")
    return folder


# sources


@pytest.mark.parametrize("shares", [1, 2, 3, 7])
@pytest.mark.parametrize("kind", ["folder", "shards"])
def test_shares_of_a_source_are_disjoint_and_whole(tmp_path, kind, shares):
    source = write_pictures(tmp_path, 14) if kind == "folder" else write_shards(tmp_path, 3, 5)
    keys = [[key for key, _, _ in samples(str(source), k, shares)] for k in range(shares)]
    everything = [key for key, _, _ in samples(str(source))]
    assert len(everything) == len(set(everything)) == (14 if kind == "folder" else 15)
    assert sorted(key for share in keys for key in share) == sorted(everything)
    if kind == "shards" and shares == 3:  # whole tar files
        assert [{key.split("-")[0] for key in share} for share in keys] == [{"0"}, {"1"}, {"2"}]


def test_a_truncated_shard_gives_its_complete_samples(tmp_path):
    write_shards(tmp_path, 2, 6)
    path = tmp_path / "data-000.tar"
    with tarfile.open(path) as tar:
        member = tar.getmember("0-4.png")
    with open(path, "r+b") as file:
        file.truncate(member.offset_data + member.size // 2)
    lines = []
    tally = Tally("shards", lines.append)
    keys = [key for key, _, _ in samples(str(tmp_path), tally=tally)]
    assert keys == [*(f"0-{i}" for i in range(4)), *(f"1-{i}" for i in range(6))]
    assert tally.cut_short == ["data-000.tar"] and "data-000.tar is cut short" in lines[0]
    cache = build_cache(str(tmp_path), tmp_path / "cache", 32, encode, log=lines.append)
    assert len(cache) == 10 and cache.report["cut_short"] == ["data-000.tar"]


def test_unreadable_text_leaves_its_sample_out(tmp_path):
    write_shards(tmp_path, 1, 12)
    write_tar(tmp_path / "data-001.tar", {"bad.png": png(Image.new("RGB", (32, 32))), "bad.json": b"{not json"})
    lines = []
    cache = build_cache(str(tmp_path), tmp_path / "cache", 32, encode, log=lines.append)
    assert len(cache) == 12 and cache.report["left_out"] == 1 and "skipped bad: its text" in lines[0]
    folder = write_pictures(tmp_path / "pictures", 12)
    (folder / "000.txt").write_bytes(b"\xff\xfe\xfa")
    assert len(list(samples(str(folder)))) == 11
    (folder / "metadata.jsonl").write_text('{"file_name": "001.png", "text": "a dog"}\n{"name": 1}\n')
    with pytest.raises(DataError, match=r"metadata.jsonl, line 2: expected"):
        list(samples(str(folder)))


def test_too_many_broken_pictures_stop_early(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 30)
    for i in range(40):
        (folder / f"a{i:03}.png").write_bytes(b"no picture")
        (folder / f"b{i:03}.png").write_bytes((folder / "000.png").read_bytes())
    lines = []
    with pytest.raises(DataError, match="30 pictures could be read and 21 could not"):
        build_cache(str(folder), tmp_path / "cache", 32, encode, log=lines.append)
    assert len(lines) == 20  # one by one at first, then summed up
    empty = tmp_path / "empty"
    write_shards(empty, 1, 0)
    with pytest.raises(DataError, match="no pictures"):
        build_cache(str(empty), tmp_path / "cache2", 32, encode)
    with pytest.raises(DataError, match="multiple of 8 px"):
        build_cache(str(folder), tmp_path / "cache3", 36, encode)


def test_missing_captions_are_counted_or_refused(tmp_path):
    folder = write_pictures(tmp_path / "pictures", 6)
    for i in (1, 4):
        (folder / f"{i:03}.txt").unlink()
    (folder / "005.txt").write_text("  ")
    lines, encoded = [], []
    with pytest.raises(DataError, match=r"3 of 6 pictures of .* have no caption"):
        build_cache(str(folder), tmp_path / "a", 32, encoded.append, log=lines.append, missing_captions="error")
    assert encoded == []  # known before any latent was computed
    cache = build_cache(str(folder), tmp_path / "b", 32, encode, log=lines.append)
    assert any("3 of 6 pictures have no caption" in line for line in lines)
    check_captions(cache, "empty", lines.append)
    assert lines[-1] == "3 of 6 pictures have no caption and train with an empty one"
    with pytest.raises(DataError, match="--missing-captions empty"):
        check_captions(cache, "error")
    (tmp_path / "b" / "report.json").unlink()  # counted from the records where no report was kept
    assert Cache(tmp_path / "b").report["without_captions"] == 3
    assert sorted(Batches(cache, 6, 32, 0)[0].captions) == ["", "", "", "picture 0", "picture 2", "picture 3"]


# shares of a cache


@pytest.fixture(scope="module")
def source(tmp_path_factory) -> Path:
    return write_shards(tmp_path_factory.mktemp("source"), 4, 5)


@pytest.fixture(scope="module")
def shared(source, tmp_path_factory) -> Cache:
    folder = tmp_path_factory.mktemp("caches") / "shared"
    for mine in ([2, 0], [1]):
        build_shares(str(source), folder, 32, lambda: encode, mirror=True, film_share=0.5, shares=3, mine=mine)
    join_shares(folder, 3)
    return Cache(folder)


def test_a_cache_in_shares_holds_what_one_folder_holds(source, shared, tmp_path):
    single = build_cache(str(source), tmp_path / "single", 32, encode, mirror=True)
    assert len(shared) == len(single) == 20 and [len(s) for s in shared.shares] == [10, 5, 5]
    where = {record["key"]: i for i, record in enumerate(single.records)}
    for i, record in enumerate(shared.records):
        j = where[record["key"]]
        assert record == single.records[j]
        assert shared.picture(i).tobytes() == single.picture(j).tobytes()
        assert np.array_equal(shared.latents[i, 0], single.latents[j, 0])
        for view in (0, 1):  # film and mirror, too: the latent belongs to the view
            expected = encode(shared.view(i, view)[None])[0]
            torch.testing.assert_close(
                torch.from_numpy(shared.latents[i, view].astype(np.float32)), expected, atol=1e-3, rtol=0
            )


def test_recognized_maps_of_shares_join(source, tmp_path):
    folder = tmp_path / "shared"
    build_shares(str(source), folder, 32, lambda: encode, shares=3)
    join_shares(folder, 3)
    look = lambda gray: [gray[:, :1, ::8, ::8], gray[:, :1, ::16, ::16]]  # noqa: E731
    half = cache_recognized(Cache(folder), look, mine=slice(0, None, 2))
    assert not half.recognized  # the second share has none yet
    cache = cache_recognized(half, look, mine=slice(1, None, 2))
    batch = Batches(cache, 20, 32, 0)[0]
    gray = (batch.rgb * torch.tensor([0.299, 0.587, 0.114])[:, None, None]).sum(1, keepdim=True)
    for maps, step in zip(batch.recognized, (8, 16)):
        torch.testing.assert_close(maps, gray[..., ::step, ::step], atol=1e-3, rtol=0)


def test_an_epoch_shows_every_picture_once_to_all_processes_and_workers(shared):
    seen = []
    for rank in (0, 1):
        batches = Batches(shared, 4, 32, seed=3, rank=rank, processes=2)
        loader = DataLoader(batches, batch_size=None, sampler=range(5), num_workers=2)
        for batch in loader:
            seen += [shared.records[batches.picture_at(place)]["key"] for place in batch.places]
    assert sorted(seen) == sorted(record["key"] for record in shared.records)


def test_shares_that_are_done_are_left_alone_and_missing_ones_named(source, tmp_path):
    folder, lines = tmp_path / "cache", []
    build_shares(str(source), folder, 32, lambda: encode, shares=2, mine=[0], log=lines.append)
    with pytest.raises(DataError, match="lacks 1 of 2 shares, the first is 1"):
        join_shares(folder, 2)
    before = (folder / "share-00000" / "pictures.bin").stat().st_mtime_ns
    build_shares(str(source), folder, 32, lambda: encode, shares=2, log=lines.append)
    assert (folder / "share-00000" / "pictures.bin").stat().st_mtime_ns == before
    join_shares(folder, 2)
    assert len(Cache(folder)) == 20
    build_shares(str(source), folder, 32, lambda: pytest.fail("nothing is left to encode"), shares=2)
    meta = json.loads((folder / "share-00001" / "cache.json").read_text())
    (folder / "share-00001" / "cache.json").write_text(json.dumps({**meta, "resolution": 64}))
    with pytest.raises(DataError, match="choose another --cache"):
        join_shares(folder, 2)


def test_the_cache_command(source, tmp_path, capsys):
    from diffusers import AutoencoderTiny
    from safetensors.torch import save_file

    state = AutoencoderTiny().encoder.state_dict()
    encoder = tmp_path / "encoder.safetensors"
    save_file({name.removeprefix("layers."): tensor.clone() for name, tensor in state.items()}, encoder)
    command = [f"--data={source}", f"--out={tmp_path / 'c'}", f"--encoder={encoder}", "--resolution=32", "--shares=2"]
    assert main([*command, "--share=0"]) == 0
    assert "lacks 1 of 2 shares" in capsys.readouterr().err
    assert main([*command, "--share=1"]) == 0
    assert len(Cache(tmp_path / "c")) == 20
    assert main([*command, "--share=2"]) == 1
    assert "--share must be 0 to 1" in capsys.readouterr().err


def test_joined_arrays_read_like_one():
    arrays = [np.arange(12).reshape(3, 4), np.arange(100, 108).reshape(2, 4)]
    whole, joined = np.concatenate(arrays), Joined(arrays)
    assert len(joined) == 5
    for i in range(5):
        assert np.array_equal(joined[i], whole[i]) and joined[i, 2] == whole[i, 2]
    assert np.array_equal(joined[[4, 0, 3], [1, 2, 3]], whole[[4, 0, 3], [1, 2, 3]])
    with pytest.raises(IndexError):
        joined[5]


def test_a_batch_larger_than_the_data(shared):
    with pytest.raises(DataError, match="batch 21 is more than the 20 pictures"):
        Batches(shared, 21, 32, 0)

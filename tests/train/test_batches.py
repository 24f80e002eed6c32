"""A batch, its rows and its halves."""

from dataclasses import fields, replace

import torch
from training import make_batch


def pictures(count: int):
    return torch.arange(count, dtype=torch.float32)[:, None, None, None].expand(-1, 3, 16, 16) / count


def test_rows_cut_every_value_alike():
    maps = [torch.arange(4.0).view(4, 1, 1, 1), torch.arange(4.0).view(4, 1, 1, 1) + 10]
    labels = torch.arange(4, dtype=torch.uint8).view(4, 1, 1)
    batch = make_batch(pictures(4), captions=list("abcd"), recognized=maps, labels=labels)
    part = batch.rows(1, 3)
    assert len(part) == 2 and part.captions == ["b", "c"] and part.places == [1, 2]
    assert torch.equal(part.rgb, batch.rgb[1:3]) and torch.equal(part.uniform, batch.uniform[1:3])
    assert [m.flatten().tolist() for m in part.recognized] == [[1, 2], [11, 12]]
    assert batch.rows(0, 2).recognized[0].flatten().tolist() == [0, 1]
    without = replace(batch, recognized=None, labels=None).rows(1, 3)
    assert without.recognized is None and without.labels is None
    assert all(len(getattr(batch.rows(0, 8), of.name)) == 4 for of in fields(batch) if of.name != "recognized")


def test_halves_go_by_the_places_in_the_run():
    """Whichever pictures of a step a process has, those of even places come first."""
    whole = make_batch(pictures(4), captions=list("abcd"), recognized=[torch.arange(4.0)]).in_halves()
    assert whole.places == [0, 2, 1, 3] and whole.captions == list("acbd")
    assert whole.rgb[:, 0, 0, 0].tolist() == [0, 0.5, 0.25, 0.75] and whole.recognized[0].tolist() == [0, 2, 1, 3]
    later = make_batch(pictures(2), places=[5, 6]).in_halves()
    assert later.places == [6, 5] and later.seeds == [2, 1]


def test_moved_pictures_are_channels_last_and_numbers_stay():
    batch = make_batch(pictures(2).contiguous(), recognized=[torch.zeros(2, 4, 3, 3)])
    moved = batch.to("cpu")
    for tensor in (moved.rgb, moved.latent, *moved.recognized):
        assert tensor.is_contiguous(memory_format=torch.channels_last)
    assert torch.equal(moved.rgb, batch.rgb) and torch.equal(moved.uniform, batch.uniform)
    assert (moved.captions, moved.places, moved.seeds) == (batch.captions, batch.places, batch.seeds)

"""Benchmarks that carry claims of the documents: their parts on small inputs."""

import numpy as np
import pytest
from PIL import Image

from benchmarks import contact_sheet


@pytest.fixture(scope="module")
def shard(data_dir):
    return data_dir / "val-000.tar"


def test_contact_sheet_places_every_picture():
    colors = [(250, 0, 0), (0, 250, 0), (0, 0, 250)]
    groups = [[Image.new("RGB", (80, 40), color) for color in colors]] * 5
    sheet = contact_sheet.section("title", groups, thumb=40, columns=2)
    pixels = np.array(sheet)
    gap, width = contact_sheet.GROUP_GAP, 3 * 40 + 2 * contact_sheet.GAP + contact_sheet.GROUP_GAP
    assert sheet.size == (2 * width + gap, contact_sheet.HEADING + 3 * (40 + gap) + gap)
    for color in colors:
        assert (pixels == color).all(-1).sum() == 5 * 40 * 20  # each fitted to 40×20, none covered
    y = contact_sheet.HEADING + 2 * (40 + gap) + 20
    assert tuple(pixels[y, gap + 40 + contact_sheet.GAP + 20]) == colors[1]  # the fifth group's second
    assert (pixels[y, gap + width + 1] == contact_sheet.BACKGROUND).all()
    assert contact_sheet.stack([sheet, sheet]).size == (sheet.width, 2 * sheet.height)
    with pytest.raises(ValueError, match="'empty'"):
        contact_sheet.section("empty", [], thumb=40, columns=2)


def test_contact_sheet_command(shard, tmp_path, capsys):
    chosen = list(contact_sheet.choose(shard, 5, seed=7))
    assert [key for key, _ in chosen] == [key for key, _ in contact_sheet.choose(shard, 5, seed=7)]
    assert [key for key, _ in chosen] != [key for key, _ in contact_sheet.choose(shard, 5, seed=8)]
    for key, truth in chosen:
        truth.save(tmp_path / f"{key}.png")
    arguments = ["--data", str(shard), "--outputs", str(tmp_path), "--count", "5", "--choice-seed", "7"]
    assert contact_sheet.main([*arguments, "--thumb", "64", "--columns", "5", "--out", str(tmp_path / "s.jpg")]) == 0
    sheet = np.array(Image.open(tmp_path / "s.jpg")).astype(int)
    y, x = contact_sheet.HEADING, contact_sheet.GROUP_GAP
    gray, result, truth = (sheet[y : y + 64, x + i * 66 : x + i * 66 + 64] for i in range(3))
    assert np.abs(result - truth).mean() < 6  # the results are the truths here
    assert np.ptp(gray[4:-4, 4:-4], axis=-1).max() < 12
    assert np.ptp(truth, axis=-1).mean() > 12
    (tmp_path / f"{chosen[3][0]}.png").unlink()
    assert contact_sheet.main([*arguments, "--out", str(tmp_path / "s.jpg")]) == 1
    assert chosen[3][0] in capsys.readouterr().err

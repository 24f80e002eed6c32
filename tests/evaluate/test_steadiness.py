"""Steadiness of films, and the evaluation of clips."""

import json

import numpy as np
import pytest
import torch
from films import panning
from PIL import Image
from scipy.stats import entropy

pytest.importorskip("cv2")

from seada_core.color.merging import merge_chroma
from seada_core.evaluate.__main__ import main
from seada_core.evaluate.steadiness import (
    color_distribution_consistency,
    truth_motion,
    warping_error,
)


def film(count: int = 8, flicker: float = 0.0) -> list[torch.Tensor]:
    """A camera that moves over a brown picture, whose colours change from frame to frame."""
    frames = []
    for number, frame in enumerate(panning(count, 64, 96)):
        gray = torch.from_numpy(frame / 255).float()[None]
        chroma = torch.tensor([-0.08, 0.08]) + flicker * torch.tensor([(-1.0) ** number, 0])
        frames.append(merge_chroma(chroma.view(2, 1, 1).expand(2, 64, 96), gray))
    return frames


def test_warping_error_is_what_colours_change_by_along_the_motion():
    motion = truth_motion(film())
    assert all(certain.mean() > 0.9 for _, certain in motion)
    still, changing = warping_error(film(), motion), warping_error(film(flicker=0.02), motion)
    assert still < 1.0
    assert changing > still + 5  # 0.04 of Cb is about 9 in b*
    more = warping_error(film(flicker=0.04), motion)
    assert more - still == pytest.approx(2 * (changing - still), rel=0.3)


def test_cdc_equals_scipys_divergences():
    frames = [(frame * 255).round() / 255 for frame in film(7, flicker=0.03)]
    means = []
    for distance in (1, 2, 4):
        found = []
        for a, b in zip(frames, frames[distance:]):
            for channel in range(3):
                p, q = (
                    np.bincount((x[channel] * 255).round().int().flatten().numpy(), minlength=256) / x[channel].numel()
                    for x in (a, b)
                )
                middle = (p + q) / 2
                found.append((entropy(p, middle) + entropy(q, middle)) / 2)
        means.append(np.mean(found))
    assert color_distribution_consistency(frames) == pytest.approx(1000 * np.mean(means), rel=1e-4)


def test_wrong_numbers_of_frames():
    with pytest.raises(ValueError, match="expected one motion fewer"):
        warping_error(film(4), truth_motion(film(6)))
    with pytest.raises(ValueError, match="give two or more"):
        color_distribution_consistency(film(1))


def test_clips_on_the_command_line(tmp_path, tiny_model, capsys):
    for folder, flicker in (("clips", 0.0), ("theirs", 0.05)):
        (tmp_path / folder / "one").mkdir(parents=True)
        for number, frame in enumerate(film(6, flicker)):
            pixels = (frame * 255).round().to(torch.uint8).permute(1, 2, 0).numpy()
            Image.fromarray(pixels).save(tmp_path / folder / "one" / f"{number:03}.png")
    arguments = ["--clips", tmp_path / "clips", "--model", tiny_model, "--out", tmp_path / "out", "--device", "cpu"]
    arguments += ["--compare", f"theirs={tmp_path / 'theirs'}"]
    assert main(list(map(str, arguments))) == 0
    assert "frame by frame | " in capsys.readouterr().out
    found = json.loads((tmp_path / "out" / "clips.json").read_text())["mean"]
    assert set(found) == {"theirs", "steady", "frame by frame"}
    assert found["theirs"]["warping"] > 3 * found["steady"]["warping"]
    (tmp_path / "theirs" / "one" / "000.png").unlink()
    assert main(list(map(str, arguments))) == 1
    out, err = capsys.readouterr()
    assert "one: 5 frames, but the truth has 6" in out
    assert "none of the clips" in err

"""Curves and previews, with TensorBoard and without."""

import sys

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core.train.curves import Curves

PICTURES = torch.stack([torch.full((3, 4, 6), 0.2), torch.full((3, 4, 6), 1.5)])  # the second one is clipped


def test_with_tensorboard_both_are_in_its_files(tmp_path):
    reader = pytest.importorskip("tensorboard.backend.event_processing.event_accumulator")
    curves = Curves(tmp_path)
    curves.scalars("train", {"loss": 0.5}, 10)
    curves.pictures({"one_step": PICTURES}, 10)
    curves.close()
    found = reader.EventAccumulator(str(tmp_path)).Reload()
    assert [(e.step, e.value) for e in found.Scalars("train/loss")] == [(10, 0.5)]
    assert found.Tags()["images"] == ["validation/one_step"]
    assert not (tmp_path / "previews").exists()


def test_without_it_previews_are_files_and_a_line_says_what_to_install(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "torch.utils.tensorboard", None)
    curves = Curves(tmp_path)
    error = capsys.readouterr().err
    assert error.count("\n") == 1 and "pip install tensorboard" in error and str(tmp_path / "previews") in error
    curves.scalars("train", {"loss": 0.5}, 10)
    curves.pictures({"one_step": PICTURES, "truth": PICTURES[:1]}, 200)
    curves.close()
    assert sorted(path.name for path in tmp_path.rglob("*.*")) == ["one_step-0000200.png", "truth-0000200.png"]
    shown = np.asarray(Image.open(tmp_path / "previews" / "one_step-0000200.png"))
    assert shown.shape == (4, 12, 3) and (shown[:, :6] == 51).all() and (shown[:, 6:] == 255).all()

"""Distances and pictures of text embeddings."""

import json

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core.evaluate import tsne


def test_distances_between_embeddings():
    """Grey one unit aside of colour, each picture alike; refined on the spot: the spread of two points 2 apart is 1."""
    color = torch.tensor([[0.0, 0.0], [2.0, 0.0]])
    points = {"color": color, "gray": color + torch.tensor([0.0, 3.0]), "refined": color.flip(0)}
    found = tsne.distances(points)
    assert found["gray_to_color"] == found["gray_to_color_of_means"] == 3 and found["gray_to_color_about_means"] == 0
    assert found["refined_to_color"] == found["refined_to_color_about_means"] == 2
    assert found["refined_to_color_of_means"] == 0


@pytest.mark.slow
def test_tsne_command(data_dir, tmp_path, capsys):
    pytest.importorskip("sklearn")
    pytest.importorskip("matplotlib")
    out = tmp_path / "tsne.png"
    arguments = ["--data", str(data_dir / "val-000.tar"), "--pictures", "20", "--out", str(out)]
    assert tsne.main(arguments) == 0
    found = json.loads(capsys.readouterr().out)
    assert found["captions"] == 20 and found["gray_to_color"] > 0
    image = np.array(Image.open(out).convert("RGB")).reshape(-1, 3)
    for color in tsne.COLORS.values():  # every kind is in the picture (blended with white)
        wanted = np.array([int(color[k : k + 2], 16) for k in (1, 3, 5)])
        assert (np.abs(image - (0.7 * wanted + 0.3 * 255)).max(1) < 12).any()
    assert tsne.main([*arguments, "--data", str(tmp_path)]) == 1


def test_embeddings_are_of_real_tokens(tiny_model):
    """A caption's mean does not depend on the padding after it; the refined one is the adapter's."""
    from seada_core.pipeline import Colorizer

    colorizer = Colorizer.from_pretrained(str(tiny_model), "cpu")
    e, mask = colorizer.part("semantic_encoder")(["a dog"])
    assert 0 < mask.sum() < mask.shape[1]
    torch.testing.assert_close(tsne.embed(colorizer, ["a dog"], False)[0], e[0][mask[0]].mean(0))
    refined = colorizer.part("semantic_adapter")(e)
    torch.testing.assert_close(tsne.embed(colorizer, ["a dog"], True)[0], refined[0][mask[0]].mean(0))

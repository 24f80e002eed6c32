"""The tool that refits a codebook, against linear decoders and known clusters."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from seada_core.color.spaces import luminance
from seada_core.models.vq_decoder import VQDecoder
from seada_core.presets import CodecConfig
from tools import codebook

SMALL = CodecConfig(codes=8, channels=(8, 12, 16, 24), blocks=(1, 1, 1, 1), gray_channels=(8, 8, 12, 16))


class Linear:
    """A codec whose (Cb, Cr) are a matrix (2, 4) of the latent, the same for all pixels of a cell."""

    def __init__(self, matrix: Tensor):
        self.matrix = matrix

    def chroma(self, z: Tensor, gray: Tensor) -> Tensor:
        return torch.einsum("cd,bdhw->bchw", self.matrix, z).repeat_interleave(8, 2).repeat_interleave(8, 3)


def test_sensitivity_is_the_metric_of_a_linear_decoder():
    torch.manual_seed(0)
    matrix = torch.randn(2, 4)
    z, gray = torch.randn(2, 4, 12, 18), torch.rand(2, 1, 96, 144)
    rgb_of_chroma = torch.tensor([[0.0, 1.402], [-0.344136, -0.714136], [1.772, 0.0]])  # BT.601
    derivative = rgb_of_chroma @ matrix
    assert torch.allclose(codebook.sensitivity(Linear(matrix), z, gray), 64 * derivative.mT @ derivative, rtol=1e-3)


def test_square_root():
    torch.manual_seed(1)
    matrix = torch.randn(4, 6)
    root = codebook.square_root(matrix @ matrix.mT)
    assert torch.allclose(root @ root, matrix @ matrix.mT, atol=1e-4)
    assert torch.allclose(root, root.mT, atol=1e-6)


def test_k_means_finds_clusters_and_leaves_no_centre_without_vectors():
    torch.manual_seed(2)
    true = torch.tensor([[0.0, 0.0], [10.0, 0.0], [0.0, 10.0], [10.0, 10.0]])
    vectors = (true[:, None] + 0.1 * torch.randn(4, 500, 2)).flatten(0, 1)
    found = codebook.k_means(vectors, 16, rounds=30)
    nearest = torch.cdist(vectors, found).min(1)
    assert nearest.values.max() < 1
    assert len(nearest.indices.unique()) == 16


def test_a_fitted_codebook_is_finer_than_a_random_one_and_changes_nothing_else():
    torch.manual_seed(3)
    codec = VQDecoder(SMALL).eval()
    z, rgb = torch.randn(6, 4, 12, 12), torch.rand(6, 3, 96, 96)
    gray = luminance(rgb)
    new = codebook.fit(codec, z, rgb, codes=32, rounds=5)
    with torch.no_grad():
        assert torch.equal(new.chroma(z, gray), codec.chroma(z, gray))
        errors = [
            (c.chroma(c.quantize(z, gray)[0], gray) - c.chroma(z, gray)).square().mean().item() for c in (codec, new)
        ]
    assert errors[1] < 0.5 * errors[0]
    assert new.config.codes == 32


def test_photos_are_cropped_and_small_ones_left_out(tmp_path):
    from PIL import Image

    for i, size in enumerate(((40, 30), (16, 40), (33, 32))):
        Image.new("RGB", size, (10 * i, 0, 0)).save(tmp_path / f"{i}.png")
    crops = codebook.photos(tmp_path, 30, 5)
    assert crops.shape == (2, 3, 30, 30)
    assert [round(float(crop.max()) * 255) for crop in crops] == [0, 20]
    with pytest.raises(ValueError, match="no photo of at least 50 px"):
        codebook.photos(tmp_path, 50, 5)

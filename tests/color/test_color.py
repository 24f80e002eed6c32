"""Colour spaces against scikit-image, colorsys and PIL; the gamut; merging chroma with luminance, tiled and not."""

from __future__ import annotations

import colorsys
import subprocess
import sys
import textwrap
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from skimage import color as skcolor
from skimage.metrics import peak_signal_noise_ratio

from seada_core.color import merging, spaces

CORNERS = np.array([[r, g, b] for r in (0, 1) for g in (0, 1) for b in (0, 1)], dtype=float)


@pytest.fixture(scope="module")
def rgb() -> torch.Tensor:
    values = np.random.default_rng(0).random((24, 16, 3))
    values[0, :8], values[1] = CORNERS, values[1, :, :1]  # the cube's corners; a row of greys
    values[2] *= 0.03  # the linear toes of both curves
    return torch.from_numpy(values).permute(2, 0, 1)


@pytest.fixture(scope="module")
def kodak(data_dir) -> list[np.ndarray]:
    return [np.asarray(Image.open(data_dir / f"test/kodak24/kodim{n:02}.png").convert("RGB")) for n in (2, 3, 14, 23)]


def last(x: torch.Tensor) -> np.ndarray:
    return x.movedim(-3, -1).numpy()


def to_tensor(picture: np.ndarray) -> torch.Tensor:
    return torch.from_numpy(np.array(picture)).permute(2, 0, 1).float() / 255


def test_xyz_and_lab_match_scikit_image(rgb):
    np.testing.assert_allclose(
        last(spaces.linear_to_xyz(spaces.srgb_to_linear(rgb))), skcolor.rgb2xyz(last(rgb)), atol=1e-9
    )
    # scikit-image divides by the rounded white of the tables, which gives greys a tint of up to 0.01.
    np.testing.assert_allclose(last(spaces.rgb_to_lab(rgb)), skcolor.rgb2lab(last(rgb)), atol=0.02)
    np.testing.assert_allclose(last(spaces.xyz_to_lab(rgb)), skcolor.xyz2lab(last(rgb)), atol=0.02)
    assert spaces.rgb_to_lab(rgb)[1:, 1].abs().max() < 1e-9


def test_ycbcr_matches_scikit_image_at_full_range(rgb):
    studio = skcolor.rgb2ycbcr(last(rgb))  # Y in [16, 235], C in [16, 240]
    full = np.stack([(studio[..., 0] - 16) / 219, (studio[..., 1] - 128) / 224, (studio[..., 2] - 128) / 224], -1)
    np.testing.assert_allclose(last(spaces.rgb_to_ycbcr(rgb)), full, atol=2e-5)  # its coefficients have 3 decimals


def test_luminance_and_chroma_match_pil_up_to_rounding(kodak):
    for picture in kodak:
        image = Image.fromarray(picture)
        ycbcr = spaces.rgb_to_ycbcr(to_tensor(picture)) * 255
        assert np.abs(ycbcr[0].numpy() - np.asarray(image.convert("L"))).max() <= 0.51
        assert np.abs(last(ycbcr)[..., 1:] + 128 - np.asarray(image.convert("YCbCr"))[..., 1:]).max() <= 1.01
        assert torch.equal(spaces.luminance(to_tensor(picture)) * 255, ycbcr[:1])


def test_hsl_matches_colorsys(rgb):
    got = last(spaces.rgb_to_hsl(rgb)).reshape(-1, 3)
    expected = np.array([colorsys.rgb_to_hls(*pixel) for pixel in last(rgb).reshape(-1, 3)])[:, [0, 2, 1]]
    turn = np.abs(got - expected)
    turn[:, 0] = np.minimum(turn[:, 0], 1 - turn[:, 0])
    assert turn.max() < 1e-9


@pytest.mark.parametrize("space", ["lab", "ycbcr", "hsl"])
def test_round_trips_and_gradients(rgb, space):
    forth, back = getattr(spaces, f"rgb_to_{space}"), getattr(spaces, f"{space}_to_rgb")
    assert (back(forth(rgb)) - rgb).abs().max() < 1e-6
    assert (back(forth(rgb.float())) - rgb.float()).abs().max() < 1e-5
    leaf = rgb.float().clone().requires_grad_()
    (forth(leaf) ** 2).sum().backward()
    assert leaf.grad.isfinite().all() and leaf.grad.abs().max() > 0
    inner = rgb[:, 8:9, :2].clone().requires_grad_()
    assert torch.autograd.gradcheck(forth, inner)
    assert torch.autograd.gradcheck(back, forth(inner).detach().requires_grad_())


def test_out_of_gamut_lab_extends_beyond_the_unit_range_without_nan():
    lab = torch.tensor([[50.0, 120, -120], [0, -100, 100], [100, 90, 90]]).T[:, None].requires_grad_()
    out = spaces.lab_to_rgb(lab)
    out.sum().backward()
    assert out.isfinite().all() and lab.grad.isfinite().all() and (out.min() < 0) and (out.max() > 1)


def test_gamut_keeps_luma_and_hue_and_is_the_largest_that_fits():
    generator = torch.Generator().manual_seed(1)
    y = torch.rand(1, 1, 60, 60, generator=generator, dtype=torch.float64)
    y[..., 0, :30], y[..., 0, 30:] = 0, 1
    cbcr = torch.rand(1, 2, 60, 60, generator=generator, dtype=torch.float64) - 0.5
    fitted = merging.to_gamut(y, cbcr)
    rgb = spaces.ycbcr_to_rgb(torch.cat([y, fitted], 1))
    assert rgb.min() >= -1e-12 and rgb.max() <= 1 + 1e-12
    assert (spaces.luminance(rgb) - y).abs().max() < 1e-12
    cross = cbcr[:, 0] * fitted[:, 1] - cbcr[:, 1] * fitted[:, 0]
    assert cross.abs().max() < 1e-15 and ((cbcr * fitted).sum(1) >= 0).all()
    # Bisection on "does it fit" finds the same factor.
    low, high = torch.zeros_like(y), torch.ones_like(y)
    for _ in range(50):
        middle = (low + high) / 2
        trial = spaces.ycbcr_to_rgb(torch.cat([y, cbcr * middle], 1))
        fits = ((trial >= -1e-12) & (trial <= 1 + 1e-12)).all(1, keepdim=True)
        low, high = torch.where(fits, middle, low), torch.where(fits, high, middle)
    assert (merging.gamut_scale(y, cbcr) - high).abs().max() < 1e-9
    assert 0.1 < (high > 1 - 1e-9).double().mean() < 0.9


def test_to_gamut_keeps_colours_of_photos(kodak):
    ycbcr = spaces.rgb_to_ycbcr(to_tensor(kodak[0]).double())
    assert (merging.gamut_scale(ycbcr[:1], ycbcr[1:]) > 1 - 1e-6).all()
    y = torch.full((1, 1, 1), 0.9, dtype=torch.float64)
    chroma = torch.tensor([0.3, 0.2], dtype=torch.float64).view(2, 1, 1).requires_grad_()
    assert torch.autograd.gradcheck(merging.to_gamut, (y.requires_grad_(), chroma))


def test_same_size_merge_is_exact(kodak):
    picture = to_tensor(kodak[1])
    assert (merging.merge(picture.double(), spaces.luminance(picture.double())) - picture).abs().max() < 1e-14
    assert (merging.merge(picture, spaces.luminance(picture)) - picture).abs().max() < 1e-5
    np.testing.assert_array_equal(merging.merge_tiled(kodak[1], spaces.luminance(picture)[0].numpy()), kodak[1])
    # Luma rounded to 8 bits pushes colours on the gamut's faces out, and scaling pulls them in; no other may move.
    merged = merging.merge_tiled(kodak[1], np.asarray(Image.fromarray(kodak[1]).convert("L")))
    inside = ((kodak[1] > 0) & (kodak[1] < 255)).all(-1)
    assert np.abs(merged.astype(int) - kodak[1])[inside].max() <= 1
    other = merging.merge(picture, spaces.luminance(to_tensor(kodak[2])))
    assert (spaces.luminance(other) - spaces.luminance(to_tensor(kodak[2]))).abs().max() < 1e-6


@pytest.mark.parametrize(("factor", "at_least"), [(4, 1.2), (16, 1.2)])
def test_guided_chroma_beats_bilinear_and_bicubic(kodak, factor, at_least):
    gains, edges = [], []
    for picture in kodak:
        full = to_tensor(picture)[None]
        gray = spaces.luminance(full)
        low = torch.nn.functional.adaptive_avg_pool2d(full, 500 // factor)
        guided = merging.merge(low, gray)
        for mode in ("bilinear", "bicubic"):
            up = torch.nn.functional.interpolate(low, size=(500, 500), mode=mode)
            plain = merging.merge(up, gray)
            gain = peak_signal_noise_ratio(full.numpy(), guided.numpy(), data_range=1) - peak_signal_noise_ratio(
                full.numpy(), plain.numpy(), data_range=1
            )
            (gains if mode == "bilinear" else edges).append(gain)
    assert np.mean(gains) > at_least and np.mean(edges) > 0


def test_colours_do_not_bleed_over_an_edge():
    # Red on the dark side, blue on the bright side, an edge in the middle of a low-resolution pixel.
    columns = torch.arange(128) >= 60
    gray = torch.where(columns, 0.75, 0.25).expand(1, 1, 128, 128)
    truth = torch.where(columns, torch.tensor([0.1, -0.05]).view(2, 1, 1), torch.tensor([-0.05, 0.15]).view(2, 1, 1))
    truth = truth.expand(2, 128, 128)[None]
    low = torch.nn.functional.adaptive_avg_pool2d(truth, 16)
    near = np.s_[..., 48:72]
    guided = (spaces.rgb_to_ycbcr(merging.merge_chroma(low, gray))[:, 1:] - truth)[near].abs().mean()
    plain = (torch.nn.functional.interpolate(low, size=(128, 128), mode="bilinear") - truth)[near].abs().mean()
    assert guided < plain / 2


@pytest.mark.parametrize("shape", [(1, 1), (1, 9), (37, 1), (200, 333)])
@pytest.mark.parametrize("low", [(1, 1), (3, 2), (25, 40), (300, 500)])
def test_merging_any_two_sizes_keeps_luma(shape, low):
    generator = np.random.default_rng(5)
    chroma = torch.from_numpy(generator.random((2, *low)) - 0.5).float()
    gray = generator.integers(0, 256, shape, dtype=np.uint8)
    merged = merging.merge_tiled(chroma, gray)
    assert merged.shape == (*shape, 3) and merged.dtype == np.uint8
    np.testing.assert_array_equal(np.asarray(Image.fromarray(merged).convert("L")), gray)
    whole = merging.merge_chroma(chroma, torch.from_numpy(gray)[None] / 255)
    assert (spaces.luminance(whole)[0] * 255 - torch.from_numpy(gray)).abs().max() < 1e-3
    assert np.abs(last(whole) * 255 - merged).max() < 0.51


def test_merging_keeps_the_luminance_of_photos(data_dir):
    generator = torch.Generator().manual_seed(2)
    for path in sorted((data_dir / "test/historical").iterdir())[:6]:
        gray = np.asarray(Image.open(path).convert("L"))
        merged = merging.merge_tiled(torch.rand(2, 30, 40, generator=generator) - 0.5, gray)
        assert (np.asarray(Image.fromarray(merged).convert("L")) != gray).mean() < 1e-4


@pytest.mark.parametrize("kind", ["cbcr", "rgb", "float gray"])
def test_tiling_is_bitwise_exact(kind):
    generator = np.random.default_rng(7)
    gray = generator.integers(0, 256, (230, 410), dtype=np.uint8)
    chroma = generator.integers(0, 256, (61, 97, 3), dtype=np.uint8)
    if kind != "rgb":
        chroma = spaces.rgb_to_ycbcr(to_tensor(chroma))[1:]
    if kind == "float gray":
        gray = generator.random((230, 410), dtype=np.float32)
    whole = merging.merge_tiled(chroma, gray, tile=1000)
    for tile in (33, 128):
        np.testing.assert_array_equal(merging.merge_tiled(chroma, gray, tile=tile), whole)


def test_a_batch_equals_single_pictures_and_gradients_flow():
    generator = torch.Generator().manual_seed(3)
    cbcr = (torch.rand(3, 2, 9, 12, generator=generator) - 0.5).requires_grad_()
    gray = torch.rand(3, 1, 30, 50, generator=generator)
    merged = merging.merge_chroma(cbcr, gray)
    for i in range(3):
        assert torch.equal(merging.merge_chroma(cbcr[i], gray[i]), merged[i])
    merged.sum().backward()
    assert cbcr.grad.isfinite().all() and cbcr.grad.abs().max() > 0
    half = merging.merge_chroma(cbcr.detach().half(), gray.half())
    assert half.dtype == torch.float16 and (half - merged).abs().max() < 5e-3


def test_wrong_shapes_are_refused():
    with pytest.raises(ValueError, match=r"expected a \(\.\.\., 3, H, W\) tensor, got shape \(1, 8, 8\)"):
        spaces.luminance(torch.rand(1, 8, 8))
    with pytest.raises(ValueError, match="batches differ"):
        merging.merge_chroma(torch.rand(2, 2, 4, 4), torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match="empty picture"):
        merging.merge_chroma(torch.rand(1, 2, 0, 4), torch.rand(1, 1, 8, 8))
    with pytest.raises(ValueError, match=r"\(H, W\) luminance"):
        merging.merge_tiled(torch.rand(2, 4, 4), np.zeros((8, 8, 3), np.uint8))
    with pytest.raises(ValueError, match="uint8"):
        merging.merge_tiled(np.zeros((4, 4, 3)), np.zeros((8, 8), np.uint8))


def test_threads_that_share_the_tiles_give_the_same_picture(monkeypatch):
    monkeypatch.setattr(merging, "SHARED", 32)  # the side of the photos' tiles from which on it pays
    generator = torch.Generator().manual_seed(4)
    chroma = torch.rand(2, 30, 40, generator=generator) - 0.5
    gray = (torch.rand(160, 200, generator=generator) * 255).to(torch.uint8).numpy()
    before, results = torch.get_num_threads(), []
    try:
        for threads in (1, 3):
            torch.set_num_threads(threads)
            results.append(merging.merge_tiled(chroma, gray, tile=32))
            assert torch.get_num_threads() == threads
    finally:
        torch.set_num_threads(before)
    np.testing.assert_array_equal(*results)


def peak_megabytes(code: str) -> float:
    """Growth of a new process's peak resident memory in MB while `code` runs, after imports and a warm-up merge."""
    program = """
        import resource, numpy as np, torch
        from seada_core.color import merging
        torch.set_num_threads(1)
        merging.merge_tiled(torch.rand(2, 40, 40) - 0.5, np.zeros((1200, 1200), np.uint8))
        peak = lambda: resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
        before = peak()
    """
    program = textwrap.dedent(program) + textwrap.dedent(code) + "\nprint(peak() - before)"
    root = Path(__file__).resolve().parents[2]
    result = subprocess.run([sys.executable, "-c", program], cwd=root, capture_output=True, text=True, check=True)
    return float(result.stdout.strip().splitlines()[-1])


MERGE = """
    gray = np.broadcast_to(np.arange({width}, dtype=np.uint16).astype(np.uint8), ({height}, {width})).copy()
    out = merging.merge_tiled(torch.rand(2, 384, 512) - 0.5, gray)
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_a_large_merge_needs_little_more_memory_than_the_picture():
    height, width = 1500, 4000  # grey in and RGB out: 4 bytes a pixel
    assert peak_megabytes(MERGE.format(height=height, width=width)) < 4 * height * width / 2**20 + 60


@pytest.mark.slow
@pytest.mark.skipif(sys.platform == "win32", reason="needs the resource module")
def test_merging_100_megapixels_needs_little_more_memory_than_the_picture():
    height, width = 8_000, 12_500
    assert peak_megabytes(MERGE.format(height=height, width=width)) < 4 * height * width / 2**20 + 60

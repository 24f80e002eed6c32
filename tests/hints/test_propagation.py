"""Propagation against a dense solve of a matrix built pixel by pixel."""

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core.hints import propagation
from seada_core.hints.propagation import propagate


def dense(gray, hint_map, guide, sigma_y, sigma_c, prior):
    height, width = gray.shape
    n = height * width
    laplacian = np.zeros((n, n))
    for y in range(height):
        for x in range(width):
            for dy in (-1, 0, 1):
                for dx in (-1, 0, 1):
                    v, u = y + dy, x + dx
                    if (dy or dx) and 0 <= v < height and 0 <= u < width:
                        exponent = (gray[y, x] - gray[v, u]) ** 2 / (2 * sigma_y**2)
                        if guide is not None:
                            exponent += ((guide[:, y, x] - guide[:, v, u]) ** 2).sum() / (2 * sigma_c**2)
                        w = max(np.exp(-exponent), 1e-4)
                        laplacian[y * width + x, y * width + x] += w
                        laplacian[y * width + x, v * width + u] -= w
    data = 100 * hint_map[2].ravel()
    chroma = [np.linalg.solve(laplacian + np.diag(data), data * hint_map[c].ravel()) for c in (0, 1)]
    confidence = np.linalg.solve(laplacian + np.diag(data + prior / n), data)
    return np.array(chroma).reshape(2, height, width), confidence.reshape(height, width)


def scene(height, width, seed, hints=6):
    rng = np.random.default_rng(seed)
    y, x = np.mgrid[:height, :width]
    gray = 0.3 + 0.4 * (x + 0.4 * y > width / 2) + 0.05 * np.sin(x / 3) + rng.normal(0, 0.02, (height, width))
    hint_map = np.zeros((3, height, width))
    for _ in range(hints):
        i, j = rng.integers(height), rng.integers(width)
        hint_map[:, i, j] = *rng.uniform(-0.4, 0.4, 2), rng.uniform(0.3, 1)
    return gray, hint_map, rng.uniform(-0.1, 0.1, (2, height, width))


@pytest.mark.parametrize("size", [(9, 11), (23, 37), (1, 40), (32, 32), (1, 1)])
@pytest.mark.parametrize("guided", [False, True])
def test_it_solves_the_dense_system(size, guided):
    gray, hint_map, guide = scene(*size, seed=sum(size))
    guide = guide if guided else None
    tensors = [None if a is None else torch.tensor(a)[None] for a in (gray[None], hint_map, guide)]
    chroma, confidence = propagate(*tensors, sigma_y=0.05, sigma_c=0.08, prior=3.0, tolerance=1e-9)
    expected = dense(gray, hint_map, guide, 0.05, 0.08, 3.0)
    np.testing.assert_allclose(chroma[0], expected[0], atol=1e-6)
    np.testing.assert_allclose(confidence[0, 0], expected[1], atol=1e-6)


def test_the_defaults_are_near_the_dense_solution_in_single_precision():
    gray, hint_map, _ = scene(36, 40, seed=3, hints=12)
    chroma, confidence = propagate(torch.tensor(gray)[None, None].float(), torch.tensor(hint_map)[None].float())
    expected = dense(gray, hint_map, None, 0.04, 0.05, 4.0)
    assert np.abs(chroma[0].numpy() - expected[0]).mean() < 0.002  # half a step of 8 bits
    assert np.abs(confidence[0, 0].numpy() - expected[1]).mean() < 0.02


def test_white_noise_the_worst_case_converges():
    generator = torch.Generator().manual_seed(0)
    gray = torch.rand(1, 1, 33, 26, generator=generator, dtype=torch.float64)
    hints = torch.zeros(1, 3, 33, 26, dtype=torch.float64)
    hints[0, :, 5, 5] = torch.tensor([0.3, -0.2, 1.0])
    hints[0, :, 25, 20] = torch.tensor([-0.3, 0.1, 1.0])
    chroma, confidence = propagate(gray, hints, tolerance=1e-10)
    expected = dense(gray[0, 0].numpy(), hints[0].numpy(), None, 0.04, 0.05, 4.0)
    np.testing.assert_allclose(chroma[0], expected[0], atol=1e-5)
    np.testing.assert_allclose(confidence[0, 0], expected[1], atol=1e-5)


def test_no_hints_give_zeros_and_a_batch_equals_single_pictures():
    pictures = [scene(40, 44, seed) for seed in (1, 2, 3)]
    gray = torch.tensor(np.stack([p[0][None] for p in pictures])).float()
    hints = torch.tensor(np.stack([p[1] for p in pictures])).float()
    hints[1] = 0
    chroma, confidence = propagate(gray, hints)
    assert not chroma[1].any() and not confidence[1].any()
    for i in range(3):
        alone = propagate(gray[i : i + 1], hints[i : i + 1])
        assert torch.equal(chroma[i], alone[0][0]) and torch.equal(confidence[i], alone[1][0])


def test_colour_stays_within_its_edges_and_confidence_falls_across_them():
    gray = torch.full((1, 1, 64, 64), 0.3)
    gray[..., 32:] = 0.7
    hints = torch.zeros(1, 3, 64, 64)
    hints[0, :, 30, 10] = torch.tensor([0.2, -0.1, 1.0])
    chroma, confidence = propagate(gray, hints, tolerance=1e-5)
    assert confidence[0, 0, 30, 10] > 0.97
    assert confidence[..., :32].min() > 0.2 > 10 * confidence[..., 32:].max()
    hints[0, :, 30, 50] = torch.tensor([-0.2, 0.3, 1.0])
    chroma, _ = propagate(gray, hints, tolerance=1e-5)
    assert (chroma[0, :, :, :32] - torch.tensor([0.2, -0.1]).view(2, 1, 1)).abs().max() < 0.01
    assert (chroma[0, :, :, 32:] - torch.tensor([-0.2, 0.3]).view(2, 1, 1)).abs().max() < 0.01


def test_propagation_brings_a_photo_nearer_to_its_colours(data_dir):
    from seada_core.color.spaces import luminance, rgb_to_ycbcr
    from seada_core.hints.maps import hint_map_from_picture

    generator = torch.Generator().manual_seed(0)
    for name in ("kodim03.png", "kodim23.png"):
        picture = Image.open(data_dir / "test" / "kodak24" / name).convert("RGB").resize((192, 192))
        rgb = torch.tensor(np.array(picture)).permute(2, 0, 1)[None] / 255
        mask = torch.zeros(1, 1, 192 * 192)
        mask[..., torch.randperm(192 * 192, generator=generator)[:40]] = 1
        mask = mask.view(1, 1, 192, 192)
        truth = rgb_to_ycbcr(rgb)[:, 1:]
        chroma, confidence = propagate(luminance(rgb), hint_map_from_picture(rgb, mask))
        error = (chroma - truth).square().sum(1, keepdim=True)
        assert error.mean() < 0.6 * truth.square().sum(1).mean()
        median = confidence.median()
        assert error[confidence > median].mean() < error[confidence <= median].mean()


def test_mismatched_shapes_are_refused():
    gray = torch.zeros(1, 1, 8, 8)
    with pytest.raises(ValueError, match=r"hint_map has shape \(1, 3, 8, 9\); expected \(1, 3, 8, 8\)"):
        propagate(gray, torch.zeros(1, 3, 8, 9))
    with pytest.raises(ValueError, match="guide has shape"):
        propagate(gray, torch.zeros(1, 3, 8, 8), torch.zeros(1, 3, 8, 8))


def system(gray, mask):
    weights = tuple((-0.5 * (a - b).square()).exp().clamp_min(1e-4) for a, b in propagation._edges(gray / 0.04))
    return weights, 100 * mask


@pytest.mark.parametrize("size", [(20, 27), (15, 16), (1, 130), (140, 1)])
def test_a_coarse_grid_s_matrix_is_the_galerkin_product(size):
    gray, hint_map, _ = scene(*size, seed=4)
    weights, data = system(torch.tensor(gray)[None, None], torch.tensor(hint_map)[None, 2:])
    (fine, coarse, *_), _ = propagation._hierarchy(weights, data, 4.0)

    def matrix(level, channel=0):
        unit = torch.eye(level.diagonal[0, 0].numel(), dtype=torch.float64)
        unit = unit.view(-1, 1, *level.diagonal.shape[-2:])
        return propagation._multiply(level.weights, level.diagonal[:, channel : channel + 1], unit).flatten(1)

    n = coarse.diagonal[0, 0].numel()
    unit = torch.eye(n, dtype=torch.float64).view(n, 1, *coarse.diagonal.shape[-2:])
    p = propagation._prolong(fine.interpolation, unit, torch.zeros(n, 1, *size, dtype=torch.float64)).flatten(1)
    torch.testing.assert_close(matrix(coarse), p @ matrix(fine) @ p.T)
    # restriction is the transpose; a constant stays one where no hint pulls, and nothing is extrapolated
    x = torch.rand(1, 1, *size, dtype=torch.float64)
    torch.testing.assert_close(propagation._restrict(fine.interpolation, x).flatten(), p @ x.flatten())
    assert p.min() >= 0 and p.sum(0).max() < 1 + 1e-9
    assert (p.sum(0) - 1).abs()[data.flatten() == 0].median() < 1e-9


@pytest.mark.parametrize("noise", [0.02, 1.0])
def test_the_multigrid_cycle_is_a_symmetric_positive_preconditioner(noise):
    gray, hint_map, _ = scene(20, 27, seed=4)
    gray = torch.tensor(gray + noise * np.random.default_rng(0).normal(size=gray.shape))[None, None]
    weights, data = system(gray, torch.tensor(hint_map)[None, 2:])
    levels, inverse = propagation._hierarchy(weights, data, 4.0)
    columns = []
    for i in range(20 * 27):
        unit = torch.zeros(1, 3, 20 * 27, dtype=torch.float64)
        unit[..., i] = 1
        columns.append(propagation._cycle(levels, inverse, unit.view(1, 3, 20, 27))[0, ::2].flatten(1))
    for matrix in torch.stack(columns).unbind(1):  # of chroma and of confidence
        # floating-point sums in another order: symmetric to within rounding of its largest entries
        assert (matrix - matrix.T).abs().max() < 1e-6 * matrix.abs().max()
        assert torch.linalg.eigvalsh((matrix + matrix.T) / 2).min() > 0


def extreme_cases():
    generator = torch.Generator().manual_seed(0)
    noise, mask = torch.rand(1, 1, 60, 70, generator=generator), torch.rand(1, 1, 60, 70, generator=generator)
    point = torch.zeros_like(mask)
    point[..., 31, 17] = 1
    return {
        "point on noise": (noise, point),
        "point on a constant": (torch.full_like(noise, 0.5), point),
        "faint point": (torch.full_like(noise, 0.5), 1e-6 * point),
        "point on a checkerboard": ((torch.arange(60)[:, None] + torch.arange(70)).view(1, 1, 60, 70) % 2 * 1.0, point),
        "point on stripes": ((torch.arange(70) % 2 * 1.0).expand(1, 1, 60, 70), point),
        "every pixel": (noise, torch.ones_like(mask)),
        "a fractional mask": (noise, mask),
        "thousands of points": (noise, (mask > 0.4).float()),
        "a line": (noise.view(1, 1, 1, -1), mask.view(1, 1, 1, -1)),
        "a column": (noise.view(1, 1, -1, 1), point.view(1, 1, -1, 1)),
    }


@pytest.mark.parametrize("name", extreme_cases())
def test_extreme_cases_agree_with_scipy_in_single_precision(name):
    from benchmarks.speed.hints import direct

    gray, mask = extreme_cases()[name]
    chroma = torch.rand(1, 2, *gray.shape[-2:], generator=torch.Generator().manual_seed(1)) - 0.5
    hints = torch.cat([chroma * mask.sign(), mask], dim=1)
    result = torch.cat(propagate(gray, hints, tolerance=1e-4), dim=1)[0].double().numpy()
    expected = direct(gray[0, 0].double().numpy(), hints[0].double().numpy())
    # a chain of 4200 pixels decides the colour there: single precision barely resolves it
    bound = 0.12 if name == "a column" else 0.005
    assert np.abs(result - expected).mean() < bound


def test_a_picture_that_single_precision_cannot_solve_is_solved_in_double():
    gray, mask = extreme_cases()["point on stripes"]
    hints = torch.cat([torch.full_like(mask, 0.3), torch.full_like(mask, -0.2), torch.ones_like(mask)], dim=1) * mask
    chroma, _ = propagate(gray, hints, tolerance=1e-5)
    assert chroma.dtype == torch.float32
    # a single hint's colour is the colour everywhere
    assert (chroma - torch.tensor([0.3, -0.2]).view(1, 2, 1, 1)).abs().max() < 1e-3

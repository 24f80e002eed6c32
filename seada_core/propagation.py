"""Hint propagation: chroma spreads from hints over regions of similar luminance, with a confidence.

Colorization using optimization (Levin, Lischinski and Weiss 2004) on a symmetric graph Laplacian, solved by conjugate
gradients with an aggregation multigrid preconditioner (Braess 1995).
"""

from __future__ import annotations

from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HINT_WEIGHT = 100.0  # data term of a hint of mask 1; the edge between two equal pixels weighs 1
MIN_EDGE = 1e-4  # keeps the graph connected across the strongest edges
DAMPING = 0.7  # of the Jacobi smoother
OVERCORRECTION = 0.6  # piecewise-constant aggregates overrate the energy of smooth functions by up to 2 per level
DIRECT_SIZE = 256  # unknowns below which a level is solved by its dense inverse
MAX_ITERATIONS = 1000  # far above what photos need (10 to 20); white noise solved to 1e-9 takes hundreds


class _Level(NamedTuple):
    """One grid: edge weights in the order of `_edges`, the diagonal and its excess over the Laplacian's."""

    weights: tuple[Tensor, ...]  # each (1, 1, h or h-1, w or w-1)
    excess: Tensor  # (1, 3, h, w)
    diagonal: Tensor  # (1, 3, h, w)
    smoother: Tensor  # DAMPING / diagonal


def propagate(
    gray: Tensor,
    hint_map: Tensor,
    guide: Tensor | None = None,
    *,
    sigma_y: float = 0.04,
    sigma_c: float = 0.05,
    prior: float = 4.0,
    tolerance: float = 2e-3,
) -> tuple[Tensor, Tensor]:
    """Chroma and confidence everywhere from the hints of `hint_map`.

    Minimises, over all pairs (r, s) of 8-neighbours and for hints of chroma h_r and mask m_r,

        sum_rs w_rs |c_r - c_s|^2 + HINT_WEIGHT sum_r m_r |c_r - h_r|^2,
        w_rs = exp(-(Y_r - Y_s)^2 / (2 sigma_y^2) - |g_r - g_s|^2 / (2 sigma_c^2)), at least MIN_EDGE.

    (Cb, Cr) are averaged as a vector, so that hues mix without passing through unrelated ones. The confidence solves
    the same system with hints of value 1 and a prior of 0 whose weight, `prior` over the whole picture, does not depend
    on resolution: it is 1 at hints and falls with distance and across edges. Each picture is solved by itself.

    gray: (B, 1, H, W) in [0, 1]. hint_map: (B, 3, H, W), (Cb, Cr, mask). guide: (B, 2, H, W) chroma that hints follow
    besides luminance, such as a model's own colours. tolerance: energy norm of the residual, relative to the first.
    Returns chroma (B, 2, H, W) and confidence (B, 1, H, W) in [0, 1]; both are 0 for a picture without hints.
    Raises ValueError if shapes do not match.
    """
    expected = {"gray": (gray, 1), "hint_map": (hint_map, 3)} | ({} if guide is None else {"guide": (guide, 2)})
    for name, (tensor, channels) in expected.items():
        shape = (gray.shape[0], channels, *gray.shape[-2:])
        if tensor.shape != shape:
            raise ValueError(f"{name} has shape {tuple(tensor.shape)}; expected {shape}, the size of the grey picture")
    dtype = torch.promote_types(gray.dtype, torch.float32)
    features = gray.to(dtype) / sigma_y
    if guide is not None:
        features = torch.cat([features, guide.to(dtype) / sigma_c], dim=1)
    solution = torch.zeros_like(hint_map, dtype=dtype)
    for i in range(len(gray)):
        hints = hint_map[i : i + 1].to(dtype)
        mask = hints[:, 2:]
        if not mask.any():
            continue
        weights = tuple(
            (-0.5 * (a - b).square().sum(1, keepdim=True)).exp().clamp_min(MIN_EDGE)
            for a, b in _edges(features[i : i + 1])
        )
        data = HINT_WEIGHT * mask
        excess = torch.cat([data, data, data + prior / mask.numel()], dim=1)
        values = torch.cat([hints[:, :2], torch.ones_like(mask)], dim=1)
        solution[i : i + 1] = _solve(_hierarchy(weights, excess), data * values, tolerance)
    solution = solution.to(gray.dtype)
    return solution[:, :2].clamp(-0.5, 0.5), solution[:, 2:].clamp(0, 1)


def _edges(x: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Views of the two ends of every edge: to the right, down, down and right, down and left."""
    return (
        (x[..., :-1], x[..., 1:]),
        (x[..., :-1, :], x[..., 1:, :]),
        (x[..., :-1, :-1], x[..., 1:, 1:]),
        (x[..., :-1, 1:], x[..., 1:, :-1]),
    )


def _level(weights: tuple[Tensor, ...], excess: Tensor) -> _Level:
    diagonal = excess.clone()
    for weight, (a, b) in zip(weights, _edges(diagonal)):
        a += weight
        b += weight
    return _Level(weights, excess, diagonal, DAMPING / diagonal)


def _residual(level: _Level, x: Tensor, b: Tensor) -> Tensor:
    """b - A x."""
    r = torch.addcmul(b, level.diagonal, x, value=-1)
    for weight, (ra, rb), (xa, xb) in zip(level.weights, _edges(r), _edges(x)):
        ra.addcmul_(weight, xb)
        rb.addcmul_(weight, xa)
    return r


def _pool(x: Tensor) -> Tensor:
    """Sums over 2x2 blocks; an odd last row or column is a block of its own."""
    height, width = x.shape[-2:]
    if height % 2 or width % 2:
        x = F.pad(x, (0, width % 2, 0, height % 2))
    rows = x[..., ::2, :] + x[..., 1::2, :]
    return rows[..., ::2] + rows[..., 1::2]


def _spread(x: Tensor, size: torch.Size) -> Tensor:
    """The transpose of `_pool`: every pixel takes its block's value."""
    height, width = x.shape[-2:]
    wide = x.new_empty(*x.shape[:-1], 2 * width)
    wide[..., ::2] = x
    wide[..., 1::2] = x
    tall = x.new_empty(*x.shape[:-2], 2 * height, 2 * width)
    tall[..., ::2, :] = wide
    tall[..., 1::2, :] = wide
    return tall[..., : size[0], : size[1]]


def _coarsen(level: _Level) -> _Level:
    """The Galerkin operator of 2x2 aggregates: again an 8-neighbour graph."""
    height, width = ((n + 1) // 2 for n in level.excess.shape[-2:])
    right, down, right_down, left_down = (
        F.pad(w, (0, 2 * width - w.shape[-1], 0, 2 * height - w.shape[-2])) for w in level.weights
    )
    diagonals = right_down + left_down
    coarse = (
        right[..., ::2, 1::2] + right[..., 1::2, 1::2] + diagonals[..., ::2, 1::2],
        down[..., 1::2, ::2] + down[..., 1::2, 1::2] + diagonals[..., 1::2, ::2],
        right_down[..., 1::2, 1::2],
        left_down[..., 1::2, 1::2],
    )
    weights = tuple(
        (OVERCORRECTION * w[..., : a.shape[-2], : a.shape[-1]]).contiguous()
        for w, (a, _) in zip(coarse, _edges(level.excess.new_empty(1, 1, height, width)))
    )
    return _level(weights, _pool(level.excess))


def _hierarchy(weights: tuple[Tensor, ...], excess: Tensor) -> tuple[list[_Level], Tensor]:
    """The grids from finest to coarsest, and the coarsest one's dense inverse (3, n, n)."""
    levels = [_level(weights, excess)]
    while levels[-1].excess[0, 0].numel() > DIRECT_SIZE:
        levels.append(_coarsen(levels[-1]))
    coarsest = levels[-1]
    height, width = coarsest.excess.shape[-2:]
    n = height * width
    laplacian = _level(coarsest.weights, torch.zeros_like(coarsest.excess[:, :1]))
    unit = torch.eye(n, dtype=excess.dtype, device=excess.device).view(n, 1, height, width)
    dense = -_residual(laplacian, unit, torch.zeros_like(unit)).view(n, n) + torch.diag_embed(
        coarsest.excess.view(3, n)
    )
    # in double precision: a point hint and a weak prior lie many orders of magnitude apart
    inverse = torch.linalg.inv(dense.cpu().double())
    return levels, inverse.to(dense)


def _cycle(levels: list[_Level], inverse: Tensor, b: Tensor) -> Tensor:
    """One multigrid cycle for A x = b from x = 0; a symmetric positive definite preconditioner."""
    if len(levels) == 1:
        return (inverse @ b.view(3, -1, 1)).view_as(b)
    level, coarser = levels[0], levels[1:]
    x = level.smoother * b
    coarse_b = _pool(_residual(level, x, b))
    correction = _cycle(coarser, inverse, coarse_b)
    if len(coarser) > 1:  # a W-cycle: the coarse grids cost little and carry colours far
        correction += _cycle(coarser, inverse, _residual(coarser[0], correction, coarse_b))
    x += _spread(correction, b.shape[-2:])
    return x.addcmul_(level.smoother, _residual(level, x, b))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a.flatten(2), b.flatten(2))[..., None, None]


def _solve(hierarchy: tuple[list[_Level], Tensor], b: Tensor, tolerance: float) -> Tensor:
    """Preconditioned conjugate gradients for the three channels of b (1, 3, H, W) side by side."""
    levels, inverse = hierarchy
    x, r, direction = torch.zeros_like(b), b, torch.zeros_like(b)
    energy = first = None
    tiny = torch.finfo(b.dtype).tiny  # a grey hint has zero chroma: 0/0 must be 0
    for _ in range(MAX_ITERATIONS):
        z = _cycle(levels, inverse, r)
        previous, energy = energy, _dot(r, z)
        first = energy if first is None else first
        if (energy <= tolerance**2 * first).all():
            break
        direction = z if previous is None else z.addcmul_(direction, energy / previous.clamp_min(tiny))
        product = -_residual(levels[0], direction, torch.zeros_like(b))
        step = energy / _dot(direction, product).clamp_min(tiny)
        x.addcmul_(direction, step)
        r = torch.addcmul(r, product, step, value=-1)
    return x

"""Hint propagation: chroma spreads from hints over regions of similar luminance, with a confidence.

Colorization using optimization (Levin, Lischinski and Weiss 2004) on a symmetric graph Laplacian, solved by conjugate
gradients with a multigrid preconditioner whose interpolation follows the picture's edges (Dendy 1982, Black box
multigrid).
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import torch
import torch.nn.functional as F
from torch import Tensor

HINT_WEIGHT = 100.0  # data term of a hint of mask 1; the edge between two equal pixels weighs 1
MIN_EDGE = 1e-4  # keeps the graph connected across the strongest edges
DAMPING = 0.8  # of the Jacobi smoother
DIRECT_SIZE = 100  # unknowns up to which a level is solved by its dense inverse
MOST_CONDITION = 1e5  # beyond it double precision is used
MAX_ITERATIONS = 1000  # far above what photos need (5 to 10); white noise solved to 1e-9 takes hundreds


class _Level(NamedTuple):
    """One grid: the matrix (diagonal, minus the weights of the edges), and the interpolation from the next coarser."""

    weights: tuple[Tensor, ...]  # in the order of `_edges`, each (1, 1, h or h-1, w or w-1)
    diagonal: Tensor  # (1, 3, h, w)
    smoother: Tensor  # (1, 3, h, w)
    interpolation: tuple[Tensor, ...]  # in the order of `_parents`; none on the coarsest grid


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
    on resolution: it is 1 at hints and falls with distance and across edges. Each picture is solved separately.

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
        if hint_map[i, 2].any():
            picture, hints = features[i : i + 1], hint_map[i : i + 1].to(dtype)
            # by all edges' weight over the hints', about the condition number, which single precision does not resolve
            sound = 8 * picture[0, 0].numel() <= MOST_CONDITION * HINT_WEIGHT * float(hints[:, 2].sum())
            if sound:
                single, sound = _propagate(picture, hints, prior, tolerance)
            if not sound:  # or rounding errors, as where one point determines wide areas through the weakest edges
                single, _ = _propagate(picture.cpu().double(), hints.cpu().double(), prior, tolerance)
            solution[i : i + 1] = single
    solution = solution.to(gray.dtype)
    return solution[:, :2].clamp(-0.5, 0.5), solution[:, 2:].clamp(0, 1)


def _propagate(features: Tensor, hints: Tensor, prior: float, tolerance: float) -> tuple[Tensor, bool]:
    """The solution (1, 3, H, W) for one picture, and whether its precision suffices."""
    weights = tuple(
        (-0.5 * (a - b).square().sum(1, keepdim=True)).exp().clamp_min(MIN_EDGE) for a, b in _edges(features)
    )
    mask = hints[:, 2:]
    data = HINT_WEIGHT * mask
    values = torch.cat([hints[:, :2], torch.ones_like(mask)], dim=1)
    return _solve(*_hierarchy(weights, data, prior), data * values, tolerance)


def _edges(x: Tensor) -> tuple[tuple[Tensor, Tensor], ...]:
    """Views of the two ends of every edge: to the right, down, down and right, down and left."""
    return (
        (x[..., :-1], x[..., 1:]),
        (x[..., :-1, :], x[..., 1:, :]),
        (x[..., :-1, :-1], x[..., 1:, 1:]),
        (x[..., :-1, 1:], x[..., 1:, :-1]),
    )


def _degree(weights: Sequence[Tensor], like: Tensor) -> Tensor:
    """The sum of the weights of each pixel's edges."""
    degree = torch.zeros_like(like)
    for weight, (a, b) in zip(weights, _edges(degree)):
        a += weight
        b += weight
    return degree


def _multiply(weights: Sequence[Tensor], diagonal: Tensor, x: Tensor) -> Tensor:
    """A x."""
    y = diagonal * x
    for weight, (ya, yb), (xa, xb) in zip(weights, _edges(y), _edges(x)):
        ya.addcmul_(weight, xb, value=-1)
        yb.addcmul_(weight, xa, value=-1)
    return y


def _parents(fine: Tensor, coarse: Tensor) -> list[tuple[Tensor, Tensor]]:
    """Views of pixels and of the coarse pixels that they take their values from.

    The coarse grid is every second row and column. Its own pixels have one parent; others on its rows a left and a
    right one, on its columns an upper and a lower one; the rest the four around them, row by row.
    """
    height, width = coarse.shape[-2:]
    pairs = []
    for top in (0, 1):
        for left in (0, 1):
            pixels = fine[..., top::2, left::2]
            rows, columns = pixels.shape[-2:]
            for dy in range(top + 1):
                for dx in range(left + 1):
                    child = pixels[..., : height - dy, : width - dx]
                    pairs.append((child, coarse[..., dy : dy + rows, dx : dx + columns]))
    return pairs


def _coarse_size(fine: Tensor) -> tuple[int, int]:
    return (fine.shape[-2] + 1) // 2, (fine.shape[-1] + 1) // 2


def _prolong(interpolation: tuple[Tensor, ...], coarse: Tensor, fine: Tensor) -> Tensor:
    """`fine` plus the interpolated `coarse`, in place."""
    for weight, (child, parent) in zip(interpolation, _parents(fine, coarse)):
        child.addcmul_(weight, parent)
    return fine


def _restrict(interpolation: tuple[Tensor, ...], fine: Tensor) -> Tensor:
    """The transpose of `_prolong`."""
    coarse = fine.new_zeros(*fine.shape[:-2], *_coarse_size(fine))
    for weight, (child, parent) in zip(interpolation, _parents(fine, coarse)):
        parent.addcmul_(weight, child)
    return coarse


def _interpolation(weights: tuple[Tensor, ...], diagonal: Tensor) -> tuple[Tensor, ...]:
    """Dendy's interpolation for the matrix, in the order of `_parents`.

    A pixel takes the value that balances its edges. A pixel between two coarse pixels adds up the three edges on either
    side and ignores those within its own row or column.
    """
    # Coarse matrices can have slightly negative weights: ignoring them keeps interpolation between 0 and 1.
    right, down, right_down, left_down = (weight.clamp_min(0) for weight in weights)
    excess = (diagonal - _degree(weights, diagonal)).clamp_min_(0)
    e, w = F.pad(right, (0, 1)), F.pad(right, (1, 0))
    s, n = F.pad(down, (0, 0, 0, 1)), F.pad(down, (0, 0, 1, 0))
    se, nw = F.pad(right_down, (0, 1, 0, 1)), F.pad(right_down, (1, 0, 1, 0))
    sw, ne = F.pad(left_down, (1, 0, 0, 1)), F.pad(left_down, (0, 1, 1, 0))

    tiny = torch.finfo(diagonal.dtype).tiny
    west, east, north, south = nw + w + sw, ne + e + se, nw + n + ne, sw + s + se
    total = (excess + west + east + n + s).clamp_min_(tiny)
    across, along = (excess + west + east).clamp_min_(tiny), (excess + north + south).clamp_min_(tiny)
    west, east, north, south = west / across, east / across, north / along, south / along
    # a pixel off the coarse rows and columns reaches its parents through the pixels beside it as well
    above, below = (lambda x: F.pad(x, (0, 0, 1, -1))), (lambda x: F.pad(x, (0, 0, -1, 1)))
    before, after = (lambda x: F.pad(x, (1, -1))), (lambda x: F.pad(x, (-1, 1)))
    shares = [
        torch.ones_like(diagonal),
        west,
        east,
        north,
        south,
        (nw + n * above(west) + w * before(north)) / total,
        (ne + n * above(east) + e * after(north)) / total,
        (sw + s * below(west) + w * before(south)) / total,
        (se + s * below(east) + e * after(south)) / total,
    ]
    coarse = diagonal.new_empty(1, 1, *_coarse_size(diagonal))
    return tuple(_parents(share, coarse)[i][0].contiguous() for i, share in enumerate(shares))


def _coarsen(level: _Level) -> tuple[tuple[Tensor, ...], Tensor]:
    """Weights and chroma's diagonal (1, 1, h, w) of the Galerkin matrix P' A P, again of an 8-neighbour graph.

    Its entries are read off its products with nine grids of ones, three pixels apart, no two of which are neighbours.
    """
    height, width = _coarse_size(level.diagonal)
    device = level.diagonal.device
    y, x = torch.arange(height, device=device)[:, None], torch.arange(width, device=device)
    grids = torch.arange(9, device=device).view(1, 9, 1, 1) == y % 3 * 3 + x % 3
    fine = level.diagonal.new_zeros(1, 9, *level.diagonal.shape[-2:])
    _prolong(level.interpolation, grids.to(fine), fine)
    product = _restrict(level.interpolation, _multiply(level.weights, level.diagonal[:, :1], fine))

    def entries(dy: int, dx: int) -> Tensor:
        return product.gather(1, ((y + dy) % 3 * 3 + (x + dx) % 3).expand(1, 1, height, width))

    steps = ((0, 1), (1, 0), (1, 1), (1, -1))
    edges = (_edges(-entries(*step))[i][0] for i, step in enumerate(steps))
    return tuple(edge.contiguous() for edge in edges), entries(0, 0)


def _hierarchy(weights: tuple[Tensor, ...], data: Tensor, prior: float) -> tuple[list[_Level], Tensor]:
    """The grids from finest to coarsest, and the coarsest one's dense inverse (3, n, n)."""
    diagonal = data + _degree(weights, data)
    share = torch.full_like(data, prior / data.numel())
    levels = []
    while True:
        diagonals = torch.cat([diagonal, diagonal, diagonal + share], dim=1)
        # Gershgorin: half the absolute row sum is at least half the largest eigenvalue, for weights of any sign
        bound = torch.maximum(diagonals, (diagonals + _degree([w.abs() for w in weights], diagonal)) / 2)
        interpolation = _interpolation(weights, diagonal) if diagonal.numel() > DIRECT_SIZE else ()
        levels.append(_Level(weights, diagonals, DAMPING / bound, interpolation))
        if not interpolation:
            break
        weights, diagonal = _coarsen(levels[-1])
        share = _restrict(interpolation, share)  # lumped: it is weak and smooth
    n = diagonal.numel()
    unit = torch.eye(n, dtype=data.dtype, device=data.device).view(n, 1, *diagonal.shape[-2:])
    edges = _multiply(weights, torch.zeros_like(diagonal), unit).view(n, n)
    # more than the rounding error of the diagonal, which keeps the matrix positive definite
    dense = edges + torch.diag_embed(diagonals.view(3, n) * (1 + 64 * torch.finfo(data.dtype).eps))
    # in double precision: a point hint and a weak prior lie many orders of magnitude apart
    inverse = torch.cholesky_inverse(torch.linalg.cholesky(dense.cpu().double()))
    return levels, inverse.to(dense)


def _cycle(levels: list[_Level], inverse: Tensor, b: Tensor) -> Tensor:
    """One multigrid V-cycle for A x = b from x = 0; a symmetric positive definite preconditioner."""
    level, *coarser = levels
    if not coarser:
        return (inverse @ b.view(3, -1, 1)).view_as(b)
    x = level.smoother * b
    coarse_b = _restrict(level.interpolation, b - _multiply(level.weights, level.diagonal, x))
    _prolong(level.interpolation, _cycle(coarser, inverse, coarse_b), x)
    return x.addcmul_(level.smoother, b - _multiply(level.weights, level.diagonal, x))


def _dot(a: Tensor, b: Tensor) -> Tensor:
    return torch.linalg.vecdot(a.flatten(2), b.flatten(2))[..., None, None]


def _solve(levels: list[_Level], inverse: Tensor, b: Tensor, tolerance: float) -> tuple[Tensor, bool]:
    """Preconditioned conjugate gradients for the three channels of b (1, 3, H, W) in parallel.

    Returns x and whether every energy was positive until the tolerance was met, as they are without rounding errors.
    """
    x, r, direction = torch.zeros_like(b), b, b
    energy: Tensor | None = None
    first: Tensor | None = None
    tiny = torch.finfo(b.dtype).tiny  # a grey hint has zero chroma: 0/0 must be 0
    for _ in range(MAX_ITERATIONS):
        z = _cycle(levels, inverse, r)
        previous, energy = energy, _dot(r, z)
        first = energy if first is None else first
        if (energy.abs() <= tolerance**2 * first).all():
            return x, True
        direction = z if previous is None else z.addcmul_(direction, energy / previous.clamp_min(tiny))
        product = _multiply(levels[0].weights, levels[0].diagonal, direction)
        curvature = _dot(direction, product)
        if (energy < 0).any() or (curvature < 0).any():
            break
        step = energy / curvature.clamp_min(tiny)
        x.addcmul_(direction, step)
        r = torch.addcmul(r, product, step, value=-1)
    return x, False

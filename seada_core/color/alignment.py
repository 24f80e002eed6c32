"""Puts what an edit model made in line with its photo: such models shift, crop and stretch by some pixels."""

from __future__ import annotations

from dataclasses import dataclass

import torch
import torch.nn.functional as F
from torch import Tensor

from .sizes import resize, size_of
from .spaces import luminance

COARSE, FINE = 160, 448  # long sides at which the movement is found and then measured, px
SCALES = torch.linspace(0.88, 1.12, 25).tolist()  # tried at the coarse size
MAX_SCALE, MAX_SHIFT = 0.15, 0.15  # of the picture: further and it is refused
LIKENESS = 0.25  # least correlation of details, once in line; pictures of other things stay below 0.1
STEPS = 25  # of the measurement


class AlignmentError(ValueError):
    """The two pictures do not show the same view, or one moved too far."""


@dataclass(frozen=True)
class Movement:
    """Where a photo's place (u, v), each in [-1, 1], lies in the other picture: (scale_x u + x, scale_y v + y)."""

    scale_x: float = 1.0
    scale_y: float = 1.0
    x: float = 0.0
    y: float = 0.0
    likeness: float = 1.0  # correlation of details, at most 1


def align(picture: Tensor, photo: Tensor) -> tuple[Tensor, Movement]:
    """`picture` (1, 3, h, w) moved and stretched onto the luminance `photo` (1, 1, H, W), at its own size, in [0, 1].

    What the picture does not show of the photo gets the colours of its edge.

    Raises:
        AlignmentError: the pictures differ too much.
    """
    movement = measure(luminance(picture), photo)
    grid = _grid(_parameters(movement).to(picture), size_of(picture))
    return F.grid_sample(picture, grid, "bicubic", "border", align_corners=False).clamp(0, 1), movement


def measure(gray: Tensor, photo: Tensor) -> Movement:
    """The movement between two luminances (1, 1, h, w) and (1, 1, H, W) of the same view. Raises AlignmentError."""
    parameters = _found(*(_details(_small(one, photo, COARSE)) for one in (photo, gray)))
    for side in (COARSE, FINE):
        target, source = (_details(_small(one, photo, side)) for one in (photo, gray))
        parameters, likeness = _refined(target, source, parameters)
    scale_x, x, scale_y, y = parameters.tolist()
    moved = max(abs(scale_x - 1), abs(scale_y - 1)) / MAX_SCALE, max(abs(x), abs(y)) / 2 / MAX_SHIFT
    if likeness < LIKENESS:
        raise AlignmentError(
            f"the pictures do not show the same view (their details agree by {max(likeness, 0):.0%}, {LIKENESS:.0%} is "
            "needed): ask the model to change only the colours, or turn align off"
        )
    if max(moved) > 1:
        raise AlignmentError(
            f"the picture has moved by {max(abs(x), abs(y)) / 2:.0%} and is {max(scale_x, scale_y):.0%} as large; at "
            f"most {MAX_SHIFT:.0%} are put right: ask the model to keep the framing, or turn align off"
        )
    return Movement(scale_x, scale_y, x, y, likeness)


def _parameters(movement: Movement) -> Tensor:
    return torch.tensor([movement.scale_x, movement.x, movement.scale_y, movement.y])


def _small(gray: Tensor, photo: Tensor, side: int) -> Tensor:
    """A picture at the photo's shape, with the long side `side`."""
    height, width = size_of(photo)
    scale = side / max(height, width)
    return resize(gray.float().cpu(), (max(16, round(height * scale)), max(16, round(width * scale))))


def _blur(x: Tensor, radius: int) -> Tensor:
    side = 2 * radius + 1
    for _ in range(2):
        x = F.avg_pool2d(F.pad(x, [radius] * 4, "replicate"), side, 1)
    return x


def _details(gray: Tensor) -> Tensor:
    """Details at equal contrast everywhere: what a model that changes tones and contrast leaves as it was."""
    radius = max(2, max(gray.shape[-2:]) // 40)
    gray = _blur(gray, 1)
    details = gray - _blur(gray, radius)
    return details / (_blur(details**2, radius).sqrt() + 0.01)


def _grid(parameters: Tensor, size: tuple[int, int]) -> Tensor:
    """Sampling places (1, H, W, 2) for scale_x, x, scale_y, y."""
    scale_x, x, scale_y, y = parameters
    v, u = (((torch.arange(n, device=parameters.device) + 0.5) * 2 / n - 1).to(parameters) for n in size)
    return torch.stack(torch.meshgrid(scale_y * v + y, scale_x * u + x, indexing="ij")[::-1], -1)[None]


def _found(target: Tensor, source: Tensor) -> Tensor:
    """Scale and shift by phase correlation at each of SCALES."""
    height, width = size_of(target)
    window = torch.hann_window(height, False)[:, None] * torch.hann_window(width, False)
    best, result = -1.0, torch.tensor([1.0, 0.0, 1.0, 0.0])
    spectrum = torch.fft.rfft2(target[0, 0] * window)
    for scale in SCALES:
        grid = _grid(torch.tensor([scale, 0.0, scale, 0.0]), (height, width))
        moved = F.grid_sample(source, grid, "bilinear", "zeros", align_corners=False)[0, 0] * window
        correlation = torch.fft.irfft2(torch.fft.rfft2(moved) * spectrum.conj(), s=(height, width))
        peak = float(correlation.max() / (moved.norm() * (target[0, 0] * window).norm() + 1e-9))
        if peak > best:
            dy, dx = divmod(int(correlation.argmax()), width)
            dy, dx = dy - height * (dy > height // 2), dx - width * (dx > width // 2)
            best, result = peak, torch.tensor([scale, scale * 2 * dx / width, scale, scale * 2 * dy / height])
    return result


def _refined(target: Tensor, source: Tensor, parameters: Tensor) -> tuple[Tensor, float]:
    """The four parameters by Gauss-Newton steps on the details' difference, and the correlation at the end."""
    height, width = size_of(target)
    v, u = (((torch.arange(n) + 0.5) * 2 / n - 1) for n in (height, width))
    v, u = torch.meshgrid(v, u, indexing="ij")
    best = parameters, -1.0
    for _ in range(STEPS):
        grid = _grid(parameters, (height, width))
        moved = F.grid_sample(source, grid, "bicubic", "border", align_corners=False)[0, 0]
        inside = ((grid[0].abs() < 1).all(-1)).float()
        likeness = float((inside * moved * target[0, 0]).sum())
        likeness /= float(((inside * moved**2).sum() * (inside * target[0, 0] ** 2).sum()).sqrt()) + 1e-9
        if likeness > best[1]:
            best = parameters, likeness
        by_v, by_u = torch.gradient(moved)
        by_u, by_v = by_u * width / 2 / parameters[0], by_v * height / 2 / parameters[2]
        slopes = torch.stack([by_u * u, by_u, by_v * v, by_v], -1).reshape(-1, 4)
        error = target[0, 0] - moved
        weight = (inside / (1 + error**2)).reshape(-1, 1)  # what was redrawn counts little
        normal = slopes.T @ (weight * slopes)
        ridge = 1e-4 * normal.diagonal().mean() * torch.eye(4)
        step = torch.linalg.solve(normal + ridge, slopes.T @ (weight[:, 0] * error.reshape(-1)))
        parameters = parameters + step.clamp(-0.05, 0.05)
        if step.abs().max() < 1e-5:
            break
    return best

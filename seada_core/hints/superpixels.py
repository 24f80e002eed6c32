"""Superpixels (SLIC) and colour quantisation."""

from __future__ import annotations

import math

import torch
import torch.nn.functional as F
from torch import Tensor

from ..color.spaces import lab_to_rgb, rgb_to_lab

MIN_FRAGMENT = 0.25  # of the mean superpixel's area; smaller fragments join a neighbour
LLOYD_ITERATIONS = 16
HISTOGRAM_BITS = 5  # per RGB channel: colours are clustered through a histogram of mean colours, not pixel by pixel


def slic(image: Tensor, n_segments: int, compactness: float = 10.0, iterations: int = 10) -> Tensor:
    """SLIC superpixels (Achanta et al. 2012): k-means over (L*, a*, b*, x, y), each centre in its own neighbourhood.

    Distances are those of the paper, D^2 = d_lab^2 + (d_xy / S)^2 compactness^2 with S the grid step, and every pixel
    compares the 3x3 centres of the grid around it. Fragments below a quarter of the mean area join the adjacent larger
    region of the nearest colour; the other parts of a disconnected superpixel become superpixels of their own.

    image: (3, H, W) sRGB in [0, 1]. Returns labels (H, W), long, 0 .. n-1 without gaps, each one 4-connected region; n
    is close to `n_segments`, and at most H W. Raises ValueError for another shape or `n_segments` below 1.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"slic expects one picture (3, H, W), got shape {tuple(image.shape)}")
    if n_segments < 1:
        raise ValueError(f"n_segments must be at least 1, got {n_segments}")
    lab = rgb_to_lab(image.float())
    return _connect(_cluster(lab, n_segments, compactness, iterations), lab)


def _cluster(lab: Tensor, n_segments: int, compactness: float, iterations: int) -> Tensor:
    """Labels (H, W) of the nearest centre, not yet connected.

    The picture is cut into blocks about one grid step wide. All pixels of a block share nine candidate centres, so that
    distances and centre updates are batched matrix products.
    """
    device, (height, width) = lab.device, lab.shape[-2:]
    step = max(1.0, math.sqrt(height * width / n_segments))
    rows, columns = (max(1, round(n / step)) for n in (height, width))
    bh, bw = math.ceil(height / rows), math.ceil(width / columns)
    ny, nx = math.ceil(height / bh), math.ceil(width / bw)
    scale = compactness / step

    def blocks(x: Tensor) -> Tensor:
        x = F.pad(x, (0, nx * bw - width, 0, ny * bh - height))
        return x.view(-1, ny, bh, nx, bw).permute(1, 3, 0, 2, 4).reshape(ny * nx, -1, bh * bw)

    # Positions are relative to the block's corner: far from the origin, single precision would lose the distances.
    y = torch.arange(height, device=device) % bh * scale
    x = torch.arange(width, device=device) % bw * scale
    position = torch.stack(torch.meshgrid(y, x, indexing="ij"))
    pixels = blocks(torch.cat([lab, position, torch.ones_like(lab[:1])]))  # (blocks, 6, pixels); padding is all zero
    corner_y = torch.arange(ny, device=device) * bh
    corner_x = torch.arange(nx, device=device) * bw
    corners = torch.stack(torch.meshgrid(corner_y, corner_x, indexing="ij"), -1).view(-1, 1, 2) * scale

    def around(corner: Tensor, size: int, count: int, length: int) -> tuple[Tensor, Tensor]:
        nearest = ((corner + size / 2) * count / length).floor().long().clamp(0, count - 1)
        index = nearest[:, None] + torch.arange(-1, 2, device=device)
        return index.clamp(0, count - 1), (index >= 0) & (index < count)

    (near_y, in_y), (near_x, in_x) = around(corner_y, bh, rows, height), around(corner_x, bw, columns, width)
    candidates = (near_y[:, None, :, None] * columns + near_x[None, :, None, :]).view(-1, 9)
    exists = (in_y[:, None, :, None] & in_x[None, :, None, :]).view(-1, 9, 1)

    start_y = ((torch.arange(rows, device=device) + 0.5) * height / rows).long()
    start_x = ((torch.arange(columns, device=device) + 0.5) * width / columns).long()
    grid = torch.stack(torch.meshgrid(start_y, start_x, indexing="ij")).view(2, -1)
    centres = torch.cat([lab[:, grid[0], grid[1]], grid * scale]).T  # (centres, 5)

    for iteration in range(iterations):
        near = centres[candidates]  # (blocks, 9, 5)
        near = torch.cat([near[..., :3], near[..., 3:] - corners], dim=-1)
        # |p - c|^2 without |p|^2, which is the same for all candidates
        offset = near.square().sum(-1, keepdim=True).masked_fill(~exists, 1e9)  # finite: padding is 0
        distance = torch.cat([-2 * near, offset], dim=-1) @ pixels  # (blocks, 9, pixels)
        nearest = distance.amin(1, keepdim=True)
        if iteration == iterations - 1:
            break
        member = (nearest - distance).sign_().add_(1)  # 1 at the nearest centre, else 0
        sums = member @ pixels.mT  # (blocks, 9, 6): sums of features, and counts
        sums[..., 3:5] += corners * sums[..., 5:]
        total = torch.zeros(rows * columns, 6, device=device).index_add_(0, candidates.flatten(), sums.flatten(0, 1))
        count = total[:, 5:]
        centres = torch.where(count > 0, total[:, :5] / count.clamp_min(1), centres)
    # argmin along such a short axis is slow
    rank = torch.arange(9, device=device, dtype=torch.uint8)[:, None]
    labels = candidates.gather(1, ((distance == nearest) * rank).amax(1).long())
    labels = labels.view(ny, nx, bh, bw).transpose(1, 2).reshape(ny * bh, nx * bw)
    return labels[:height, :width]


def _components(nodes: int, a: Tensor, b: Tensor) -> Tensor:
    """The smallest node of each node's connected component in the graph of edges a[i] - b[i]."""
    parent = torch.arange(nodes, device=a.device)
    while len(a):
        pa, pb = parent[a], parent[b]
        apart = pa != pb
        if not apart.any():
            break
        a, b, pa, pb = a[apart], b[apart], pa[apart], pb[apart]
        parent.scatter_reduce_(0, torch.maximum(pa, pb), torch.minimum(pa, pb), "amin")
        grand = parent[parent]
        while not torch.equal(grand, parent):
            parent, grand = grand, grand[grand]
    return parent


def _regions(labels: Tensor) -> Tensor:
    """4-connected regions of equal labels (H, W), numbered 0 .. n-1 in reading order."""
    # Runs along rows first: joining a few runs is much faster than joining pixels.
    first = torch.ones_like(labels, dtype=torch.bool)
    first[:, 1:] = labels[:, 1:] != labels[:, :-1]
    runs = first.flatten().cumsum(0).view_as(labels) - 1
    same = labels[1:] == labels[:-1]
    # one edge for each pair of touching runs, at the start of the later one
    same &= first[1:] | first[:-1]
    roots = _components(int(runs[-1, -1]) + 1, runs[:-1][same], runs[1:][same])
    return roots.unique(return_inverse=True)[1][runs]


def _connect(labels: Tensor, lab: Tensor) -> Tensor:
    """Connected regions without small fragments, numbered 0 .. n-1."""
    minimum = MIN_FRAGMENT * labels.numel() / len(labels.unique())
    regions = _regions(labels)
    flat = regions.flatten()
    n = int(flat.max()) + 1
    sums = torch.zeros(n, 4, device=lab.device)
    sums.index_add_(0, flat, torch.cat([lab.flatten(1), torch.ones_like(flat, dtype=lab.dtype)[None]]).T.contiguous())
    pairs = []
    for one, other in ((regions[:, :-1], regions[:, 1:]), (regions[:-1], regions[1:])):
        border = one != other
        pairs.append(one[border] * n + other[border])
    pairs = torch.cat(pairs).unique()
    one, other = pairs // n, pairs % n
    one, other = torch.cat([one, other]), torch.cat([other, one])
    owner = torch.arange(n, device=lab.device)
    while True:
        # Join every fragment to a larger neighbour; equal ones are ordered by number, so that no cycle can form.
        area = sums[:, 3]
        larger = (area[other] > area[one]) | ((area[other] == area[one]) & (other < one))
        joins = larger & (area[one] < minimum)
        if not joins.any():
            break
        source, target = one[joins], other[joins]
        mean = sums[:, :3] / area[:, None].clamp_min(1)
        distance = (mean[source] - mean[target]).square().sum(1)
        nearest = torch.full((n,), torch.inf, device=lab.device).scatter_reduce_(0, source, distance, "amin")
        chosen = distance == nearest[source]
        parent = torch.arange(n, device=lab.device).scatter_reduce_(
            0, source[chosen], target[chosen], "amax", include_self=False
        )
        while not torch.equal(parent[parent], parent):
            parent = parent[parent]
        owner = parent[owner]
        sums = torch.zeros_like(sums).index_add_(0, parent, sums)
        one, other = parent[one], parent[other]
        apart = one != other
        one, other = one[apart], other[apart]
    return owner.unique(return_inverse=True)[1][regions]


def quantize(image: Tensor, n: int) -> tuple[Tensor, Tensor]:
    """The picture in at most `n` colours: k-means in L*a*b* from a deterministic start (farthest, weighted by use).

    image: (3, H, W) sRGB in [0, 1]. Returns the picture (3, H, W) and its palette (m, 3), m <= n, most frequent first;
    a picture that has fewer colours may keep fewer. Raises ValueError for another shape or `n` below 1.
    """
    if image.ndim != 3 or image.shape[0] != 3:
        raise ValueError(f"quantize expects one picture (3, H, W), got shape {tuple(image.shape)}")
    if n < 1:
        raise ValueError(f"the number of colours must be at least 1, got {n}")
    pixels = rgb_to_lab(image.float()).flatten(1).T.contiguous()  # (H W, 3)
    levels = (image.float().clamp(0, 1) * (2**HISTOGRAM_BITS - 1)).round().long().flatten(1)
    key = (levels[0] << 2 * HISTOGRAM_BITS) + (levels[1] << HISTOGRAM_BITS) + levels[2]
    bins = 2 ** (3 * HISTOGRAM_BITS)
    weight = torch.bincount(key, minlength=bins).to(pixels.dtype)
    total = torch.zeros(bins, 3, device=image.device).index_add_(0, key, pixels)
    used = weight > 0
    weight, colors = weight[used], total[used] / weight[used, None]

    chosen = [(colors * weight[:, None]).sum(0) / weight.sum()]
    gap = (colors - chosen[0]).square().sum(1)
    for _ in range(n - 1):
        farthest = (gap * weight).argmax()
        if gap[farthest] <= 1e-6:
            break
        chosen.append(colors[farthest])
        gap = torch.minimum(gap, (colors - colors[farthest]).square().sum(1))
    centres = torch.stack(chosen)

    for _ in range(LLOYD_ITERATIONS):
        nearest = _nearest(colors, centres)
        mass = torch.zeros(len(centres), device=image.device).index_add_(0, nearest, weight)
        moved = torch.zeros_like(centres).index_add_(0, nearest, colors * weight[:, None]) / mass[:, None].clamp_min(1)
        centres = torch.where(mass[:, None] > 0, moved, centres)
    nearest = _nearest(pixels, centres)
    frequency = torch.bincount(nearest, minlength=len(centres))
    order = frequency.argsort(descending=True, stable=True)
    palette = lab_to_rgb(centres[order].T[..., None])[..., 0].clamp(0, 1).T.to(image.dtype)
    rank = order.argsort()
    return palette.T[:, rank[nearest]].view_as(image), palette[: int((frequency > 0).sum())]


def _nearest(points: Tensor, centres: Tensor, chunk: int = 1 << 14) -> Tensor:
    """Index of the nearest centre (m, 3) of each point (N, 3)."""
    offset = centres.square().sum(1)
    return torch.cat([torch.addmm(offset, p, centres.T, alpha=-2).argmin(1) for p in points.split(chunk)])

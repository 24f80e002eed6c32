"""What all captioners share: preprocessing of pictures, and beam search over tokens."""

from __future__ import annotations

from collections.abc import Callable

import torch
from torch import Tensor
from torch.nn import functional as F

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)


CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


def resize(images: Tensor, size: int, crop: bool) -> Tensor:
    """(B, C, H, W) to (B, C, size, size), bicubic and antialiased; `crop` keeps the aspect and the centre."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"a captioner takes pictures (B, 3, H, W), not {tuple(images.shape)}")
    if crop:
        side = min(images.shape[-2:])
        top, left = ((n - side) // 2 for n in images.shape[-2:])
        images = images[..., top : top + side, left : left + side]
    return F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True).clamp(0, 1)


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(images - mean) / std, by channel."""
    return (images - images.new_tensor(mean).view(-1, 1, 1)) / images.new_tensor(std).view(-1, 1, 1)


def beam_search(
    next_log_probs: Callable[[Tensor, Tensor], Tensor], batch: int, *, beams: int, start: int, end: int, length: int
) -> list[tuple[list[int], float]]:
    """The best token sequence found for each of `batch` pictures, with its score.

    next_log_probs(tokens (N, t), pictures (N,)) gives (N, V) float32 log-probabilities of each hypothesis' next token.
    Sequences have at most `length` tokens, `start` and `end` included. The score is the mean log-probability of the
    tokens after `start`. A finished hypothesis gives up its beam, so that one beam is greedy decoding; with more, the
    greedy sequence competes too, so the score is never below that of greedy decoding.
    """
    if beams < 1 or length < 2:
        raise ValueError(f"beam search needs beams >= 1 and length >= 2, not {beams} and {length}")
    best: list[tuple[list[int], float]] = [([], float("-inf"))] * batch
    if beams > 1:
        best = beam_search(next_log_probs, batch, beams=1, start=start, end=end, length=length)
    alive = {i: [([start], 0.0)] for i in range(batch)}  # picture -> hypotheses (tokens, summed log-probability)
    room = [beams] * batch
    for t in range(1, length):
        rows = [(i, ids, total) for i, hypotheses in alive.items() for ids, total in hypotheses]
        if not rows:
            break
        tokens = torch.tensor([ids for _, ids, _ in rows])
        pictures = torch.tensor([i for i, _, _ in rows])
        log_probs = next_log_probs(tokens, pictures).cpu()
        first = 0
        for i in list(alive):
            hypotheses = alive[i]
            totals = log_probs[first : first + len(hypotheses)] + torch.tensor([[s] for _, s in hypotheses])
            first += len(hypotheses)
            values, flat = totals.flatten().topk(min(room[i], totals.numel()))
            alive[i] = []
            for total, index in zip(values.tolist(), flat.tolist()):
                if total == float("-inf"):
                    continue
                ids = hypotheses[index // totals.shape[1]][0] + [index % totals.shape[1]]
                if ids[-1] == end or t == length - 1:
                    room[i] -= 1
                    if total / t > best[i][1]:
                        best[i] = (ids, total / t)
                else:
                    alive[i].append((ids, total))
            # a sum only falls, so no continuation can score above total / (length - 1)
            if all(total / (length - 1) <= best[i][1] for _, total in alive[i]):
                del alive[i]
    return best

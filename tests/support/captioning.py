"""Shared by the captioners' tests."""

import torch

from seada_core.models.captioners.coca import CoCaCaptioner


def pictures(batch: int = 4, height: int = 48, width: int = 40) -> torch.Tensor:
    return torch.rand(batch, 3, height, width, generator=torch.Generator().manual_seed(1))


def naive_greedy(captioner: CoCaCaptioner, image: torch.Tensor) -> tuple[list[int], float]:
    """Argmax with the whole model, image encoder included, run again for every token of one picture."""
    model, tokenizer = captioner.model, captioner.tokenizer
    ids, total = [tokenizer.start], 0.0
    while len(ids) < captioner.length:
        with torch.no_grad():
            text_tokens = model._encode_text(torch.tensor([ids]))[1]
            logits = model.text_decoder(model._encode_image(image[None])[1], text_tokens)[0, -1]
        logits[[model.pad_id, tokenizer.start] + [tokenizer.end] * (len(ids) == 1)] = float("-inf")
        log_probs = logits.log_softmax(-1)
        ids.append(int(log_probs.argmax()))
        total += float(log_probs[ids[-1]])
        if ids[-1] == tokenizer.end:
            break
    return ids, total / (len(ids) - 1)

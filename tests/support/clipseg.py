"""A tiny random CLIPSeg in a folder."""

from __future__ import annotations

import json
from pathlib import Path

import torch


def tiny_clipseg(folder: Path) -> Path:
    """A folder with a tiny random CLIPSeg and a byte-level CLIP tokenizer without merges."""
    from transformers import CLIPSegConfig, CLIPSegForImageSegmentation, CLIPTokenizer

    folder.mkdir(parents=True)
    letters = [chr(c) for c in range(33, 127)]
    tokens = [*letters, *(letter + "</w>" for letter in letters), "<|startoftext|>", "<|endoftext|>"]
    (folder / "vocab.json").write_text(json.dumps({token: i for i, token in enumerate(tokens)}))
    (folder / "merges.txt").write_text("#version: 0.2\n")
    CLIPTokenizer(str(folder / "vocab.json"), str(folder / "merges.txt"), model_max_length=24).save_pretrained(folder)
    tiny = {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 2}
    ids = {"bos_token_id": len(tokens) - 2, "eos_token_id": len(tokens) - 1, "pad_token_id": len(tokens) - 1}
    text = tiny | ids | {"num_hidden_layers": 2, "vocab_size": len(tokens), "max_position_embeddings": 24}
    vision = tiny | {"num_hidden_layers": 3, "image_size": 32, "patch_size": 8}
    sizes = {"extract_layers": [0, 1], "reduce_dim": 16, "decoder_num_attention_heads": 2}
    config = CLIPSegConfig(
        text_config=text, vision_config=vision, projection_dim=16, decoder_intermediate_size=32, **sizes
    )
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(0)
        model = CLIPSegForImageSegmentation(config)
        for parameter in model.parameters():
            if parameter.ndim > 1:
                parameter.data.mul_(8)
        model.save_pretrained(folder)
    return folder

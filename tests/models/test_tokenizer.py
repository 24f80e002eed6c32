"""The compact vocabulary against CLIP's own tokenizer."""

import torch
from open_clip.tokenizer import SimpleTokenizer, tokenize

from seada_core.models.tokenizer import Tokenizer

TEXTS = ["a red dog", "Two men, playing guitar!", ""]


def test_full_vocabulary_equals_clip():
    ours = Tokenizer(77)(TEXTS)
    clip = tokenize(TEXTS)
    used = clip != 0
    assert torch.equal(ours[used], clip[used])
    assert (ours[~used] == 49407).all()  # SD1.5 pads with the end token


def test_compact_vocabulary_keeps_the_most_frequent_tokens_and_round_trips():
    captions = ["a red dog"] * 3 + ["a blue cat"] * 2 + ["a zebra"]
    tokenizer = Tokenizer.from_captions(captions, 8, 3 + 4)
    kept = {SimpleTokenizer().decoder[i].replace("</w>", "") for i in tokenizer.vocabulary}
    assert {"a", "red", "dog"} <= kept and len(kept) == 4
    ids = tokenizer(["a red dog", "a zebra runs"])
    assert ids.shape == (2, 8) and ids.max() < tokenizer.size
    assert tokenizer.decode(ids[0][1:]) == "a red dog"
    assert tokenizer.decode(ids[1][1:]) == "a"  # unknown words are dropped


def test_long_texts_are_cut_and_the_mask_covers_real_tokens():
    tokenizer = Tokenizer(5)
    ids = tokenizer(["one two three four five six", "one"])
    assert ids[0, -1] == tokenizer.end
    assert tokenizer.mask(ids).tolist() == [[True] * 5, [True, True, True, False, False]]

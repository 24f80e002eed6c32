"""Sizes and captions of the trainer's tests; see also `pictures` and `encoder_file` in conftest.py."""

CAPTIONS = ["a photo of a dog", "a photo of green grass", "a photo of the sea"]
SIZES = [
    "--text.width=32", "--text.layers=1", "--text.heads=2", "--text.length=16",
    "--unet.channels", "32", "32", "64", "--unet.heads=2", "--unet.context-dim=32", "--unet.groups=8",
    "--adapter.length=16", "--adapter.width=32", "--control.head-dim=16",
]  # fmt: skip

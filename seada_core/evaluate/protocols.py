"""The field's protocols: which pictures, at which size. Does not import torch."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from PIL import Image

# the order in which iColoriT draws its hints, see `hint_points`.
HINT_COUNTS = (0, 1, 2, 5, 10, 20, 50, 100, 200)


@dataclass(frozen=True)
class Protocol:
    """`shape`: "own" keeps a picture as it is, "crop" resizes its short side to `size` and takes the centre square,
    "squash" resizes it to `size`×`size` regardless of its shape. All resizing is PIL's `filter`, antialiased."""

    name: str
    about: str
    shape: str = "own"
    size: int = 0  # px; of no meaning to "own"
    limit: int | None = None  # how many pictures, the first by file name
    hint_counts: tuple[int, ...] = ()
    filter: str = "BICUBIC"

    def fit(self, image: Image.Image) -> Image.Image:
        """The picture in the protocol's shape and size."""
        from PIL import Image, ImageOps

        filter = Image.Resampling[self.filter]
        if self.shape == "crop":
            return ImageOps.fit(image, (self.size, self.size), filter)
        if self.shape == "squash":
            return image.resize((self.size, self.size), filter)
        return image


PROTOCOLS = {
    protocol.name: protocol
    for protocol in (
        Protocol("own", "every picture at its own size"),
        Protocol("own-256", "every picture, short side to 256 px, centre square", "crop", 256),
        Protocol("imagenet-val5k", "ImageNet's first 5,000 validation pictures, centre-crop 256", "crop", 256, 5_000),
        Protocol(
            "imagenet-10k",
            "10,000 validation pictures of ImageNet, centre-crop 256: the first by name, or those of --list (ctest10k)",
            "crop",
            256,
            10_000,
        ),
        Protocol("coco-stuff", "COCO-Stuff's validation pictures, plain resize to 256×256", "squash", 256),
        Protocol("ade20k", "ADE20K's validation pictures, plain resize to 256×256", "squash", 256),
        Protocol(
            "icolorit",
            "iColoriT's hints: resize to 224×224, 2×2 px averaged, seed 1234, PSNR@k",
            "squash",
            224,
            hint_counts=HINT_COUNTS[:-1],
            filter="BILINEAR",
        ),
    )
}

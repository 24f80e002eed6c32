"""The embedded model on a GPU: seconds a photo, photos a second, and how far its colours are from those of the CPU."""

from __future__ import annotations

from collections.abc import Callable
from functools import partial

import numpy as np
import torch
from PIL import Image
from torch import Tensor

from seada_core.files.hint_format import Hint
from seada_core.pipeline import Colorizer

from .kit import Kit, compiling_part, name_of, plain_part
from .run import Measure, Measures

HINTS = (Hint(10, 10, "#a03020", 8), Hint(30, 20, "#2040a0", 8))
STEERED: dict[str, dict] = {
    "hints": {"hints": HINTS},
    "palette, 2 steps": {"palette": ("#2040e0", "#20a040"), "steps": 2},
    "guidance, 2 steps": {"prompt": "a red car", "guidance": 2.0, "steps": 2},
    "4 token steps": {"token_steps": 4},
}


def apart(kit: Kit, colorizer: Colorizer, reference: Colorizer, **options) -> str:
    """Largest and mean difference of two models' pictures of the photo, of 255."""
    options = {"prompt": "", **kit.sizes, **options}
    first, second = (np.asarray(c(kit.photo, **options)).astype(float) for c in (colorizer, reference))
    difference = np.abs(first - second)
    return f"{difference.max():.0f}; {difference.mean():.3f}"


def painted(kit: Kit, colorizer: Colorizer, photo: Image.Image | Tensor | None = None, **options) -> Callable:
    """A call that colours the kit's photo or another, by default without a caption."""
    return partial(colorizer, kit.photo if photo is None else photo, **{"prompt": "", **kit.sizes, **options})


@plain_part
def photo(kit: Kit) -> Measures:
    """One photo at a time, PIL to PIL."""
    loaded: dict[torch.dtype, Colorizer] = {}

    def load(dtype: torch.dtype) -> None:
        loaded[dtype] = kit.mini(dtype)
        painted(kit, loaded[dtype], prompt=None)()

    for dtype in (kit.half, torch.bfloat16) if kit.tiny else (torch.float16, torch.float32, torch.bfloat16):
        row = f"mini {name_of(dtype)}"
        yield Measure(f"{row}, load and first photo", "s", lambda d=dtype: kit.once(lambda: load(d)))
        colorizer = loaded[dtype]
        yield Measure(f"{row}, warm, no caption", "s", partial(kit.seconds, painted(kit, colorizer)))
        yield Measure(f"{row}, warm, own caption", "s", partial(kit.seconds, painted(kit, colorizer, prompt=None)))
    eager = kit.mini(graphs=False)
    row = f"mini {name_of(kit.half)}, no CUDA graphs"
    yield Measure(f"{row}, warm, no caption", "s", partial(kit.seconds, painted(kit, eager)))
    yield Measure(f"{row}, warm, own caption", "s", partial(kit.seconds, painted(kit, eager, prompt=None)))
    cpu = Colorizer.from_pretrained("mini", "cpu")
    for dtype, colorizer in loaded.items():
        row = f"mini {name_of(dtype)} beside the CPU's fp32"
        yield Measure(row, "of 255: max; mean", partial(apart, kit, colorizer, cpu))
        yield Measure(f"{row}, 3 steps", "of 255: max; mean", partial(apart, kit, colorizer, cpu, steps=3, seed=1))
    yield Measure("mini on the CPU, warm, own caption", "s", partial(kit.seconds, painted(kit, cpu, prompt=None), 2, 1))
    yield from _second_size(kit, loaded[kit.half], f"mini {name_of(kit.half)}")
    for what, options in STEERED.items():
        steered = painted(kit, loaded[kit.half], **options)
        yield Measure(f"mini {name_of(kit.half)}, {what}", "s", partial(kit.seconds, steered, 3, 3))
        compared = partial(apart, kit, loaded[kit.half], cpu, **options)
        yield Measure(f"mini {name_of(kit.half)}, {what}, beside the CPU's fp32", "of 255: max; mean", compared)


def _second_size(kit: Kit, colorizer: Colorizer, row: str) -> Measures:
    turned = painted(kit, colorizer, kit.photo.transpose(Image.Transpose.ROTATE_90))
    yield Measure(f"{row}, first photo of a second size", "s", partial(kit.once, turned))
    yield Measure(f"{row}, the second size, warm", "s", partial(kit.seconds, turned))
    yield Measure(f"{row}, the first size again", "s", partial(kit.seconds, painted(kit, colorizer), 5, 0))


@plain_part
def batches(kit: Kit) -> Measures:
    """Many photos at once, a large one, and the offloaded model."""
    colorizer, row = kit.mini(), f"mini {name_of(kit.half)}"
    width, height = kit.photo.size
    for count in (2,) if kit.tiny else (8, 64):
        grays = torch.rand(1, 1, height, width, device=kit.device).repeat(count, 1, 1, 1)
        for what, prompt in (("no caption", ""), ("own captions", None)):
            take = partial(_rate, kit, count, painted(kit, colorizer, grays, prompt=prompt))
            yield Measure(f"{row}, batch of {count}, {what}", "photos/s", take)
    large = kit.photo.resize((160, 120) if kit.tiny else (4000, 3000), Image.Resampling.BICUBIC)
    kit.forget_peak()
    run = painted(kit, colorizer, large, prompt=None)
    yield Measure(f"{row}, 12 megapixels, PIL to PIL", "s", partial(kit.seconds, run, 2, 3))
    yield Measure(f"{row}, 12 megapixels, peak", "GB", kit.peak)
    if kit.on_gpu:
        colorizer.offload()
        run = painted(kit, colorizer, prompt=None)
        yield Measure(f"{row}, offloaded, own caption", "s", partial(kit.seconds, run, 3, 1))


def _rate(kit: Kit, count: int, run: Callable[[], object]) -> float:
    return count / kit.seconds(run, 3, 3)


@compiling_part
def compiled(kit: Kit) -> Measures:
    """One photo at a time by `Colorizer.compile`."""
    eager, colorizer = kit.mini(graphs=False), kit.mini()
    eager_row = f"mini {name_of(kit.half)}, eager"
    row = f"mini {name_of(kit.half)}, compiled"
    colorizer.compile()
    run = painted(kit, colorizer)
    yield Measure(f"{row}, first photo", "s", partial(kit.once, run))
    yield None
    yield Measure(f"{eager_row}, no caption", "s", partial(kit.seconds, painted(kit, eager)))
    yield Measure(f"{row}, warm, no caption", "s", partial(kit.seconds, run), f"{eager_row}, no caption")
    captioned = painted(kit, colorizer, prompt=None)
    yield Measure(f"{row}, warm, own caption", "s", partial(kit.seconds, captioned))
    yield Measure(f"{row}, beside not compiled", "of 255: max; mean", partial(apart, kit, colorizer, eager))
    # each of these compiles once more
    yield from _second_size(kit, colorizer, row)
    for what, options in STEERED.items():
        steered = painted(kit, colorizer, **options)
        yield Measure(f"{row}, {what}, first photo", "s", partial(kit.once, steered))
        yield Measure(f"{row}, {what}, warm", "s", partial(kit.seconds, steered, 3, 1))

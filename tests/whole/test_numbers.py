"""Numbers: precisions and devices agree, no photo gives NaN, and every size works.

Tolerances are mean absolute differences in steps of 1/255, of the embedded model's pictures from those in fp32.
"""

import os
import subprocess
import sys
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core.color.merging import merge_chroma, merge_tiled
from seada_core.color.spaces import luminance
from seada_core.files.hint_format import Hint
from seada_core.hints.maps import apply_hints, hint_map
from seada_core.hints.propagation import propagate
from seada_core.pipeline import Colorizer
from seada_core.weights import part_files

ROOT = Path(__file__).resolve().parents[2]
LIMITS = {"bfloat16": 2.0, "float16": 0.5}
HINTED = 4.0  # in bfloat16, whose 8 bits of the classifier's weights move the borders up to which hints reach
DEVICE_LIMIT = 0.5  # CUDA beside the CPU, both in fp32
OPTIONS = {"prompt": "a dog on green grass", "steps": 3, "guidance": 2.0, "size": 64}
HINTS = [Hint(30, 20, "#d04020", 4)]
EDGES = (1, 2, 3, 7, 8, 9, 15, 16, 17, 31, 32, 33, 63, 64, 65)


@pytest.fixture(scope="module")
def embedded() -> Colorizer:
    return Colorizer.from_pretrained("mini", device="cpu")


@pytest.fixture(scope="module")
def tiny(tiny_model) -> Colorizer:
    return Colorizer.from_pretrained(str(tiny_model), device="cpu")


@pytest.fixture(scope="module")
def photo() -> torch.Tensor:
    picture = Image.open(ROOT / "samples" / "photo.jpg").convert("RGB").resize((160, 128))
    return torch.from_numpy(np.asarray(picture).copy()).permute(2, 0, 1).float() / 255


def steps_of_255(a: torch.Tensor, b: torch.Tensor) -> float:
    return float((a.float().cpu() - b.float().cpu()).abs().mean() * 255)


# precisions and devices


@pytest.fixture(scope="module", params=["float32", *(pytest.param(half, marks=pytest.mark.slow) for half in LIMITS)])
def in_precision(request, embedded) -> Colorizer:
    if request.param == "float32":
        return embedded
    return Colorizer.from_pretrained("mini", device="cpu", dtype=getattr(torch, request.param))


def limit_of(name: str, hints: Sequence[Hint]) -> float:
    return HINTED if hints and name == "bfloat16" else LIMITS.get(name, DEVICE_LIMIT)


def test_half_precision_agrees_with_single(embedded, in_precision, photo):
    name = str(in_precision.dtype).removeprefix("torch.")
    for hints in ((), HINTS):
        wanted, found = (c(photo, hints=hints, **OPTIONS) for c in (embedded, in_precision))
        assert torch.isfinite(found).all()
        assert (found - found.mean(0)).abs().max() > 0.05  # in colour
        difference = steps_of_255(found, wanted)
        print(f"{name}, {len(hints)} hints: {difference:.3f} steps of 255")
        assert difference == 0 if name == "float32" else 0 < difference <= limit_of(name, hints)


@pytest.mark.parametrize("dtype", ["float32", *LIMITS])
def test_a_gpu_agrees_with_the_cpu(embedded, photo, dtype):
    if not torch.cuda.is_available():
        pytest.skip("needs a CUDA device")
    gpu = Colorizer.from_pretrained("mini", device="cuda", dtype=getattr(torch, dtype))
    for hints in ((), HINTS):
        found = gpu(photo, hints=hints, **OPTIONS)
        assert torch.isfinite(found).all()
        assert steps_of_255(found, embedded(photo, hints=hints, **OPTIONS)) <= limit_of(dtype, hints)


# blank photos


def constant(value: float) -> torch.Tensor:
    return torch.full((3, 40, 56), value)


PICTURES = {
    "black": constant(0.0),
    "white": constant(1.0),
    "mid-grey": constant(0.5),
    "saturated": torch.tensor([1.0, 0.0, 0.0])[:, None, None].expand(3, 40, 56).clone(),
    "noise": torch.rand(3, 40, 56, generator=torch.Generator().manual_seed(0)),
    "black and white": (torch.arange(56) % 2).float().expand(3, 40, 56).clone(),
    "a row": torch.rand(3, 1, 14, generator=torch.Generator().manual_seed(0)),
    "a pixel": torch.rand(3, 1, 1, generator=torch.Generator().manual_seed(0)),
}


def test_no_photo_gives_nan(in_precision):
    here = [Hint(0, 0, "#d04020", 1)]
    steered = {"hints": here, "palette": ["#2040e0", "#20a040"], "palette_strength": 1.0}
    for name, picture in PICTURES.items():
        for options in [{}, steered] if name == "black" else [steered]:
            found = in_precision(picture, prompt="", steps=1, size=32, **options)
            assert found.shape == picture.shape and torch.isfinite(found).all(), name
            assert found.min() >= 0 and found.max() <= 1, name
            assert (luminance(found) - luminance(picture)).abs().max() < 2e-5, name
            if name in ("black", "white"):  # no other colour is as dark or as bright
                assert (found - picture).abs().max() < 1e-5


def test_captions_and_tokens_of_blank_photos(embedded):
    for name in ("black", "white", "mid-grey", "a pixel"):
        gray = luminance(PICTURES[name])[None]
        assert isinstance(embedded.caption(gray)[0], str)
        assert torch.isfinite(embedded(PICTURES[name], prompt=None, steps=1, size=32, token_steps=2)).all(), name


@pytest.mark.parametrize("bad", [float("nan"), float("inf")])
def test_nan_and_infinity_are_refused(tiny, bad):
    gray = gradients(16, 24)
    broken = gray.clone()
    broken[0, 0, 3, 4] = bad
    hints = torch.zeros(1, 3, 16, 24)
    hints[0, :, 3, 4] = bad
    options = {"prompt": "", "steps": 1, "size": 16}
    if bad == bad:  # infinitely bright is white
        assert torch.isfinite(tiny(broken, **options)).all()
    else:
        with pytest.raises(ValueError, match="photo has values that are not finite"):
            tiny(broken, **options)
    for name in ("hints", "soft_hints"):
        with pytest.raises(ValueError, match="hint map has values that are not finite"):
            tiny(gray, **{name: hints}, **options)
    for name in ("guidance", "strength", "saturation", "temperature", "palette_strength"):
        with pytest.raises(ValueError, match=f"{name} must be"):
            tiny(gray, **{name: bad}, **options)


BIG = """
import resource, sys, time
import numpy as np
from PIL import Image
from seada_core.pipeline import Colorizer
colorizer = Colorizer.from_pretrained("mini", device="cpu")
small = Image.open(sys.argv[1]).convert("L")
colorizer(small.resize((320, 180)), steps=1, prompt="a dog")
def peak():
    return resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024  # MiB
before, photo = peak(), small.resize((7680, 4320), Image.BICUBIC)
start = time.perf_counter()
found = colorizer(photo, steps=2, prompt="a dog")
seconds, grown = time.perf_counter() - start, peak() - before
assert found.size == photo.size
wrong = chroma = 0
for top in range(0, 4320, 540):  # a strip at a time
    box = (0, top, 7680, top + 540)
    strip = found.crop(box)
    difference = np.abs(np.asarray(strip.convert("L"), np.int16) - np.asarray(photo.crop(box), np.int16))
    wrong += (difference > 1).sum()
    chroma = max(chroma, np.ptp(np.asarray(strip), axis=-1).max())
print(grown, seconds, wrong / 7680 / 4320, chroma)
"""


@pytest.mark.slow
def test_an_8k_photo(photo):
    if not sys.platform.startswith("linux"):
        pytest.skip("ru_maxrss is in KiB on Linux")
    command = [sys.executable, "-c", BIG, ROOT / "samples" / "photo.jpg"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    assert done.returncode == 0, done.stderr[-2000:]
    grown, seconds, wrong, chroma = map(float, done.stdout.split())
    print(f"8k: {grown:.0f} MiB more, {seconds:.0f} s, {100 * wrong:.3f} % off by more than 1 of 255")
    assert grown < 1000  # the picture and its result are 127 MiB, in float 475
    assert wrong <= 0.005 and chroma > 20


# sizes


def gradients(height: int, width: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(height * 100 + width)
    return torch.rand(1, 1, height, width, generator=generator) * 0.8 + 0.1


def check(found: torch.Tensor, gray: torch.Tensor) -> None:
    size = tuple(gray.shape[-2:])
    assert found.shape[-2:] == gray.shape[-2:], size
    assert torch.isfinite(found).all(), size
    assert (luminance(found) - gray).abs().max() < 2e-5, size


@pytest.mark.parametrize("height", [1, 15, 65])
def test_the_colorizer_takes_odd_sizes(tiny, height):
    for width in EDGES[height % 3 :: 3]:
        gray = gradients(height, width)
        found = tiny(gray, prompt="a dog", steps=1, size=8, hints=[Hint(width - 1, height - 1, "#d04020", 1)])
        check(found, gray)
        picture = Image.fromarray((gray[0, 0] * 255).byte().numpy())
        assert tiny(picture, prompt="a dog", steps=1, size=8).size == picture.size


@pytest.mark.slow
@pytest.mark.parametrize("heights", [range(start, min(start + 5, 66)) for start in range(1, 66, 5)], ids=str)
def test_the_colorizer_takes_all_sizes(tiny, heights):
    for height in heights:
        for width in range(1, 66):
            gray = gradients(height, width)
            found = tiny(gray, prompt="a dog", steps=1, size=8, hints=[Hint(width / 2, height / 2, "#d04020", 1)])
            check(found, gray)


def sizes(count: int | None) -> list[tuple[int, int]]:
    """All sizes from 1 to 65, or those at the edges and `count` others."""
    everything = [(h, w) for h in range(1, 66) for w in range(1, 66)]
    if count is None:
        return everything
    rng = np.random.default_rng(0)
    chosen = {everything[k] for k in rng.choice(len(everything), count, replace=False)}
    return sorted(chosen | {(h, w) for h in (1, 2, 8, 9, 65) for w in (1, 2, 8, 9, 65)})


def decode(codec, size: tuple[int, int]) -> None:
    gray = gradients(*size)
    z = torch.randn(1, 4, -(-size[0] // 8), -(-size[1] // 8), generator=torch.Generator().manual_seed(0))
    check(codec.decode(z, gray), gray)


def spread(size: tuple[int, int]) -> None:
    gray = gradients(*size)
    hints = hint_map([Hint(size[1] - 1, 0, "#d04020"), Hint(0, size[0] - 1, "#2040d0")], size, size)
    chroma, confidence = propagate(gray, hints)
    assert chroma.shape[-2:] == confidence.shape[-2:] == gray.shape[-2:]
    assert torch.isfinite(chroma).all() and torch.isfinite(confidence).all(), size
    assert torch.isfinite(apply_hints(torch.zeros_like(chroma), gray, hints)).all(), size


@pytest.mark.parametrize("count", [300, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_chroma_of_any_size_merges_with_luminance_of_all_sizes(count):
    """Chroma of the latents' size merged with the photo's luminance, the result's last step."""
    chroma = torch.rand(1, 2, 16, 24, generator=torch.Generator().manual_seed(0)) - 0.5
    for height, width in sizes(count):
        gray = gradients(height, width)
        check(merge_chroma(chroma, gray), gray)
        array = (gray[0, 0] * 255).round().to(torch.uint8).numpy()
        assert merge_tiled(chroma[0], array).shape == (height, width, 3)


@torch.no_grad()
@pytest.mark.parametrize("count", [30, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_the_decoder_takes_all_sizes(count):
    codec = part_files.load_part(part_files.EMBEDDED / "vq_decoder.safetensors", "vq_decoder")[0]
    for size in sizes(count):
        decode(codec, size)


@pytest.mark.parametrize("count", [30, pytest.param(None, marks=pytest.mark.slow)], ids=["some", "all"])
def test_hints_spread_over_all_sizes(count):
    for size in sizes(count):
        spread(size)

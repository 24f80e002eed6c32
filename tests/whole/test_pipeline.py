"""The Colorizer on a tiny random model: sizes, luminance, determinism, hints, bad arguments."""

import numpy as np
import pytest
import torch
from PIL import Image

from seada_core.color.spaces import luminance, rgb_to_ycbcr
from seada_core.files.hint_format import Hint
from seada_core.hints.maps import palette_chroma
from seada_core.models import backbone
from seada_core.options import ColorizeOptions
from seada_core.pipeline import Colorizer
from seada_core.weights.export import diffusers_scheduler


@pytest.fixture(scope="module")
def colorizer(tiny_model):
    return Colorizer.from_pretrained(str(tiny_model))


def photo(height=50, width=70, seed=0) -> Image.Image:
    rng = np.random.default_rng(seed)
    small = Image.fromarray(rng.integers(0, 255, (5, 6), np.uint8), "L")
    return small.resize((width, height), Image.Resampling.BICUBIC)


def tensor(image) -> torch.Tensor:
    return torch.from_numpy(np.asarray(image.convert("RGB")).copy()).permute(2, 0, 1).float() / 255


@pytest.mark.parametrize("size", [(50, 70), (64, 64), (1, 1), pytest.param((3, 90), marks=pytest.mark.slow), (130, 17)])
def test_same_size_and_luminance(colorizer, size):
    image = photo(*size)
    result = colorizer(image, steps=2)
    assert result.size == image.size and result.mode == "RGB"
    difference = np.abs(np.asarray(result.convert("L")).astype(int) - np.asarray(image).astype(int))
    assert (difference > 1).mean() <= 0.005
    assert np.asarray(result).std(axis=-1).max() > 0 or size == (1, 1)  # it has colour


def test_differences_between_seeds_grow_with_noise(colorizer):
    def apart(noise: float) -> float:
        gray = luminance(tensor(photo()))[None]
        a, b = (colorizer.chroma(gray, prompt="a dog", steps=3, seed=seed, noise=noise) for seed in (0, 1))
        return (a - b).square().mean().sqrt().item()

    differences = [apart(noise) for noise in (0.0, 0.5, 1.0)]
    assert differences[0] == 0 < 1.2 * differences[1] < differences[2]


@pytest.mark.parametrize("mode", ["RGB", "RGBA", "LA", "P", "CMYK", "I;16", "1"])
def test_any_mode(colorizer, mode):
    if mode == "I;16":
        image = Image.fromarray(np.asarray(photo()).astype(np.uint16) * 257)
    else:
        image = photo().convert("RGB").convert(mode)
    assert colorizer(image, steps=1).size == image.size


def test_tensors_keep_their_kind(colorizer):
    one = tensor(photo())
    batch = torch.stack([one, tensor(photo(seed=1))])
    assert colorizer(one, steps=1).shape == one.shape
    result = colorizer(batch.half(), steps=1)
    assert result.shape == batch.shape and result.dtype == torch.float16
    assert colorizer(batch[:, :1], steps=1).shape == batch.shape
    assert (luminance(colorizer(batch, steps=1)) - luminance(batch)).abs().max() < 1e-5


def test_a_seed_gives_the_same_picture_again_alone_or_within_a_batch(colorizer):
    batch = torch.stack([tensor(photo(seed=i)) for i in range(3)])
    whole, again = colorizer(batch, seed=7), colorizer(batch, seed=7)
    assert torch.equal(whole, again)
    for i in range(3):
        assert (colorizer(batch[i], seed=7) - whole[i]).abs().max() < 0.5 / 255
    assert (colorizer(batch, seed=8) - whole).abs().max() > 2 / 255


def test_strength_0_is_bit_identical_to_no_control(colorizer, monkeypatch):
    image = tensor(photo())
    off = colorizer(image, strength=0)
    monkeypatch.setattr(Colorizer, "has", lambda self, part: part not in ("controlnet_rca", "captioner"))
    assert torch.equal(off, colorizer(image))
    monkeypatch.undo()
    assert not torch.equal(off, colorizer(image))


def test_the_controller_maps_the_photo_once(colorizer, monkeypatch):
    shown = []
    mapper = colorizer.part("controlnet_rca").mapper
    forward = mapper.forward
    monkeypatch.setattr(mapper, "forward", lambda picture: (shown.append(picture), forward(picture))[1])
    for image in (photo(seed=1), photo(seed=2)):
        colorizer(image, prompt="a dog", steps=3)
    assert len(shown) == 2 and not torch.equal(*shown)


def test_sampler_equals_diffusers_ddim(colorizer):
    """Our loop against diffusers' DDIM step by step, with guidance and control."""
    gray = luminance(tensor(photo(64, 64)))[None]
    context, uncond = colorizer.context(["a dog"]), colorizer.context([""])
    ours = colorizer.sample(gray, context, uncond, ColorizeOptions(steps=4, guidance=3.0, seed=5))
    scheduler = diffusers_scheduler(colorizer.preset.diffusion)
    unet, control = colorizer.part("unet"), colorizer.part("controlnet_rca")
    scheduler.set_timesteps(4)
    x = torch.randn(4, 8, 8, generator=torch.Generator().manual_seed(5))[None]
    for t in scheduler.timesteps:
        outputs = []
        for text in (context, uncond):
            features = control.encode(x, t, text, gray.expand(-1, 3, -1, -1))
            hook = lambda i, h, f=features: control.attend(i, h, f)  # noqa: E731
            outputs.append(backbone.denoise(unet, x, t, text, features.residuals, [hook]))
        x = scheduler.step(outputs[1] + 3.0 * (outputs[0] - outputs[1]), t, x, eta=0.0).prev_sample
    torch.testing.assert_close(ours, x, rtol=1e-3, atol=1e-3)


def test_a_hinted_place_has_the_hints_colour(colorizer):
    image = Image.new("L", (70, 50), 128)
    result = tensor(colorizer(image, hints=[Hint(20, 25, "#c04040", radius=4), Hint(55, 25, "#4040c0", radius=4)]))
    chroma = rgb_to_ycbcr(result)[1:]
    for x, color in ((20, (0xC0, 0x40, 0x40)), (55, (0x40, 0x40, 0xC0))):
        wanted = rgb_to_ycbcr(torch.tensor(color).float().view(3, 1, 1) / 255)[1:, 0, 0]
        assert (chroma[:, 25, x] - wanted).abs().max() < 0.03
    with pytest.raises(ValueError, match="outside"):
        colorizer(image, hints=[Hint(100, 5, "#ffffff")])


def test_a_palette_pulls_colours_towards_it():
    colorizer = Colorizer.from_pretrained("mini", "cpu")  # with random weights the decoder does not match the probe
    image, warm, cool = tensor(photo(64, 64)), "#8a6a60", "#60758a"

    def to_cool_or_gray(palette):
        result = colorizer(image, palette=palette, prompt="a photo", seed=3, steps=3, size=64)
        return torch.cdist(rgb_to_ycbcr(result)[1:].flatten(1).T, palette_chroma([cool])).amin(1).mean()

    pulled = to_cool_or_gray([cool])
    assert pulled < 0.5 * to_cool_or_gray(None)  # measured: 0.25
    assert pulled < 0.6 * to_cool_or_gray([warm])  # 0.41: to the palette's colours, not to grey alone


def test_saturation_scales_the_models_chroma(colorizer):
    gray = luminance(tensor(photo()))[None]
    plain, double = (colorizer.chroma(gray, saturation=s) for s in (1.0, 2.0))
    torch.testing.assert_close(double, 2 * plain)
    gray_again = np.asarray(colorizer(photo(), saturation=0))
    assert np.array_equal(gray_again, np.asarray(photo().convert("RGB")))


def test_prompts(colorizer):
    batch = torch.stack([tensor(photo(seed=i)) for i in range(2)])
    both = colorizer(batch, prompt=["a dog", "green grass"])
    assert (both[0] - colorizer(batch[0], prompt="a dog")).abs().max() < 0.5 / 255
    assert (both[1] - colorizer(batch[1], prompt="a dog")).abs().max() > 0
    assert not torch.equal(both, colorizer(batch, prompt=["a dog", "green grass"], negative_prompt="blue sky"))
    with pytest.raises(ValueError, match="3 prompts for 2 pictures"):
        colorizer(batch, prompt=["a", "b", "c"])


def test_callback_counts_steps_and_may_interrupt(colorizer):
    seen = []
    colorizer(photo(), steps=3, callback=lambda done, steps: seen.append((done, steps)))
    assert seen == [(1, 3), (2, 3), (3, 3)]

    def stop(done, steps):
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        colorizer(photo(), steps=3, callback=stop)


@pytest.mark.parametrize(
    "arguments, message",
    [
        ({"steps": 0}, "steps must be at least 1, not 0"),
        ({"steps": 1001}, "steps must be 1 to 1000, not 1001"),
        ({"noise": 1.5}, "noise must be 0 to 1, not 1.5"),
        ({"steps": -1}, "steps"),
        ({"guidance": -1}, "guidance"),
        ({"strength": -0.1}, "strength"),
        ({"size": 100}, "multiple of 8"),
        ({"saturation": -1}, "saturation"),
        ({"token_steps": 5}, "no token_diffusion part"),
        ({"temperature": 0}, "temperature"),
    ],
)
def test_bad_arguments(colorizer, arguments, message):
    with pytest.raises(ValueError, match=message):
        colorizer(photo(), **arguments)


def test_bad_tensors(colorizer):
    with pytest.raises(ValueError, match="expected"):
        colorizer(torch.rand(2, 5, 8, 8))


def test_half_precision_is_close(tiny_model, colorizer):
    image = tensor(photo())
    half = Colorizer.from_pretrained(str(tiny_model), dtype=torch.bfloat16)(image, steps=2)
    assert torch.isfinite(half).all() and (half - colorizer(image, steps=2)).abs().mean() < 0.05


def test_a_hint_map_equals_its_hints(colorizer):
    from seada_core.hints.maps import hint_map

    hints = [Hint(20, 10, "#d04020", 5), Hint(50, 40, "#2040d0", 5)]
    image = tensor(photo())[None]
    drawn = hint_map(hints, (50, 70), (50, 70))
    assert torch.equal(colorizer(image, hints=hints, steps=2), colorizer(image, hints=drawn, steps=2))
    with pytest.raises(ValueError, match="a hint map must be"):
        colorizer(image, hints=drawn[0], steps=2)


def test_tiling_does_not_change_colours(colorizer):
    gray, z = torch.rand(1, 1, 64, 300), torch.randn(1, 4, 8, 38)
    whole, tiled = (colorizer.decode(z, gray, None, tile=tile) for tile in (None, 64))
    assert (whole - tiled).abs().max() < 0.01


def test_parts_alone_decode_but_do_not_colour(tiny_model, tmp_path):
    import shutil

    from seada_core.files.weight_headers import CheckpointError

    shutil.copy(tiny_model / "vq_decoder.safetensors", tmp_path)
    colorizer = Colorizer(tmp_path)
    assert colorizer.finish(torch.randn(1, 4, 2, 2), torch.rand(1, 1, 16, 16), None).shape == (1, 2, 16, 16)
    with pytest.raises(CheckpointError, match="no unet file"):
        Colorizer.from_pretrained(str(tmp_path))

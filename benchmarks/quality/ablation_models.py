"""Models for rows of the ablations, called like a Colorizer: (gray, options) to pictures."""

from __future__ import annotations

import argparse
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
import torch.nn.functional as F
from torch import Tensor

from seada_core.color.merging import merge_chroma
from seada_core.color.sizes import diffusion_size, resize
from seada_core.color.spaces import luminance, rgb_to_ycbcr, ycbcr_to_rgb
from seada_core.evaluate import sources
from seada_core.evaluate.protocols import PROTOCOLS
from seada_core.models import ccd
from seada_core.models.ccd import HINT_SCALE
from seada_core.options import ColorizeOptions
from seada_core.pipeline import Colorizer
from seada_core.weights import part_files

TOKEN_STEPS = 10


class ByPicture:
    """A value for each picture, looked up by its luminance: evaluations pass nothing else to a model."""

    def __init__(self, options: argparse.Namespace, value: Callable[[sources.Entry, Tensor], object]):
        protocol, self._values = PROTOCOLS[options.protocol], {}
        entries = sources.choose(sources.find(options.validation), protocol, None, options.pictures)
        for entry in entries:
            truth, _ = sources.read_truth(entry, protocol)
            self._values[_key(sources.gray_of(truth))] = value(entry, truth)

    def __getitem__(self, gray: Tensor) -> object:
        return self._values[_key(gray)]


def _key(gray: Tensor) -> bytes:
    return (gray[0].cpu() * 255).round().byte().numpy().tobytes()


# --- captioners -------------------------------------------------------------------------------------------------------


DEFAULTS = ColorizeOptions()


class Captioned:
    """A Colorizer with prompts from another captioner."""

    def __init__(self, colorizer: Colorizer, caption: Callable[[Tensor], Sequence[str]]):
        self.colorizer, self.caption, self.folder = colorizer, caption, colorizer.folder

    def __call__(self, gray: Tensor, options: ColorizeOptions = DEFAULTS) -> Tensor:
        return self.colorizer(gray, options, prompt=self.caption(gray))


def true_captions(options: argparse.Namespace) -> Captioned:
    """The data set's first caption of each picture, the version without colour words if there is one."""
    from seada_core.train.sources import samples

    captions = {key: (record.get("captions") or [""])[0] for key, _, record in samples(str(options.validation))}
    known = ByPicture(options, lambda entry, truth: captions.get(entry.key, captions.get(entry.name, "")))
    return Captioned(Colorizer.from_pretrained(options.model, options.device), lambda gray: [known[g] for g in gray])


def captioned(choice: str) -> Callable[[argparse.Namespace], Captioned]:
    """Captions by the captioner of `KIND=PATH`, see `load_captioner`."""
    kind, _, path = choice.partition("=")

    def make(options: argparse.Namespace) -> Captioned:
        from seada_core.models.captioners.loading import load_captioner

        captioner = load_captioner(kind, Path(path)).to(options.device)
        colorizer = Colorizer.from_pretrained(options.model, options.device)
        return Captioned(colorizer, lambda gray: captioner(gray.to(options.device)))

    make.__name__ = choice
    return make


# --- decoders ---------------------------------------------------------------------------------------------------------


class Decoded:
    """Reconstructs pictures from their own latents by `decode` (latent, luminance, seed), without diffusion."""

    def __init__(self, options: argparse.Namespace, decode: Callable[[Tensor, Tensor, int], Tensor]):
        from seada_core.train.encoder import load_encoder

        encode = load_encoder(options.encoder, options.device)
        self.folder, self.decode, self.device = part_files.model_folder(options.model), decode, options.device

        def latent(entry: sources.Entry, truth: Tensor) -> Tensor:
            return encode(_padded(truth[None]).to(options.device)).half().cpu()

        self.known = ByPicture(options, latent)

    @torch.no_grad()
    def __call__(self, gray: Tensor, options: ColorizeOptions = DEFAULTS) -> Tensor:
        z = torch.cat([self.known[g] for g in gray]).float().to(self.device)
        height, width = gray.shape[-2:]
        y = luminance(_padded(gray)).to(self.device)
        return self.decode(z, y, options.seed)[..., :height, :width].clamp(0, 1).cpu()


def _padded(rgb: Tensor) -> Tensor:
    """Padded to multiples of 8 px, as latents need."""
    return F.pad(rgb, (0, -rgb.shape[-1] % 8, 0, -rgb.shape[-2] % 8), mode="replicate")


def _taesd(options: argparse.Namespace) -> Callable[[Tensor], Tensor]:
    from diffusers import AutoencoderTiny
    from safetensors.torch import load_file

    tiny, weights = AutoencoderTiny(), {}
    for name, value in load_file(options.decoder).items():
        layer, rest = name.split(".", 1)
        weights[f"layers.{int(layer) - 1}.{rest}"] = value.float()  # TAESD counts its clamp as the first layer
    try:
        tiny.decoder.load_state_dict(weights)
    except RuntimeError:
        raise ValueError(f"{options.decoder} is not TAESD's decoder") from None
    tiny = tiny.to(options.device).eval()
    return lambda z: (tiny.decode(z).sample + 1) / 2


def plain_decode(options: argparse.Namespace) -> Decoded:
    decode = _taesd(options)
    return Decoded(options, lambda z, gray, seed: decode(z))


def luminance_put_back(options: argparse.Namespace) -> Decoded:
    decode = _taesd(options)
    return Decoded(options, lambda z, gray, seed: merge_chroma(rgb_to_ycbcr(decode(z))[:, 1:], gray))


def gray_injection(options: argparse.Namespace) -> Decoded:
    decoder = _part("vq_decoder", options)
    return Decoded(options, lambda z, gray, seed: decoder.decode(z, gray))


def codebook(options: argparse.Namespace) -> Decoded:
    decoder = _part("vq_decoder", options)
    return Decoded(options, lambda z, gray, seed: decoder.decode_tokens(decoder.encode_tokens(z, gray), gray))


def token_diffusion(options: argparse.Namespace) -> Decoded:
    """`TOKEN_STEPS` steps of token diffusion from the true latent's own tokens, without text."""
    decoder, diffusion = _part("vq_decoder", options), _part("token_diffusion", options)

    def decode(z: Tensor, gray: Tensor, seed: int) -> Tensor:
        features = decoder.gray_features(gray)
        generators = [torch.Generator().manual_seed(seed) for _ in range(len(z))]
        tokens = diffusion.sample(decoder.encode_tokens(z, gray), features[-1], None, TOKEN_STEPS, generators)
        return merge_chroma(decoder.chroma(decoder.dequantize(tokens, features), gray, features), gray)

    return Decoded(options, decode)


def _part(name: str, options: argparse.Namespace) -> torch.nn.Module:
    path = part_files.model_folder(options.model) / f"{name}.safetensors"
    return part_files.load_part(path, name)[0].to(options.device)


# --- L_CCD's terms ----------------------------------------------------------------------------------------------------


class Guided:
    """A Colorizer whose x0 is guided by terms of L_CCD (Eq. 4) of the decoded picture, once per step."""

    def __init__(self, colorizer: Colorizer, terms: Sequence[str]):
        self.colorizer, self.terms, self.folder = colorizer, terms, colorizer.folder

    def __call__(self, gray: Tensor, options: ColorizeOptions = DEFAULTS) -> Tensor:
        colorizer, options = self.colorizer, options.resolved(self.colorizer.preset)
        photo = luminance(gray)
        small = resize(photo, diffusion_size(tuple(gray.shape[-2:]), options.size)).to(colorizer.device)
        decoder = colorizer.part("vq_decoder")

        def loss(x0: Tensor) -> Tensor:
            rgb = ycbcr_to_rgb(torch.cat([small, decoder.chroma(x0, small)], dim=1))
            found = ccd.losses(rgb, small)
            return ccd.weighted({name: found[name] for name in self.terms})

        with torch.no_grad():
            context = colorizer.context(colorizer.caption(small))
            uncond = colorizer.context([""]).expand_as(context) if options.guidance != 1 else None
            z = colorizer.sample(small, context, uncond, options, correct=lambda x0: ccd.guide(x0, loss, HINT_SCALE))
            chroma = colorizer.finish(z, small, context, options)
        return merge_chroma(chroma.cpu(), photo)


def guided(terms: Sequence[str]) -> Callable[[argparse.Namespace], Guided]:
    def make(options: argparse.Namespace) -> Guided:
        return Guided(Colorizer.from_pretrained(options.model, options.device), terms)

    make.__name__ = "+".join(terms)
    return make

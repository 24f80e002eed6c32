"""Colorizer: photo in, colour photo out. It joins the parts, which do not import one another."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import replace
from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal, overload

import torch
from PIL import Image
from torch import Tensor, nn

from . import memory, pages, windows
from .choices import HINT_METHODS
from .color import prints
from .color.purple import weaken_purple
from .color.sizes import DECODE_SIZE, decode_size, diffusion_size, resize, size_of
from .files.picture import from_pil
from .files.weight_headers import CheckpointError
from .hints.affinity import affinities_of, follow_hints
from .hints.color_phrases import names_purple
from .hints.maps import any_hint_map, palette_chroma, resize_hint_map, scheme_colors, spread_hints
from .hints.people import people_finder
from .hints.skin import even_skin, find_skin
from .models import ccd, sampling
from .models.captured import SMALL_UNET, Graphs
from .models.schedule import NoiseSchedule
from .options import ColorizeOptions
from .weights import part_files
from .weights.parts import Parts, PartStore
from .weights.stable_diffusion import Base

if TYPE_CHECKING:
    from .models.controlnet_rca import ControlNetRCA
    from .models.semantic_adapter import SemanticAdapter, SemanticEncoder
    from .models.token_diffusion import TokenDiffusion
    from .models.unet import UNet
    from .models.vq_decoder import VQDecoder

Callback = Callable[[int, int], None]  # steps done, steps in all; may raise to interrupt

DEFAULTS = ColorizeOptions()


class Colorizer:
    """The whole method over one model: caption, adapt, diffuse under control, decode, put luminance back.

    Args:
        parts: a folder of part files, or a store of parts. Each is loaded at first use; colouring a photo needs at
            least `unet`, `semantic_encoder` and `vq_decoder`.
        device: None for CUDA where there is one. A store has its own.
        dtype: None for float16 on a recent GPU and float32 elsewhere; likewise.
        graphs: record the model's functions as CUDA graphs for photos of sizes that were seen before, see `captured`.
            None for small models on CUDA.
    """

    def __init__(
        self,
        parts: Path | PartStore,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        graphs: bool | None = None,
    ):
        self.parts = parts if isinstance(parts, PartStore) else PartStore(Parts(parts), device, dtype)
        self.folder = self.parts.source.folder
        self.preset = self.parts.source.preset
        self.schedule = NoiseSchedule(self.preset.diffusion)
        small = sum(self.preset.unet.channels) <= SMALL_UNET
        self.graphs = Graphs(self.device.type == "cuda" and (small if graphs is None else graphs))

    @classmethod
    def from_pretrained(
        cls,
        model: str | None = None,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        *,
        base: str | Path | None = None,
        control: str | Path | None = None,
        captioner: str | Path | None = None,
        download: bool = False,
        graphs: bool | None = None,
    ) -> Colorizer:
        """The embedded model, a folder of part files, or Stable Diffusion 1.5 with or without such a folder.

        Args:
            model: "mini" (what None means without `base`) or a folder of part files.
            base: Stable Diffusion 1.5 as a diffusers folder, a single file or a hub name: UNet and text encoder, where
                the folder has none of its own. A missing decoder or captioner is the embedded model's.
            control: a stock ControlNet for grey photos, or a `controlnet_rca` part file, in place of the model's own.
            captioner: a CoCa file, or a CoCa, BLIP, BLIP-2 or ClipCap folder, in place of the model's own.
            download: fetch a hub name that is not in the local cache. Nothing else is ever downloaded.
            graphs: see `Colorizer`.
        Raises:
            CheckpointError: the folder or a part that is always needed is missing or broken.
        """
        if base is not None and model == "mini":
            raise CheckpointError("the embedded model needs no base: give no base, or a folder of parts to go with it")
        folder = part_files.model_folder(model or "mini") if model or base is None else None
        parts = Parts(
            folder,
            None if base is None else Base(base, download=download),
            None if control is None else Path(control),
            None if captioner is None else Path(captioner),
        )
        colorizer = cls(PartStore(parts, device, dtype), graphs=graphs)
        for part in ("unet", "semantic_encoder", "vq_decoder"):
            colorizer.part(part)
        return colorizer

    @property
    def device(self) -> torch.device:
        """The device that it computes on."""
        return self.parts.device

    @property
    def dtype(self) -> torch.dtype:
        """The dtype that the UNet and the parts around it compute in."""
        return self.parts.dtype

    def has(self, part: str) -> bool:
        """Whether the model comes with a part."""
        return self.parts.has(part)

    @overload
    def part(self, part: Literal["unet"]) -> UNet: ...
    @overload
    def part(self, part: Literal["semantic_encoder"]) -> SemanticEncoder: ...
    @overload
    def part(self, part: Literal["semantic_adapter"]) -> SemanticAdapter: ...
    @overload
    def part(self, part: Literal["controlnet_rca"]) -> ControlNetRCA: ...  # or a StockControlNet, with its methods
    @overload
    def part(self, part: Literal["hint_encoder"]) -> ccd.HintEncoder: ...
    @overload
    def part(self, part: Literal["vq_decoder"]) -> VQDecoder: ...
    @overload
    def part(self, part: Literal["token_diffusion"]) -> TokenDiffusion: ...
    @overload
    def part(self, part: str) -> nn.Module: ...

    def part(self, part: str) -> nn.Module:
        """A part of the model, loaded at first use.

        Raises:
            CheckpointError: the model does not have it, or its file is broken.
        """
        return self.parts.get(part)

    def offload(self) -> None:
        """From now on keep only the parts in use on the device, and the others in the CPU's memory."""
        self.parts.offload()
        self.graphs = Graphs(False)  # a graph's weights must stay where they are

    def compile(self) -> None:
        """Compile sampling steps and decoder: the first picture of a size takes minutes longer, the rest are quicker.

        Raises:
            ValueError: torch.compile finds no compiler; the message says what to install.
        """
        self.graphs.compiled = sampling.compile_functions(self.device)

    @overload
    def __call__(
        self, image: Tensor, options: ColorizeOptions = ..., *, callback: Callback | None = ..., **fields: Any
    ) -> Tensor: ...
    @overload
    def __call__(
        self, image: Image.Image, options: ColorizeOptions = ..., *, callback: Callback | None = ..., **fields: Any
    ) -> Image.Image: ...

    def __call__(
        self,
        image: Image.Image | Tensor,
        options: ColorizeOptions = DEFAULTS,
        *,
        callback: Callback | None = None,
        **fields: Any,
    ) -> Image.Image | Tensor:
        """Colour a photo, or a batch of them; each picture's result depends on itself and the seed alone.

        Args:
            image: a PIL picture of any mode and size, or sRGB (or grey) in [0, 1], (B, 3 or 1, H, W) or (3 or 1, H, W).
                Only its luminance is used.
            options, fields: single fields of `ColorizeOptions` replace those of `options`.
            callback: called as callback(done, steps) after every step; may raise to interrupt.
        Returns:
            the same kind and size: PIL RGB, or (B, 3, H, W) or (3, H, W) in the input's dtype.
        Raises:
            ValueError: an argument is out of range; the message says what is allowed.
        """
        if isinstance(image, Tensor):
            return pages.color_tensor(image, replace(options, **fields), self.chroma, callback)
        array = from_pil(image).luminance
        return Image.fromarray(pages.color_array(self, array, replace(options, **fields), callback))

    @torch.no_grad()
    def chroma(
        self, gray: Tensor, options: ColorizeOptions = DEFAULTS, *, callback: Callback | None = None, **fields: Any
    ) -> Tensor:
        """(Cb, Cr) maps (B, 2, h, w) for grey photos (B, 1, H, W) in [0, 1], h <= H; see `__call__`."""
        options = replace(options, **fields).resolved(self.preset)
        if not torch.isfinite(gray).all():
            raise ValueError("the photo has values that are not finite: expected 0 to 1")
        photo_size = size_of(gray)
        if windows.is_elongated(photo_size):
            return windows.in_windows(self, gray, options, callback)
        size = diffusion_size(photo_size, options.size)
        memory.check(self.preset, size, len(gray), self.dtype, self.device)
        small = decoded = prints.restored(gray, size, self.device)
        if small.data_ptr() == gray.data_ptr():
            small = decoded = gray.clone()  # the caller's may change in place, see `Captured`

        prompt = self.caption(small) if options.prompt is None else options.prompt
        texts = [prompt] * len(gray) if isinstance(prompt, str) else list(prompt)
        if len(texts) != len(gray):
            raise ValueError(f"{len(texts)} prompts for {len(gray)} pictures: give one, or one each")
        context = self.context(texts)
        uncond = self.context([options.negative_prompt or ""]).expand_as(context) if options.guidance != 1 else None

        methods = options.hint_methods
        if methods is None:
            methods = ("propagation",) if self.has("affinity") else HINT_METHODS
        modulation: list[tuple[Tensor, Tensor]] = []
        hints = soft_hints = spread = None
        if len(options.hints) or options.soft_hints is not None:
            decoded = resize(gray, decode_size(photo_size, max(DECODE_SIZE, options.size))).to(self.device)
            if len(options.hints):
                hints = any_hint_map(options.hints, decoded, photo_size)
                here = resize_hint_map(hints[:, :3], size_of(small))
                if "modulation" in methods and self.has("hint_encoder"):
                    encoder = self.part("hint_encoder")
                    features = encoder.encode(small.to(self.dtype), here.to(self.dtype))
                    modulation = encoder.scales_and_shifts(features)
                if "guidance" in methods:
                    spread = spread_hints(small, here)
            # applied only at the end: a UNet guided by them tints the whole photo
            if options.soft_hints is not None:
                soft_hints = any_hint_map(options.soft_hints, decoded, photo_size, dense=True)
        correct = self.ccd_guidance(small, spread, options)
        z = self.sample(small, context, uncond, options, modulation, correct, callback)
        if "propagation" not in methods:
            hints = None
        if modulation or correct is not None:
            options = replace(options, skin=0.0, purple=1.0)  # the diffusion was told what colours to take
        purples = [1.0 if options.prompt is not None and names_purple(text) else options.purple for text in texts]
        return self.finish(z, decoded, context, options, hints, soft_hints, purples=purples)

    def caption(self, gray: Tensor) -> list[str]:
        """Captions of grey photos (B, 1, H, W); empty texts for a model without a captioner."""
        if not self.has("captioner"):
            return [""] * len(gray)
        captioner: Any = self.part("captioner")
        captioner.graphs = self.graphs  # used by those whose decoder is our own
        return captioner(gray.expand(-1, 3, -1, -1))

    def context(self, texts: Sequence[str]) -> Tensor:
        """e_r (B, L, d): semantic encoder, then the semantic adapter where the model has one."""
        encoder = self.part("semantic_encoder")
        adapter = self.part("semantic_adapter") if self.has("semantic_adapter") else None
        return self.graphs(sampling.embed, encoder, adapter)(
            encoder, adapter, encoder.tokenize(list(texts)), self.dtype
        )

    def ccd_guidance(self, gray: Tensor, spread: Tensor | None, options: ColorizeOptions) -> ccd.Guidance | None:
        """CCD's guidance of x0 towards hints, and towards the nearest colours of a palette or those of a scheme.

        Args:
            gray: the photos at the size that is diffused (B, 1, 8h, 8w).
            spread: hints that `spread_hints` propagated over them (B, 3, 8h, 8w), if any.
            options: palette and palette_strength are used.
        Returns:
            None without hints and palette.
        """
        palette = None if options.palette_strength == 0 else options.palette
        if spread is None and not palette:
            return None
        height, width = size_of(gray)
        target = None if spread is None else resize_hint_map(spread, (height // 8, width // 8), dense=True)
        colors, weights, strength = None, {}, options.palette_strength
        if palette and strength is None:
            colors = palette_chroma(palette).to(self.device)
        if palette and strength is not None:
            colors = scheme_colors(palette).to(self.device)
            weights = {"palette": ccd.SCHEME_WEIGHT * strength}
        saturation = self.preset.sampling.saturation
        return ccd.Guidance(
            self.part("vq_decoder"), gray, target, colors, weights, saturation=saturation, graphs=self.graphs
        )

    def sample(
        self,
        gray: Tensor,
        context: Tensor,
        uncond: Tensor | None,
        options: ColorizeOptions = DEFAULTS,
        modulation: Sequence[tuple[Tensor, Tensor]] = (),
        correct: Callable[[Tensor], Tensor] | None = None,
        callback: Callback | None = None,
        plain: bool = False,
    ) -> Tensor:
        """Latents (B, 4, h, w) in float32, from noise at the last timestep.

        Args:
            gray: condition (B, 1, 8h, 8w).
            context, uncond: (B, L, d); uncond None for no guidance.
            options: steps, guidance, strength, seed, scheduler, shared_control and noise are used.
            modulation: the learned hints' scales and shifts, see `sampling.predict`.
            correct: changes each step's x0 estimate.
            plain: call all layers, neither compiled nor captured, so that hooks on them run.
        """
        options = options.resolved(self.preset)
        batch, _, height, width = gray.shape
        generator = torch.Generator().manual_seed(options.seed)
        start = options.noise * torch.randn(4, height // 8, width // 8, generator=generator)
        x = start.to(self.device).expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        both = context if uncond is None else torch.cat([context, uncond])
        unet, control, c_f = self.part("unet"), None, None
        if options.strength != 0 and self.has("controlnet_rca"):
            control = self.part("controlnet_rca")
            c_f = self.graphs(sampling.condense, control)(control, gray.to(self.dtype))
        how = options.strength, options.shared_control, tuple(modulation)
        timesteps = self.schedule.timesteps(options.steps)
        times = torch.tensor(timesteps, device=self.device)
        graphs = Graphs(False) if plain else self.graphs
        predict = graphs(sampling.predict, unet, control)
        seen = batch if options.shared_control else len(both)
        fixed = graphs(sampling.fix_parts, unet, control)(unet, control, times, both, seen)

        def model(x: Tensor, t: int) -> Tensor:
            step, z_t = timesteps.index(t), x.to(self.dtype)
            output = predict(unet, control, z_t, times[step], both, c_f, *how, fixed.at(step)).float()
            if uncond is None:
                return output
            with_text, without = output.chunk(2)
            return torch.lerp(without, with_text, options.guidance)

        return sampling.sample(model, x, self.schedule, options.steps, options.scheduler, correct, callback)

    def decode(
        self,
        z: Tensor,
        gray: Tensor,
        context: Tensor | None,
        options: ColorizeOptions = DEFAULTS,
        tile: int | None = None,
    ) -> Tensor:
        """(Cb, Cr) of latents z (B, 4, h, w): by Eq. 5, or with `token_steps` after token diffusion (Eq. 6).

        Decoded with `gray` at the latents' own size, (B, 2, 8h, 8w), since detail finer than the latents' misleads the
        decoder. A grey photo that rounds up to that size is not resized.

        Args:
            options: token_steps, temperature and seed are used.
            tile: decode in tiles of this many px, a multiple of 8, to save memory.
        """
        decoder, features = self.part("vq_decoder"), None
        if any(-(-side // 8) != cells for side, cells in zip(gray.shape[-2:], z.shape[-2:])):
            height, width = size_of(z)
            gray = resize(gray, (8 * height, 8 * width))
        if options.token_steps:
            if not self.has("token_diffusion"):
                raise ValueError(f"{self.folder} has no token_diffusion part: use token_steps=0, or train stage tokens")
            features = decoder.gray_features(gray)
            tokens = self.part("token_diffusion").sample(
                decoder.encode_tokens(z, gray),
                features[-1],
                None if context is None else context.float(),
                options.token_steps,
                [torch.Generator().manual_seed(options.seed) for _ in range(len(z))],
                temperature=options.temperature,
            )
            z = decoder.dequantize(tokens, features)
        if tile is not None:
            return decoder.chroma_tiled(z, gray, tile)
        return self.graphs(sampling.decode, decoder)(decoder, z, gray, features)

    def finish(
        self,
        z: Tensor,
        gray: Tensor,
        context: Tensor | None,
        options: ColorizeOptions = DEFAULTS,
        hints: Tensor | None = None,
        soft_hints: Tensor | None = None,
        tile: int | None = None,
        purples: Sequence[float] | None = None,
    ) -> Tensor:
        """(Cb, Cr) of latents z at their own size (see `decode`), times `saturation`, with purples times `purple` (or a
        factor for each picture) and people's skin in one tone.

        With hint maps (B, 3, H, W) of `gray`'s size, at that size: see `follow_hints`.
        """
        options = options.resolved(self.preset)
        usual = self.preset.sampling.saturation or 1.0
        chroma = usual * self.decode(z, gray, context, options, tile)
        chroma = weaken_purple(chroma, [options.purple] if purples is None else purples)
        finder = people_finder(self.has, self.part) if options.skin else None
        if finder is not None:
            small = resize(gray, size_of(chroma))
            evened = even_skin(chroma, small, find_skin(finder, small, chroma))
            chroma = torch.lerp(chroma, evened, options.skin)
        chroma = options.saturation / usual * chroma
        if hints is None and soft_hints is None:
            return chroma
        return follow_hints(chroma, gray, hints, soft_hints, affinities_of(self.has, self.part))

"""Colorizer: photo in, colour photo out. It joins the parts; no part knows of another."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from pathlib import Path
from typing import TYPE_CHECKING

import torch
import torch.nn.functional as F
from torch import Tensor, nn

from .color.merging import merge_chroma
from .color.sizes import DECODE_SIZE, decode_size, diffusion_size, resize
from .color.spaces import luminance, rgb_to_ycbcr
from .files.hint_format import Hint, Stroke
from .files.weight_headers import CheckpointError
from .hints.maps import apply_hints, hint_map, palette_chroma, resize_hint_map, scheme_colors, spread_hints
from .models import ccd, sampling
from .models.backbone import Hook, build_scheduler
from .presets import HINT_METHODS
from .weights import part_files
from .weights.parts import Parts

if TYPE_CHECKING:
    from PIL import Image

    from .presets import Preset

Callback = Callable[[int, int], None]  # steps done, steps in all; may raise to interrupt

HINT_SCALE = 6.0  # step length of hint guidance
HINT_MOVES = 4  # moves of hint guidance at each sampling step
PROBE_GAIN = 1.14  # chroma of the decoder over what `VQDecoder.cell_chroma` says, where guidance has moved a latent
# parts that are at work together: what is in no phase with the part that is asked for, `offload` sends away
PHASES = (
    {"captioner"},
    {"semantic_encoder", "semantic_adapter"},
    {"unet", "controlnet_rca", "hint_encoder", "vq_decoder"},
    {"vq_decoder", "token_diffusion"},
)


class Colorizer:
    """The whole method over one model: caption, adapt, diffuse under control, decode, put luminance back.

    Args:
        parts: a folder of part files, or where else the parts come from. Each is loaded at first use; colouring a photo
            needs at least `unet`, `semantic_encoder` and `vq_decoder`.
        device: None for CUDA where there is one.
        dtype: None for float32.
    """

    def __init__(self, parts: Path | Parts, device: torch.device | str | None = None, dtype: torch.dtype | None = None):
        self._source = parts if isinstance(parts, Parts) else Parts(parts)
        self.folder = self._source.folder
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = dtype or torch.float32
        self._parts: dict[str, nn.Module] = {}
        self.preset: Preset = self._source.preset
        self.scheduler = build_scheduler(self.preset.diffusion)
        self._predict = sampling.predict
        self._offloaded = False

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
    ) -> Colorizer:
        """The embedded model, a folder of part files, or Stable Diffusion 1.5 with or without such a folder.

        Args:
            model: "mini" (what None means without `base`) or a folder of part files.
            base: Stable Diffusion 1.5 as a diffusers folder, a single file or a hub name: UNet and text encoder, where
                the folder has none of its own. A decoder and a captioner are lent by the embedded model.
            control: a stock ControlNet for grey photos, or a `controlnet_rca` part file, in place of the model's own.
            captioner: a CoCa file, or a CoCa, BLIP, BLIP-2 or ClipCap folder, in place of the model's own.
            download: fetch a hub name that is not in the local cache. Nothing else is ever downloaded.
        Raises:
            CheckpointError: the folder or a part that is always needed is missing or broken.
        """
        if base is not None and model == "mini":
            raise CheckpointError("the embedded model is whole: leave out the base, or give a folder of parts for it")
        folder = part_files.model_folder(model or "mini") if model or base is None else None
        if base is not None:
            from .weights.stable_diffusion import Base

            base = Base(base, download=download)
        parts = Parts(folder, base, *(None if path is None else Path(path) for path in (control, captioner)))
        colorizer = cls(parts, device, dtype)
        for part in ("unet", "semantic_encoder", "vq_decoder"):
            colorizer.part(part)
        return colorizer

    def compile(self) -> None:
        """Compile sampling steps and decoder: the first picture of a size takes minutes longer, the rest are quicker.

        Raises:
            ValueError: torch.compile has no compiler here; the message says what to install.
        """
        self._predict = sampling.compile_parts(self.part("vq_decoder"), self.device)

    def offload(self) -> None:
        """From now on only the parts at work are on the device (see `PHASES`), the others in the CPU's memory."""
        self._offloaded = True
        for module in self._parts.values():
            nn.Module.to(module, "cpu")

    def has(self, part: str) -> bool:
        """Whether the model comes with a part."""
        return part in self._parts or self._source.has(part)

    def part(self, part: str) -> nn.Module:
        """A part of the model, loaded at first use."""
        if part not in self._parts:
            self._parts[part] = self._place(part, self._source.load(part))
        if self._offloaded:
            # accelerate's hooks wait for `forward`; parts are entered by other methods too, but always through here
            together = {name for phase in PHASES if part in phase for name in phase}
            for name in self._parts.keys() - together:
                nn.Module.to(self._parts[name], "cpu")
            nn.Module.to(self._parts[part], self.device)
        return self._parts[part]

    def _place(self, part: str, module: nn.Module) -> nn.Module:
        # the text and token parts work on ids and log-probabilities: half precision gains nothing there
        dtype = self.dtype if part in ("unet", "controlnet_rca", "semantic_adapter", "hint_encoder") else None
        # nn.Module's own `to`: diffusers' warns of a cast that is meant
        return nn.Module.to(module, self.device, dtype, memory_format=torch.channels_last)

    def __call__(self, image: Image.Image | Tensor, **options) -> Image.Image | Tensor:
        """Colour a photo, or a batch of them; each picture's result depends on itself and the seed alone.

        Args:
            image: a PIL picture of any mode and size, or sRGB (or grey) in [0, 1], (B, 3 or 1, H, W) or (3 or 1, H, W).
                Only its luminance is used.
            options: see `chroma`.
        Returns:
            the same kind and size: PIL RGB, or (B, 3, H, W) or (3, H, W) in the input's dtype.
        Raises:
            ValueError: an argument is out of range; the message says what is allowed.
        """
        if isinstance(image, Tensor):
            batch = image if image.ndim == 4 else image[None]
            if batch.ndim != 4 or batch.shape[1] not in (1, 3) or 0 in batch.shape:
                raise ValueError(f"expected (B, 3, H, W) or (3, H, W), grey or colour, not {tuple(image.shape)}")
            gray = (luminance(batch) if batch.shape[1] == 3 else batch).float().clamp(0, 1)
        else:
            from .files.pictures import from_pil

            array = from_pil(image).luminance
            gray = torch.tensor(array, dtype=torch.float32)[None, None]
            if array.dtype.kind == "u":
                gray = gray / 255
        chroma = self.chroma(gray, **options)
        if isinstance(image, Tensor):
            rgb = merge_chroma(chroma.to(gray.device), gray).to(image.dtype)
            return rgb if image.ndim == 4 else rgb[0]
        from PIL import Image as PILImage

        from .color.merging import merge_tiled

        return PILImage.fromarray(merge_tiled(chroma[0].float().cpu(), array))

    @torch.no_grad()
    def chroma(
        self,
        gray: Tensor,
        *,
        prompt: str | Sequence[str] | None = None,
        negative_prompt: str | None = None,
        hints: Sequence[Hint | Stroke] | Tensor = (),
        soft_hints: Tensor | None = None,
        hint_methods: Collection[str] = HINT_METHODS,
        palette: Sequence[str] | None = None,
        palette_strength: float | None = None,
        steps: int | None = None,
        guidance: float | None = None,
        strength: float = 1.0,
        seed: int = 0,
        size: int | None = None,
        saturation: float | None = None,
        token_steps: int = 0,
        temperature: float = 1.0,
        scheduler: str = "ddim",
        shared_control: bool = False,
        noise: float = 1.0,
        callback: Callback | None = None,
    ) -> Tensor:
        """(Cb, Cr) maps (B, 2, h, w) for grey photos (B, 1, H, W) in [0, 1], h <= H.

        Args:
            prompt: what the photo shows and in which colours; None asks the captioner.
            negative_prompt: what guidance moves away from.
            hints: colours at places, in pixels of the photo; or a hint map (B or 1, 3, any h, any w) of the photo.
            soft_hints: colours of regions, (B or 1, 3, any h, any w); the mask says how much each pixel's counts in the
                result.
            hint_methods: what makes colours follow hints: the hint encoder's learned "modulation" and "guidance" of
                each step's estimate (CCD), and "propagation" over similar pixels, which has the last word.
            palette: colours (`#rrggbb`) to stay close to.
            palette_strength: None draws chroma to the palette's nearest, grey among them, which hardly shows. A number
                takes the palette as a colour scheme, whose colours go where the photo is about as light; 1 is soft.
            steps: denoising steps, at least 1; None for the model's own number, as with guidance, size and saturation.
            guidance: classifier-free guidance weight; 1 turns it off.
            strength: of the controller, 0 to 1 and beyond; 0 leaves it out.
            seed: the noise of every picture.
            size: short side of the picture that is diffused, px, a multiple of 8.
            saturation: factor on the model's chroma; hints are left alone. 0 leaves the photo grey.
            token_steps: steps of token diffusion on the codebook; 0 decodes the latent itself (Eq. 5).
            temperature: of token diffusion.
            scheduler: "ddim", or "unipc" or "dpm++", half of whose steps come as near; see `sampling.solver`.
            shared_control: with guidance, run the conditional encoder once a step, with the prompt, instead of also
                without: quicker, and the prompt then guides through the UNet alone.
            noise: factor on the noise that several steps start from, 0 to 1: with less, seeds differ less and surfaces
                are evener.
            callback: called as callback(done, steps) after every step.
        Raises:
            ValueError: an argument is out of range; the message says what is allowed.
        """
        sampling = self.preset.sampling
        steps = sampling.steps if steps is None else steps
        guidance = sampling.guidance if guidance is None else guidance
        size = sampling.size if size is None else size
        saturation = sampling.saturation if saturation is None else saturation
        most = self.preset.diffusion.train_steps
        _check(
            steps, most, guidance, strength, size, saturation, token_steps, temperature, hint_methods, palette_strength
        )
        if not 0 <= noise <= 1:
            raise ValueError(f"noise must be 0 to 1, not {noise}")
        if not torch.isfinite(gray).all():
            raise ValueError("the photo has values that are not finite: expected 0 to 1")
        photo_size = tuple(gray.shape[-2:])
        small = decoded = resize(gray, diffusion_size(photo_size, size)).to(self.device)

        if prompt is None:
            prompt = self.caption(small)
        texts = [prompt] * len(gray) if isinstance(prompt, str) else list(prompt)
        if len(texts) != len(gray):
            raise ValueError(f"{len(texts)} prompts for {len(gray)} pictures: give one, or one each")
        context = self.context(texts)
        uncond = self.context([negative_prompt or ""]).expand_as(context) if guidance != 1 else None

        hooks: list[Hook] = []
        sparse = soft = spread = None
        if len(hints) or soft_hints is not None:
            decoded = resize(gray, decode_size(photo_size, max(DECODE_SIZE, size))).to(self.device)
            sparse = self._hint_map(hints, decoded, photo_size) if len(hints) else None
            soft = self._hint_map(soft_hints, decoded, photo_size, dense=True) if soft_hints is not None else None
            # soft hints come in at the end alone: a UNet that meets them on the way takes them for the photo's mood
            here = None if sparse is None else resize_hint_map(sparse, small.shape[-2:])
            if "modulation" in hint_methods and here is not None and self.has("hint_encoder"):
                hooks.append(self._modulation(small, here))
            if "guidance" in hint_methods and here is not None:
                spread = spread_hints(small, here)
        correct = self._correction(small, spread, palette, palette_strength)
        how = (hooks, correct, callback, scheduler, shared_control, noise)
        z = self.sample(small, context, uncond, steps, guidance, strength, seed, *how)
        if "propagation" not in hint_methods:
            sparse = None
        return self.finish(z, decoded, context, sparse, soft, saturation, token_steps, temperature, seed)

    def finish(
        self,
        z: Tensor,
        gray: Tensor,
        context: Tensor | None,
        hints: Tensor | None = None,
        soft_hints: Tensor | None = None,
        saturation: float = 1.0,
        token_steps: int = 0,
        temperature: float = 1.0,
        seed: int = 0,
        tile: int | None = None,
    ) -> Tensor:
        """(Cb, Cr) of latents z at their own size (see `decode`).

        With hint maps (B, 3, H, W) of `gray`'s size, at that size: `soft_hints` count as much as their mask says, and
        `hints` win where they are, see `apply_hints`.
        """
        chroma = saturation * self.decode(z, gray, context, token_steps, temperature, seed, tile)
        if hints is not None or soft_hints is not None:
            chroma = rgb_to_ycbcr(merge_chroma(chroma, gray))[:, 1:]
        if soft_hints is not None:
            chroma = torch.lerp(chroma, soft_hints[:, :2], soft_hints[:, 2:])
        return chroma if hints is None else apply_hints(chroma, gray, hints)

    def _hint_map(
        self, hints: Sequence[Hint | Stroke] | Tensor, gray: Tensor, photo_size: tuple[int, int], dense: bool = False
    ) -> Tensor:
        size = tuple(gray.shape[-2:])
        if not isinstance(hints, Tensor):
            sparse = hint_map(hints, size, photo_size)
        elif hints.ndim == 4 and hints.shape[0] in (1, len(gray)) and hints.shape[1] == 3:
            if not torch.isfinite(hints).all():
                raise ValueError("the hint map has values that are not finite")
            sparse = resize_hint_map(hints.float(), size, dense)
        else:
            raise ValueError(f"a hint map must be (1 or {len(gray)}, 3, h, w), not {tuple(hints.shape)}")
        return sparse.to(self.device).expand(len(gray), -1, -1, -1)

    def caption(self, gray: Tensor) -> list[str]:
        """What the captioner says of grey photos (B, 1, H, W); empty texts for a model without one."""
        if not self.has("captioner"):
            return [""] * len(gray)
        return self.part("captioner")(gray.expand(-1, 3, -1, -1))

    def context(self, texts: Sequence[str]) -> Tensor:
        """e_r (B, L, d): semantic encoder, then the semantic adapter where the model has one."""
        e = self.part("semantic_encoder")(list(texts))[0].to(self.dtype)
        return self.part("semantic_adapter")(e) if self.has("semantic_adapter") else e

    def sample(
        self,
        gray: Tensor,
        context: Tensor,
        uncond: Tensor | None,
        steps: int,
        guidance: float,
        strength: float,
        seed: int,
        hooks: Sequence[Hook] = (),
        correct: Callable[[Tensor], Tensor] | None = None,
        callback: Callback | None = None,
        scheduler: str = "ddim",
        shared_control: bool = False,
        noise: float = 1.0,
    ) -> Tensor:
        """Latents (B, 4, h, w) in float32, from noise at the last timestep.

        Args:
            gray: condition (B, 1, 8h, 8w).
            context, uncond: (B, L, d); uncond None for no guidance.
            hooks: besides RCA, see `backbone.denoise`.
            correct: changes each step's x0 estimate.
            scheduler, shared_control, noise: see `chroma`.
        """
        batch, _, height, width = gray.shape
        start = noise * torch.randn(4, height // 8, width // 8, generator=torch.Generator().manual_seed(seed))
        x = start.to(self.device).expand(batch, -1, -1, -1).contiguous(memory_format=torch.channels_last)
        both = context if uncond is None else torch.cat([context, uncond])
        unet = self.part("unet")
        control = self.part("controlnet_rca") if strength != 0 and self.has("controlnet_rca") else None
        c_f = None
        if control is not None:
            c_f = control.condense(gray.expand(-1, 3, -1, -1).to(self.dtype), (height // 8, width // 8))

        def model(x: Tensor, t: int) -> Tensor:
            timestep, z_t = torch.tensor(t, device=self.device), x.to(self.dtype)
            output = self._predict(unet, control, z_t, timestep, both, c_f, strength, shared_control, list(hooks))
            if uncond is None:
                return output.float()
            with_text, without = output.float().chunk(2)
            return without + guidance * (with_text - without)

        return sampling.sample(model, x, self.scheduler, steps, scheduler, correct, callback)

    def decode(
        self,
        z: Tensor,
        gray: Tensor,
        context: Tensor | None,
        token_steps: int = 0,
        temperature: float = 1.0,
        seed: int = 0,
        tile: int | None = None,
    ) -> Tensor:
        """(Cb, Cr) of latents z (B, 4, h, w): by Eq. 5, or with `token_steps` after token diffusion (Eq. 6).

        Decoded beside `gray` at the latents' own size, (B, 2, 8h, 8w): detail finer than the latents' is none of the
        decoder's business, and misleads it. A grey photo whose latents these could be is taken as it is.

        `tile`: decode in tiles of so many px, a multiple of 8, where memory is short.
        """
        decoder, features = self.part("vq_decoder"), None
        if any(-(-side // 8) != cells for side, cells in zip(gray.shape[-2:], z.shape[-2:])):
            gray = resize(gray, tuple(8 * cells for cells in z.shape[-2:]))
        if token_steps:
            if not self.has("token_diffusion"):
                raise ValueError(f"{self.folder} has no token_diffusion part: use token_steps=0, or train stage tokens")
            features = decoder.gray_features(gray)
            tokens = self.part("token_diffusion").sample(
                decoder.encode_tokens(z, gray),
                features[-1],
                None if context is None else context.float(),
                token_steps,
                [torch.Generator().manual_seed(seed) for _ in range(len(z))],
                temperature=temperature,
            )
            z = decoder.dequantize(tokens, features)
        return decoder.chroma(z, gray, features) if tile is None else decoder.chroma_tiled(z, gray, tile)

    def _modulation(self, gray: Tensor, sparse: Tensor) -> Hook:
        encoder = self.part("hint_encoder")
        features = encoder.encode(gray.to(self.dtype), sparse.to(self.dtype))

        def modulate(i: int, h: Tensor) -> Tensor:
            rows = [f.repeat(len(h) // len(f), 1, 1, 1) for f in features]
            return encoder.modulate(i, h, rows)

        return modulate

    def cell_chroma(self, z: Tensor, features: list[Tensor]) -> Tensor:
        """About the mean chroma (B, 2, h, w) that each latent cell gets in the result, at the model's own saturation.

        features: the decoder's of the grey photo at the latents' size, see `VQDecoder.cell_chroma`.
        """
        return PROBE_GAIN * self.preset.sampling.saturation * self.part("vq_decoder").cell_chroma(z, features)

    def _correction(
        self,
        gray: Tensor,
        spread: Tensor | None,
        palette: Sequence[str] | None,
        palette_strength: float | None = None,
    ) -> Callable[[Tensor], Tensor] | None:
        """CCD's guidance of x0 towards hints, and towards the nearest colours of a palette or those of a scheme."""
        if palette_strength == 0:
            palette = None
        if spread is None and not palette:
            return None
        decoder = self.part("vq_decoder")
        features = decoder.gray_features(gray)
        cells = F.adaptive_avg_pool2d(gray, features[-1].shape[-2:])
        target = None if spread is None else resize_hint_map(spread, features[-1].shape[-2:], dense=True)
        colors, weights = None, {}
        if palette and palette_strength is None:
            colors = palette_chroma(palette).to(self.device)
        elif palette:
            colors, weights = scheme_colors(palette).to(self.device), {"palette": ccd.SCHEME_WEIGHT * palette_strength}

        def loss(x0: Tensor) -> Tensor:
            # the grey photo is the luminance already: only chroma can be wrong
            return ccd.weighted(ccd.chroma_losses(self.cell_chroma(x0, features), cells, target, colors), weights)

        return lambda x0: ccd.guide(x0, loss, HINT_SCALE, HINT_MOVES)


def _check(
    steps, most, guidance, strength, size, saturation, token_steps, temperature, hint_methods, palette_strength
) -> None:
    if not 1 <= steps <= most:
        raise ValueError(f"steps must be 1 to {most}, not {steps}")
    if not 0 <= guidance <= 100:
        raise ValueError(f"guidance must be 0 to 100, not {guidance}")
    if not 0 <= strength <= 10:
        raise ValueError(f"strength must be 0 to 10, not {strength}")
    if size < 8 or size % 8:
        raise ValueError(f"size must be a multiple of 8 px and at least 8, not {size}")
    if not 0 <= saturation <= 10:
        raise ValueError(f"saturation must be 0 to 10, not {saturation}")
    if token_steps < 0:
        raise ValueError(f"token_steps must not be negative, not {token_steps}")
    if not 0 < temperature < float("inf"):
        raise ValueError(f"temperature must be a number above 0, not {temperature}")
    unknown = set(hint_methods) - set(HINT_METHODS)
    if unknown:
        raise ValueError(f"unknown hint method {sorted(unknown)[0]!r}; choose among {', '.join(HINT_METHODS)}")
    if palette_strength is not None and not 0 <= palette_strength <= 10:
        raise ValueError(f"palette_strength must be 0 to 10, not {palette_strength}")

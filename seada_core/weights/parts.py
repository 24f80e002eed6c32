"""A model's parts: where they come from (`Parts`), and where they are in memory (`PartStore`)."""

from __future__ import annotations

import threading
from pathlib import Path

import torch
from torch import nn

from ..files import weight_headers
from ..files.weight_headers import CheckpointError
from ..models.captioners.loading import captioner_kind, load_captioner
from ..presets import SD15, Preset
from . import part_files
from .stable_diffusion import Base
from .stock_controlnet import StockWeights

# parts that work together: `PartStore.offload` moves parts that share no phase with the requested one to the CPU
PHASES = (
    {"captioner"},
    {"semantic_encoder", "semantic_adapter"},
    {"unet", "controlnet_rca", "hint_encoder", "vq_decoder"},
    {"vq_decoder", "token_diffusion"},
)
# the text and token parts work on ids and log-probabilities: half precision gains nothing there
HALF_PRECISION = ("unet", "controlnet_rca", "semantic_adapter", "hint_encoder")
LENT = ("vq_decoder", "captioner")  # the embedded model's, which know SD1.5's latents and any photo


class Parts:
    """Where a model's parts come from: a folder of part files, and weights in other formats.

    Args:
        folder: part files, which come first; None where everything comes from `base`.
        base: Stable Diffusion 1.5's UNet and text encoder, where the folder has none. Parts of `LENT` that are missing
            are then the embedded model's.
        control: in place of the folder's controller: a `controlnet_rca` part file or a stock ControlNet.
        captioner: in place of the folder's captioner: see `captioners.loading`.
    Raises:
        CheckpointError: a file is missing, broken or of another kind; a part was made for another UNet.
    """

    def __init__(
        self,
        folder: Path | None,
        base: Base | None = None,
        control: Path | None = None,
        captioner: Path | None = None,
    ):
        self._part_files, self._base, self._control, self._captioner = folder, base, control, captioner
        self.folder = folder or (base.path if base else part_files.EMBEDDED)
        self.preset: Preset = SD15  # a folder without a UNet is used beside SD1.5's, with its numbers
        unet = self.file("unet")
        if unet is not None:
            self.preset = part_files.read_preset(unet, "unet")
        elif base is not None:
            self.preset = base.preset
        if base is not None:
            self._check(base)
        stock = self.stock_control()
        if stock is not None:
            stock.report().require()
        elif control is not None:
            _require_same(control, part_files.read_preset(control, "controlnet_rca"), self.preset)
        if captioner is not None:
            _captioner_kind(captioner)

    def file(self, part: str) -> Path | None:
        """The folder's own file of a part, where it has one."""
        file = self._part_files and self._part_files / f"{part}.safetensors"
        return file if file and file.is_file() else None

    def _lent(self, part: str) -> Path | None:
        return part_files.EMBEDDED / f"{part}.safetensors" if self._base is not None and part in LENT else None

    def _check(self, base: Base) -> None:
        """Raises CheckpointError for a part that was made for another UNet or text encoder than the base's."""
        unet, width = self.preset.unet, self.preset.unet.context_dim
        for part, made_for, wanted in (
            ("controlnet_rca", lambda preset: preset.unet, unet),
            ("hint_encoder", lambda preset: preset.unet, unet),
            ("semantic_adapter", lambda preset: preset.adapter.width, width),
            ("token_diffusion", lambda preset: preset.tokens.context_dim, width),
        ):
            file = self.file(part)
            found = wanted if file is None else made_for(part_files.read_preset(file, part))
            if found != wanted:
                raise CheckpointError(f"{file} was made for another model than {base.path}: {found}, expected {wanted}")

    def has(self, part: str) -> bool:
        """Whether the model comes with a part."""
        given = {"controlnet_rca": self._control, "captioner": self._captioner}
        if given.get(part) or self.file(part) or self._lent(part):
            return True
        return self._base is not None and part in ("unet", "semantic_encoder")

    def stock_control(self) -> StockWeights | None:
        """The stock ControlNet that is the controller, if one is."""
        if self._control is None or _is_part(self._control):
            return None
        return StockWeights(self._control, self.preset.unet)

    def load(self, part: str) -> nn.Module:
        """A part in evaluation mode and float32."""
        if part == "controlnet_rca" and self._control is not None:
            stock = self.stock_control()
            return part_files.load_part(self._control, part)[0] if stock is None else stock.load()[0]
        if part == "captioner" and self._captioner is not None:
            return _load_captioner(self._captioner)
        file = self.file(part) or self._lent(part)
        if file is None and self._base is not None and part in ("unet", "semantic_encoder"):
            return self._base.load(part)[0]
        return part_files.load_part(file or self.folder / f"{part}.safetensors", part)[0]


class PartStore:
    """A model's parts in memory: each is loaded at its first use and placed, and offloaded while others are at work.

    Args:
        source: where they come from.
        device: where they are used; None for CUDA where there is one.
        dtype: of the parts in `HALF_PRECISION`; None for `default_dtype`. The others always have float32.
        home: where parts are put when they are loaded; None for the device.
    """

    def __init__(
        self,
        source: Parts,
        device: torch.device | str | None = None,
        dtype: torch.dtype | None = None,
        home: torch.device | None = None,
    ):
        self.source = source
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self.dtype = dtype or default_dtype(self.device)
        self.home = home or self.device
        self._loaded: dict[str, nn.Module] = {}
        self._offloading = False
        self._loading = threading.Lock()

    def has(self, part: str) -> bool:
        """Whether the model comes with a part."""
        return part in self._loaded or self.source.has(part)

    def get(self, part: str) -> nn.Module:
        """A part, in evaluation mode and where it is used.

        Raises:
            CheckpointError: there is no part of that name, or its file is missing or broken.
        """
        if part not in part_files.SECTIONS:
            raise CheckpointError(f"unknown part {part!r}; the parts are {', '.join(part_files.SECTIONS)}")
        if part not in self._loaded:
            with self._loading:
                if part not in self._loaded:  # another thread may have loaded it meanwhile
                    self._loaded[part] = self.place(part, self.source.load(part))
        if self._offloading:
            # accelerate's hooks wait for `forward`; parts are entered by other methods too, but always through here
            together = {name for phase in PHASES if part in phase for name in phase}
            for name in self._loaded.keys() - together:
                nn.Module.to(self._loaded[name], "cpu")
            nn.Module.to(self._loaded[part], self.device)
        return self._loaded[part]

    def place(self, part: str, module: nn.Module) -> nn.Module:
        """A part that was just loaded, at home, in its precision and channels last."""
        dtype = self.dtype if part in HALF_PRECISION else None
        # nn.Module's own `to`: diffusers' warns of casts
        return nn.Module.to(nn.Module.to(module, self.home, dtype), memory_format=torch.channels_last)

    def offload(self) -> None:
        """From now on only the parts at work are on the device (see `PHASES`), the others in the CPU's memory."""
        self._offloading = True
        for module in self._loaded.values():
            nn.Module.to(module, "cpu")


def default_dtype(device: torch.device) -> torch.dtype:
    """float16 on GPUs of compute capability 8 (Ampere) and above, float32 elsewhere: some older ones give NaN in fp16.

    Not bfloat16, though training uses it: the embedded model samples in one step, where the UNet's output is the colour
    itself, and with 8 significant bits its pictures differ from those in float32 by up to 15 of 255 (1.35 on average),
    with float16's 11 bits by at most 1 (0.10), measured on an H200. Both are equally quick there.
    """
    if device.type == "cuda" and torch.cuda.get_device_capability(device) >= (8, 0):
        return torch.float16
    return torch.float32


def _is_part(path: Path) -> bool:
    return path.is_file() and "seada.part" in weight_headers.read_header(path).metadata


def _require_same(path: Path, made_for: Preset, preset: Preset) -> None:
    if made_for.unet != preset.unet:
        raise CheckpointError(f"{path} was made for another UNet: {made_for.unet}, expected {preset.unet}")


def _captioner_kind(path: Path) -> str:
    try:
        return captioner_kind(path)
    except ValueError as error:
        raise CheckpointError(str(error)) from None


def _load_captioner(path: Path) -> nn.Module:
    try:
        return load_captioner(_captioner_kind(path), path)
    except ValueError as error:
        raise CheckpointError(str(error)) from None

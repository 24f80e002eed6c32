"""Films: colours that do not flicker, for VIDEO and for batches of frames."""

from __future__ import annotations

import hashlib
import json
from io import BytesIO
from pathlib import Path
from typing import TYPE_CHECKING, Any

import folder_paths
import numpy as np
import torch
from comfy_api.latest import InputImpl, io

from ..seada_core.color.merging import merge_chroma
from ..seada_core.color.sizes import diffusion_size, resize
from ..seada_core.color.spaces import rgb_to_ycbcr
from ..seada_core.film.keys import KeyPainter, Steering, resize_chroma, weighted
from ..seada_core.film.motion import opencv
from ..seada_core.film.steady import SPACING, Steady, steady
from ..seada_core.film.streams import Film, Frame, Source, probe
from ..seada_core.film.work import colorize_film
from ..seada_core.film.writing import QUALITY, Encoding
from ..seada_core.options import ColorizeOptions
from . import bridge, inputs

if TYPE_CHECKING:
    from torch import Tensor

    from .hints import Hints

STEADY_SIDE = 192  # short side at which colours are made steady, px
SHOWN_EVERY = 8  # frames between those that are shown while it works


class SeAdaColorizeVideo(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaColorizeVideo",
            display_name="SeAda Colorize Video",
            category="SeAda",
            search_aliases=["video", "film", "movie", "colorize video", "deoldify", "temporal", "flicker", "deflicker"],
            description="Colours a black-and-white film with colours that do not flicker. Luminance, timing and sound "
            "are kept; frames are read and written one by one, so that a film of any length fits in memory.",
            inputs=[
                io.Video.Input("video", tooltip="The film to colour. Only its luminance is used."),
                io.String.Input(
                    "prompt",
                    default="",
                    multiline=True,
                    placeholder="auto: the model captions each shot",
                    tooltip="What the film shows, and in which colours. Empty: the model captions each shot.",
                ),
                inputs.seed("Change it for a different colouring. One seed serves the whole film."),
                inputs.size("Short side, in pixels, at which colours are computed. 0 is auto: the model's own."),
                inputs.saturation(),
                io.Int.Input(
                    "spacing",
                    default=SPACING,
                    min=1,
                    max=64,
                    tooltip="Every how many frames the model colours one; the others get theirs along the motion. "
                    "Larger is faster; try 4 for very fast motion.",
                ),
                io.Int.Input(
                    "quality",
                    default=QUALITY,
                    min=0,
                    max=51,
                    tooltip="Of the H.264 video that is made: smaller is better and larger in size. 0 is lossless.",
                ),
                io.String.Input(
                    "keyframe_numbers",
                    default="0",
                    tooltip="The numbers of the keyframes in the film, counted from 0: 0, 120, 310.",
                ),
                io.Int.Input(
                    "hints_frame",
                    default=0,
                    min=0,
                    max=2**31 - 1,
                    tooltip="The number of the frame that the hints are for, counted from 0.",
                ),
                io.Image.Input(
                    "keyframes",
                    optional=True,
                    tooltip="Frames of the film that were coloured elsewhere, by hand or by another model. Their shots "
                    "get their colours.",
                ),
                bridge.SeadaHints.Input(
                    "hints",
                    optional=True,
                    tooltip="Colours for places in one frame of the film; palettes for all of it.",
                ),
                bridge.Seada.Input(
                    "seada", optional=True, tooltip="A model from SeAda Load Model. Not connected: the embedded model."
                ),
                inputs.skin(),
            ],
            outputs=[
                io.Video.Output(id="colored", display_name="VIDEO", tooltip="The film in colour, with its sound.")
            ],
        )

    @classmethod
    def execute(
        cls,
        video: Any,
        prompt: str,
        seed: int,
        size: int,
        saturation: float,
        spacing: int,
        quality: int,
        keyframe_numbers: str,
        hints_frame: int,
        keyframes: Tensor | None = None,
        hints: Hints | None = None,
        seada: bridge.Bundle | None = None,
        skin: float = 1.0,
    ) -> io.NodeOutput:
        bundle = seada or bridge.bundle()
        if not bundle.has("unet"):
            raise ValueError(f"{bundle.folder} has no unet.safetensors; SeAda Colorize Video needs a whole model")
        opencv()
        given = video.get_stream_source()
        source: Source = given if isinstance(given, BytesIO) else Path(given)
        with torch.inference_mode(False):
            film = probe(source)
            part = _part(video, film)
            numbers = _numbers(keyframe_numbers, keyframes, film)
            stills = {} if keyframes is None else dict(zip(numbers, bridge.picture(keyframes, "keyframes")))
            steering = Steering(stills, _hints_at(hints, film, hints_frame))
            bundle.load("unet", "semantic_encoder", "semantic_adapter", "controlnet_rca", "hint_encoder", "vq_decoder")
            bundle.load("affinity", "people")
            if not prompt.strip():
                bundle.load("captioner")
            options = ColorizeOptions(
                prompt=prompt if prompt.strip() else None,
                palette=None if hints is None else hints.palette,
                palette_strength=None if hints is None else hints.palette_strength,
                seed=seed,
                size=size or None,
                saturation=saturation * bundle.preset.sampling.saturation,
                skin=skin,
            )
            painter = KeyPainter(bundle, options, film.size, steering)
            job = {
                "film": _identity(source),
                "model": str(bundle.folder),
                "options": [prompt, seed, size, saturation, skin, spacing, quality, part],
                "keyframes": [[time, _digest(still)] for time, still in stills.items()],
                "hints": None if hints is None else [hints_frame, *map(_digest, (hints.map, hints.soft))],
                "palette": None if hints is None else [hints.palette, hints.palette_strength],
            }
            name = hashlib.blake2b(json.dumps(job).encode(), digest_size=10).hexdigest()
            target = Path(folder_paths.get_temp_directory()) / f"seada_video_{name}.mp4"
            target.parent.mkdir(parents=True, exist_ok=True)
            show = bridge.progress_of_frames()

            def progress(done: int, total: int, frame: Frame, result: Steady) -> None:
                shown = _shown(film, frame, result) if done % SHOWN_EVERY == 1 else None
                show(done, total, shown)

            encoding = Encoding.for_target(target, quality=quality)
            notes = colorize_film(
                film, target, painter, encoding, part=part, spacing=spacing, job=job, progress=progress
            )
        return io.NodeOutput(InputImpl.VideoFromFile(str(target)), ui=bridge.warned([*film.notes, *notes]))


class SeAdaSteadyColors(io.ComfyNode):
    @classmethod
    def define_schema(cls) -> io.Schema:
        return bridge.schema(
            node_id="SeAdaSteadyColors",
            display_name="SeAda Steady Colors",
            category="SeAda",
            search_aliases=["deflicker", "flicker", "temporal", "consistent", "stabilize colors", "video", "frames"],
            description="Takes the flicker out of coloured frames, whatever model coloured them: their colours are "
            "averaged along the motion. Each frame keeps its own luminance.",
            inputs=[
                io.Image.Input("frames", tooltip="Frames of one film, in their order. Their luminance is kept."),
                io.Image.Input("colored", tooltip="The same frames in colour, as many, of any size."),
                io.Int.Input(
                    "spacing",
                    default=4,
                    min=1,
                    max=64,
                    tooltip="Every how many frames colours are taken from COLORED; the others get theirs along the "
                    "motion. Larger is faster and steadier, smaller follows the colours more closely.",
                ),
            ],
            outputs=[io.Image.Output(id="steady", display_name="IMAGE", tooltip="The frames in steady colours.")],
        )

    @classmethod
    def execute(cls, frames: Tensor, colored: Tensor, spacing: int) -> io.NodeOutput:
        if len(frames) != len(colored):
            raise ValueError(
                f"{len(frames)} frames and {len(colored)} coloured ones: connect the same frames to both, as many"
            )
        opencv()
        show = bridge.progress(len(frames))
        steadied = []
        with torch.inference_mode(False):
            size = diffusion_size((frames.shape[1], frames.shape[2]), STEADY_SIDE)
            lumas = (
                (float(i), resize(bridge.gray(frames[i : i + 1], "frames"), size)[0, 0].cpu().numpy())
                for i in range(len(frames))
            )
            for result in steady(lumas, _Colored(colored), spacing):
                i = result.index
                gray = bridge.gray(frames[i : i + 1], "frames").cpu()
                chroma = torch.from_numpy(result.chroma).permute(2, 0, 1)[None]
                steadied.append(bridge.image(merge_chroma(chroma, gray)))
                show(i + 1, len(frames))
        return io.NodeOutput(torch.cat(steadied))


class _Colored:
    """A `steady.Painter` whose keys are frames that have colours already."""

    def __init__(self, colored: Tensor):
        self.colored = colored

    def begin(self, luma: np.ndarray, time: float) -> None:
        return None

    def paint(self, luma: np.ndarray, time: float, shot: None) -> np.ndarray:
        i = round(time)
        chroma = rgb_to_ycbcr(bridge.picture(self.colored[i : i + 1], "colored").cpu())[:, 1:]
        chroma = resize_chroma(chroma, (luma.shape[0], luma.shape[1]))
        return weighted(chroma, torch.zeros(1, 1, *luma.shape))


def _part(video: Any, film: Film) -> tuple[int, int] | None:
    """The first and last pts of a trimmed VIDEO; None where it is whole, or this ComfyUI cannot trim."""
    start, duration = getattr(video, "get_active_trim_window", lambda: (0.0, 0.0))()
    if not start and not duration:
        return None
    last = film.seconds(int(film.times[-1]))
    end = min(start + duration - 0.5 / float(film.rate), last) if duration else last
    return film.near(start), film.near(end)


def _numbers(text: str, keyframes: Tensor | None, film: Film) -> list[float]:
    """The times of the key frames. Raises ValueError where there are more or fewer than pictures."""
    if keyframes is None:
        return []
    try:
        numbers = [int(part) for part in text.replace(",", " ").split()]
    except ValueError:
        raise ValueError(f"keyframe_numbers: {text!r} are not numbers of frames, such as 0, 120, 310") from None
    if len(numbers) != len(keyframes):
        raise ValueError(f"keyframe_numbers has {len(numbers)} numbers for {len(keyframes)} keyframes: give one each")
    return [_time(number, film, "keyframe_numbers") for number in numbers]


def _time(number: int, film: Film, name: str) -> float:
    if not 0 <= number < len(film.times):
        raise ValueError(f"{name}: there is no frame {number}; the film has frames 0 to {len(film.times) - 1}")
    return film.seconds(int(film.times[number]))


def _hints_at(hints: Hints | None, film: Film, number: int) -> dict[float, dict[str, Any]]:
    """What is given for the frame that the hints are for."""
    if hints is None:
        return {}
    given = {"hints": hints.at(1), "soft_hints": hints.soft}
    given = {name: value for name, value in given.items() if value is not None}
    return {_time(number, film, "hints_frame"): given} if given else {}


def _shown(film: Film, frame: Frame, result: Steady) -> Tensor:
    """A frame at the model's size, in colour."""
    chroma = torch.from_numpy(result.chroma).permute(2, 0, 1)
    luma = film.layout.luminance(frame.luma, (chroma.shape[1], chroma.shape[2]))
    return merge_chroma(chroma, torch.from_numpy(luma)[None])


def _identity(source: Source) -> list[Any]:
    if isinstance(source, BytesIO):
        return [hashlib.blake2b(source.getbuffer(), digest_size=16).hexdigest()]
    status = source.stat()
    return [str(source), status.st_size, status.st_mtime]


def _digest(tensor: Tensor | None) -> str | None:
    if tensor is None:
        return None
    return hashlib.blake2b(tensor.float().cpu().contiguous().numpy().tobytes(), digest_size=16).hexdigest()

"""What a stage starts from: the caches of its pictures, and its parts, loaded or new."""

from __future__ import annotations

import copy
import hashlib
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import PartialState
from torch import Tensor

from ..files.weight_headers import CheckpointError
from ..models.controlnet_rca import ControlNetRCA, RecognizingMapper, recognize
from ..models.efficientnet import EfficientNetLite0
from ..models.tokenizer import Tokenizer
from ..models.unet import UNet
from ..presets import CaptionerConfig, Preset, TextConfig, TrainConfig
from ..weights import part_files, stable_diffusion
from ..weights.stable_diffusion import Base
from ..weights.stock_controlnet import StockWeights, start_from
from . import exports
from .cache import build_shares, join_shares
from .data import Cache, Pictures, build_cache, cache_recognized, check_captions
from .encoder import load_encoder
from .options import TrainOptions
from .precision import computes_bfloat16
from .resident import ResidentPhotos, read_photos
from .sources import DataError
from .stages.codec import load_taesd
from .stages.registry import Parts, StageEntry, maker

# pictures


Kept = dict[str, ResidentPhotos]  # by kind, for the next stage of the same resolution


def open_pictures(
    options: TrainOptions, source: str, resolution: int, kind: str, state: PartialState, kept: Kept
) -> Pictures:
    """The pictures of a source, in a cache or on the device.

    kind: "cache" for the training pictures, "validation" for the others, which are never augmented.

    Raises:
        DataError: see `open_cache` and `read_photos`; captions are missing where they must not.
    """
    if not options.photos_on_device:
        return open_cache(options, source, resolution, kind, state)
    if options.encoder is None:
        raise DataError("--photos-on-device needs --encoder: latents are computed in every step")
    if kind in kept and kept[kind].meta["resolution"] == resolution:
        return kept[kind]
    kept.pop(kind, None)  # before others need the memory
    encoder, train = load_encoder(options.encoder, state.device), kind == "cache"
    photos = read_photos(
        source, resolution, encoder, state.device, options.film if train else 0.0, train, options.workers,
        options.describe_colors,
    )  # fmt: skip
    check_captions(photos, options.missing_captions, log=lambda _: None)  # reading has reported them
    kept[kind] = photos
    return photos


def open_cache(options: TrainOptions, source: str, resolution: int, kind: str, state: PartialState) -> Cache:
    """The cache of a source, which all processes build together if it does not exist yet.

    kind: "cache" for the training pictures, "validation" for the others.

    Raises:
        DataError: there is no cache and no encoder, the source cannot be used, or the folder is not shared.
    """
    folder = options.cache if kind == "cache" and options.cache else options.out / f"{kind}-{resolution}"
    if not (folder / "cache.json").is_file():
        _build_cache(options, source, folder, resolution, kind, state)
        state.wait_for_everyone()
        if not (folder / "cache.json").is_file():
            raise DataError(f"this machine does not see {folder}: --out and --cache must be shared by all machines")
    return Cache(folder)


def _build_cache(
    options: TrainOptions, source: str, folder: Path, resolution: int, kind: str, state: PartialState
) -> None:
    encoder_path = options.encoder
    if encoder_path is None:
        raise DataError(f"{folder} holds no cached latents yet: give --encoder to make them")
    rank, processes = state.process_index, state.num_processes
    shares = options.shares or processes
    film = options.film if kind == "cache" else 0.0  # never in validation
    if shares > 1:
        build_shares(
            source, folder, resolution, lambda: load_encoder(encoder_path, state.device), options.mirror,
            film, shares, range(rank, shares, processes), missing_captions=options.missing_captions,
            describe_colors=options.describe_colors,
        )  # fmt: skip
    state.wait_for_everyone()
    if state.is_main_process and shares > 1:
        join_shares(folder, shares)
    elif state.is_main_process:
        folder.parent.mkdir(parents=True, exist_ok=True)
        encoder = load_encoder(encoder_path, state.device)
        build_cache(
            source, folder, resolution, encoder, options.mirror, film, missing_captions=options.missing_captions,
            describe_colors=options.describe_colors,
        )  # fmt: skip


def with_recognized(
    pictures: Pictures, stage: StageEntry, parts: Parts, config: TrainConfig, state: PartialState
) -> Pictures:
    """The pictures with the maps of the parts' classifier, if the parts have one and the stage does not train it. A
    cache has them of whole pictures only, and of each classifier in files of its own."""
    own = _classifier_of(parts)
    if own is None or stage.learns_classifier(config):
        return pictures
    if isinstance(pictures, Cache):
        if config.crop != config.resolution:
            return pictures
        pictures = Cache(pictures.folder, _digest(own))
        if pictures.recognized:
            return pictures
    half = computes_bfloat16(state.device)
    classifier = copy.deepcopy(own).to(state.device).to(memory_format=torch.channels_last)

    def maps_of(gray: Tensor) -> list[Tensor]:
        with torch.autocast(state.device.type, torch.bfloat16, enabled=half):
            return recognize(classifier, gray.to(state.device, memory_format=torch.channels_last))

    if isinstance(pictures, ResidentPhotos):
        return replace(pictures, recognize=maps_of)
    cache = cast(Cache, pictures)
    if cache.shares:
        cache_recognized(cache, maps_of, mine=slice(state.process_index, None, state.num_processes))
    elif state.is_main_process:
        cache_recognized(cache, maps_of)
    state.wait_for_everyone()
    return Cache(cache.folder, cache.classifier)


def _classifier_of(parts: Parts) -> EfficientNetLite0 | None:
    """The classifier whose maps a stage's parts take: the mapper's, which may have been trained, or the captioner's."""
    mapper = getattr(parts.get("controlnet_rca"), "mapper", None)
    if isinstance(mapper, RecognizingMapper):
        return mapper.classifier
    captioner = parts.get("captioner")
    if captioner is not None and captioner.config.recognition:
        return cast(EfficientNetLite0, captioner.model.visual.classifier)
    return None


def _digest(classifier: EfficientNetLite0) -> str:
    """Names a classifier by its weights in float16, to which part files may round them."""
    digest = hashlib.sha256()
    for tensor in classifier.state_dict().values():
        digest.update(tensor.cpu().half().numpy().tobytes())
    return digest.hexdigest()[:12]


# parts


@dataclass(frozen=True)
class OtherWeights:
    """Third-party weights that new parts start from; they fit the preset and are not read yet."""

    base: Base | None = None
    control: StockWeights | None = None


def other_weights(options: TrainOptions) -> OtherWeights:
    """The weights that `--base` and `--control` name.

    Raises:
        CheckpointError: they do not fit the preset.
    """
    preset, base, control = options.preset, None, None
    if options.base is not None:
        base = Base(options.base, preset, download=options.download)
        stable_diffusion.require_same(base, preset)
        for part in ("unet", "semantic_encoder"):
            base.report(part).require()
    if options.control is not None:
        control = StockWeights(options.control, preset.unet, options.download)
        control.report().require()
    return OtherWeights(base, control)


def prepare_parts(
    stage: StageEntry,
    preset: Preset,
    cache: Pictures,
    folders: list[Path],
    others: OtherWeights = OtherWeights(),
    decoder: str | None = None,
) -> Parts:
    """A stage's parts: from the first folder that has their file, else from `others.base`, else new ones if the stage
    makes them. A new controller starts from `others.control`, a new codec from TAESD's `decoder`, if given, and new
    token diffusion from the decoder's codebook.

    Raises:
        CheckpointError: a part that an earlier stage makes does not exist.
        DataError: `decoder` is not TAESD's.
    """
    parts: dict[str, Any] = {}
    for part in (*stage.needs, *stage.makes):
        file = exports.find(part, folders)
        if file is not None:
            parts[part] = part_files.load_part(file, part)[0].requires_grad_(True).train()
        elif others.base is not None and part in ("unet", "semantic_encoder"):
            parts[part] = others.base.load(part)[0].requires_grad_(True).train()
        elif part in stage.needs:
            made_by = maker(part).name
            raise CheckpointError(
                f"stage {stage.name} needs {part}.safetensors, and there is none in {' or '.join(map(str, folders))}: "
                f"train stage {made_by} first, or give --init{' or --base' if made_by == 'base' else ''}"
            )
        elif part == "controlnet_rca":
            parts[part] = _new_controller(parts["unet"], preset, others.control)
        else:
            parts[part] = part_files.build(part, preset, _new_tokenizer(part, preset, cache))
            if part == "captioner" and preset.captioner.recognition:
                parts[part].model.visual.classifier.load_package_weights()
            if part == "vq_decoder" and decoder is not None:
                load_taesd(parts[part].decoder, decoder)
            if part == "token_diffusion":
                parts[part].start_from(parts["vq_decoder"].codebook)
    return cast(Parts, parts)


def _new_controller(unet: UNet, preset: Preset, start: StockWeights | None) -> ControlNetRCA:
    """E_con starts as a copy of the UNet's encoder, and the rest from a stock ControlNet if there is one."""
    control = ControlNetRCA(unet, preset.control)
    if isinstance(control.mapper, RecognizingMapper):
        control.mapper.classifier.load_package_weights()
    if start is not None:
        for note in start_from(control, start.load()[0]):
            print(f"not taken from --control: {note}")
    return control


def _new_tokenizer(part: str, preset: Preset, cache: Pictures) -> Tokenizer | None:
    """A tokenizer of the tokens that the captions use, where a part's vocabulary is smaller than CLIP's."""
    sizes: dict[str, TextConfig | CaptionerConfig] = {"semantic_encoder": preset.text, "captioner": preset.captioner}
    size = sizes.get(part)
    if size is None or size.vocab_size >= 49408:
        return None
    kinds = ("captions", "color_captions")
    captions = [text for record in cache.records for kind in kinds for text in record.get(kind, ())]
    return Tokenizer.from_captions(captions, size.length, size.vocab_size)


def decoder_of_probe(stage: StageEntry, folders: list[Path]) -> Path:
    """The file of the decoder that the chroma probe is made of.

    Raises:
        CheckpointError: there is none.
    """
    file = exports.find("vq_decoder", folders)
    if file is None:
        raise CheckpointError(
            f"stage {stage.name} weighs its loss by the colours of vq_decoder.safetensors, and there is none "
            f"in {' or '.join(map(str, folders))}: train stage codec first, give --init, or --chroma-weight 0"
        )
    return file

"""A run of the trainer: checks everything first, then caches, builds parts, trains and exports, stage by stage."""

from __future__ import annotations

import gc
import sys
from pathlib import Path
from typing import cast

import torch
from accelerate import PartialState
from torch import Tensor

from ..command_line import FAILED, FINE
from ..files.weight_headers import CheckpointError
from ..models.vq_decoder import VQDecoder
from ..presets import TrainConfig
from ..weights.part_files import load_part
from . import exports
from .checks import TrainingError, check_on_device, check_recipe, check_same_run, latest_checkpoint, process_state
from .data import Pictures, check_captions
from .loop import fit
from .lora import add_lora
from .options import ALL, TrainOptions
from .prepare import Kept, decoder_of_probe, open_pictures, other_weights, prepare_parts, with_recognized
from .probe import ChromaProbe
from .resident import ResidentPhotos
from .saving import is_finished
from .sources import DataError
from .stages.registry import Parts, StageEntry
from .stages.stage import Stage
from .texts import cache_texts, text_is_frozen, use_cached_texts


def run(options: TrainOptions) -> int:
    """Train the stages; a failure is one line on standard error. Returns the exit status."""
    try:
        for stage in options.stages:  # all of them, before the first one takes hours
            check(stage, options)
        kept: Kept = {}
        for stage in options.stages:
            train(stage, options, kept)
            gc.collect()  # hooks and modules refer to each other, and the next stage needs their memory
    except (CheckpointError, DataError, TrainingError, OSError, ImportError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    return FINE


def is_done(stage: StageEntry, options: TrainOptions) -> bool:
    """Whether an earlier run of all stages finished this one."""
    config = options.config(stage)
    return (
        options.stage == ALL and options.resume and is_finished(options.out / stage.name, config.steps, config.minutes)
    )


def check(stage: StageEntry, options: TrainOptions) -> None:
    """Check a stage before anything is read or computed.

    Raises:
        TrainingError, CheckpointError
    """
    config, preset = options.config(stage), options.preset
    if is_done(stage, options):
        return
    state = process_state()
    check_recipe(config, state.num_processes, state.device.type, stage.multiple)
    if options.photos_on_device:
        check_on_device(options, state.num_processes)
    newest = latest_checkpoint(options.out / stage.name)
    if newest and options.resume:
        check_same_run(newest, config, preset)
    other_weights(options)
    folders = options.folders(stage)
    for part in (*stage.needs, *stage.makes):
        file = exports.find(part, folders)
        if file is not None:
            exports.check_sizes(file, part, preset)
    if options.stage == stage.name and stage.needs_probe(config):
        decoder_of_probe(stage, folders)


def train(stage: StageEntry, options: TrainOptions, kept: Kept) -> None:
    """Read a stage's pictures, build its parts, train, and write its part files to OUT/parts."""
    config, preset = options.config(stage), options.preset
    if is_done(stage, options):
        return
    folders = options.folders(stage)
    state = process_state()
    cache = open_pictures(options, options.data, config.resolution, "cache", state, kept)
    validation = None
    if options.validation:
        validation = open_pictures(options, options.validation, config.resolution, "validation", state, kept)
    check_captions(cache, options.missing_captions, print if state.is_main_process else lambda _: None)
    torch.manual_seed(config.seed)  # new parts start alike in every run and process
    parts = prepare_parts(stage, preset, cache, folders, other_weights(options), options.decoder)
    cache = with_recognized(cache, stage, parts, config, state)
    if validation is not None:
        validation = with_recognized(validation, stage, parts, config, state)
    if stage.uses_lora(config):
        _add_lora(parts, options, stage, config, state)
    probe = _fitted_probe(stage, folders, cache, state) if stage.needs_probe(config) else None
    module = stage.build(parts, preset, config, probe)
    out, dtype = options.parts_folder, getattr(torch, options.parts_dtype)
    exported = {part: found for part, found in module.parts().items() if exports.learns(found)}
    if state.is_main_process:
        for part, found in module.parts().items():
            if part not in exported and not (out / f"{part}.safetensors").is_file():
                exports.leave(out, part, found, preset, folders)
    state.wait_for_everyone()
    if config.cache_text:
        _cache_texts(module, parts, (cache, validation), options, state)
    del parts  # a text encoder whose captions are cached is not kept in memory

    def export(tensors: dict[str, Tensor] | None) -> None:
        for part, found in exported.items():
            exports.export(out, part, found, preset, tensors, module, options.lora_folder, dtype)

    workers = 0 if options.photos_on_device else options.workers  # what is on the device stays in this process
    fit(module, config, cache, options.out / stage.name, validation, options.resume, export, workers, preset)


def _add_lora(parts: Parts, options: TrainOptions, stage: StageEntry, config: TrainConfig, state: PartialState) -> None:
    folder = options.lora_folder
    if state.is_main_process and not (folder / "unet.safetensors").is_file():  # as it was without
        exports.leave(folder, "unet", parts["unet"], options.preset, options.folders(stage))
    state.wait_for_everyone()
    file = folder / "unet_lora.safetensors"
    add_lora(parts["unet"], config.lora, file if file.is_file() else None)


def _fitted_probe(stage: StageEntry, folders: list[Path], cache: Pictures, state: PartialState) -> ChromaProbe:
    decoder, _ = load_part(decoder_of_probe(stage, folders), "vq_decoder")
    probe = ChromaProbe(cast(VQDecoder, decoder))
    if isinstance(cache, ResidentPhotos):
        probe.to(state.device)
    explained = probe.fit(cache)
    if state.is_main_process:
        print(f"chroma probe: explains {explained:.3f} of the latents' chroma")
    return probe


def _cache_texts(module: Stage, parts: Parts, caches: tuple, options: TrainOptions, state: PartialState) -> None:
    if text_is_frozen(module):
        with state.main_process_first():
            texts = cache_texts(parts["semantic_encoder"].to(state.device), caches, options.out)
        use_cached_texts(module, texts)

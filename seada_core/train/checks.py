"""Checks of a run before anything is computed."""

from __future__ import annotations

import dataclasses
import json
from pathlib import Path
from typing import Any

from accelerate import PartialState
from accelerate.utils import parse_flag_from_env

from ..presets import Preset, TrainConfig
from ..settings import setting_of, to_dict
from .options import TrainOptions

# what a resumed run may change: how long it trains, how often it reports, and how it fits into memory
FREE = (
    "steps", "minutes", "decay", "checkpoint_every", "validate_every", "micro_batch", "gradient_checkpointing",
    "cache_text",
)  # fmt: skip


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why, and which checkpoint remains."""


def process_state() -> PartialState:
    """accelerate's state of this process among those that it was started with: `num_processes`, `device` and more."""
    return PartialState(cpu=parse_flag_from_env("ACCELERATE_USE_CPU"))  # as `Accelerator` will ask for it


def micro_batches(config: TrainConfig, processes: int, multiple: int = 1) -> tuple[int, int]:
    """(pictures a process takes at once, how often for a step).

    Raises:
        TrainingError: the batch cannot be split that way.
    """
    share, rest = divmod(config.batch, processes)
    if rest:
        raise TrainingError(
            f"a batch of {config.batch} cannot be shared among {processes} processes equally: "
            f"give a --batch that is a multiple of {processes}"
        )
    micro = min(config.micro_batch or share, share)
    if micro < 1 or share % micro:
        raise TrainingError(
            f"each of {processes} processes takes {share} pictures a step, not a multiple of --micro-batch {micro}"
        )
    if micro % multiple:
        raise TrainingError(f"this stage takes its pictures {multiple} by {multiple}, so not {micro} at once")
    return micro, share // micro


def check_recipe(config: TrainConfig, processes: int, device: str, multiple: int = 1) -> None:
    """Refuse a recipe that cannot work.

    Raises:
        TrainingError: says which option, and what is allowed.
    """
    micro_batches(config, processes, multiple)
    if config.steps < 1:
        raise TrainingError(f"--steps must be at least 1, not {config.steps}")
    if config.resolution < 8 or config.resolution % 8:
        raise TrainingError(f"--resolution must be a multiple of 8 px (a latent cell), not {config.resolution}")
    if not 8 <= config.crop <= config.resolution or config.crop % 8:
        raise TrainingError(
            f"--crop must be a multiple of 8 px and at most the resolution, {config.resolution} px, not {config.crop}"
        )
    for of in dataclasses.fields(config):
        allowed, value = setting_of(of).choices, getattr(config, of.name)
        if allowed and value not in allowed:
            raise TrainingError(f"--{of.name} must be {', '.join(allowed[:-1])} or {allowed[-1]}, not {value}")
    if config.precision == "fp16" and device == "cpu":
        raise TrainingError("--precision fp16 needs a GPU; on a CPU use bf16 or no")
    if config.frozen == "bf16" and config.precision == "no":
        raise TrainingError("--frozen bf16 needs autocast: give --precision bf16 (or fp16), or --frozen fp32")
    if config.lora < 0:
        raise TrainingError(f"--lora is a rank of at least 1, or 0 for none, not {config.lora}")
    if config.lora and config.train_unet:
        raise TrainingError("--lora trains beside a frozen UNet: give either --lora or --train-unet")
    if config.lora:
        try:
            import peft  # noqa: F401
        except ImportError:
            raise TrainingError("--lora needs peft: pip install peft") from None


def check_on_device(options: TrainOptions, processes: int) -> None:
    """Refuse what does not go with `--photos-on-device`.

    Raises:
        TrainingError: says which option.
    """
    if processes > 1:
        raise TrainingError(
            f"--photos-on-device is for one process, not {processes}: leave it out, and they share a cache"
        )
    if options.encoder is None:
        raise TrainingError("--photos-on-device needs --encoder: latents are computed in every step")
    for name, given in (("--cache", options.cache is not None), ("--shares", options.shares > 1)):
        if given:
            raise TrainingError(f"--photos-on-device makes no cache: drop {name}")


def describe(config: TrainConfig, preset: Preset | None) -> dict:
    """What a checkpoint records of its run: the recipe's fields, and `sizes`, the preset's."""
    sizes = {} if preset is None else to_dict(preset)
    for name in ("name", "training", "recipe", "sampling"):  # none of these changes what is trained
        sizes.pop(name, None)
    return json.loads(json.dumps({**to_dict(config), "sizes": sizes}))


def check_same_run(checkpoint: Path, config: TrainConfig, preset: Preset | None) -> None:
    """A resumed run has the recipe and the sizes that it began with, except for `FREE` and `_more_careful`.

    Raises:
        TrainingError: names each field that changed, with both values.
    """
    then, now = json.loads((checkpoint / "config.json").read_text()), describe(config, preset)
    old_sizes, new_sizes = then.pop("sizes", {}), now.pop("sizes")
    defaults = to_dict(TrainConfig())
    changes = [
        f"{name} was {then.get(name, defaults[name])}, now {now[name]}"
        for name in now
        if name not in FREE
        and then.get(name, defaults[name]) != now[name]
        and not _more_careful(name, then.get(name, defaults[name]), now[name])
    ]
    for section, old in old_sizes.items():
        changes += [
            f"{section}.{name} was {value}, now {new_sizes[section].get(name)}"
            for name, value in old.items()
            if section in new_sizes and new_sizes[section].get(name) != value
        ]
    if changes:
        raise TrainingError(
            f"cannot resume {checkpoint.parent.name} from {checkpoint.name} with other settings: {'; '.join(changes)}. "
            "Give what it began with, or start again in another --out"
        )


def _more_careful(name: str, then: Any, now: Any) -> bool:
    """Whether a change is a remedy for a loss that is not finite (a lower rate or norm, or full precision), or none."""
    if name in ("lr", "clip"):
        return 0 < now < then
    if (name, then, now) == ("precision", "bf16", "auto"):  # the default before there was "auto"
        return True
    return (name, now) in (("precision", "no"), ("frozen", "fp32"))


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step in `folder`, or None."""
    return max(folder.glob("checkpoint-*[0-9]"), key=lambda p: int(p.name.split("-")[1]), default=None)

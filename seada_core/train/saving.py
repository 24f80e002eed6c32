"""Checkpoints: what they hold, how they are written and found again."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file

from ..files import atomic
from . import disk
from .checks import TrainingError, latest_checkpoint
from .stages.stage import Stage

EXPORTED = "exported"  # a file in a checkpoint's folder, once the part files are those of its step


def plain(name: str) -> str:
    """A parameter's name without what DDP and checkpointing put into it."""
    return name.removeprefix("module.").replace("_checkpoint_wrapped_module.", "")


def keep_only_what_is_trained(accelerator: Accelerator, stage: Stage, frozen: set[str]) -> None:
    """Exclude frozen weights from checkpoints: the part files have them. FSDP and DeepSpeed write their own."""

    def before_saving(models: list, weights: list, folder: str) -> None:
        for state in weights:
            for name in list(state):
                if plain(name) in frozen:
                    del state[name]

    def before_loading(models: list, folder: str) -> None:
        if models:
            missing, unexpected = stage.load_state_dict(load_file(Path(folder) / "model.safetensors"), strict=False)
            strange = [*unexpected, *({plain(name) for name in missing} - frozen)]
            if strange:
                raise TrainingError(f"{folder} is of another model: {strange[0]} differs")
            models.clear()

    accelerator.register_save_state_pre_hook(before_saving)
    accelerator.register_load_state_pre_hook(before_loading)


def save(accelerator: Accelerator, folder: Path, step: int, description: dict) -> Path:
    """Write `checkpoint-<step>` aside and rename it; the newest two are kept.

    Raises:
        OSError: it could not be written; nothing of it remains, and the previous one is intact.
    """
    target = folder / f"checkpoint-{step}"
    part = target.with_suffix(".part")
    main = accelerator.is_main_process
    if main:
        shutil.rmtree(part, ignore_errors=True)
    accelerator.wait_for_everyone()
    try:
        with disk.writing(target, lambda: last_good(folder)):
            accelerator.save_state(str(part))
            accelerator.wait_for_everyone()
            if main:
                (part / "config.json").write_text(json.dumps(description))
                if target.is_dir():
                    disk.discard(target)
                atomic.rename(part, target)
    except OSError:
        shutil.rmtree(part, ignore_errors=True)
        raise
    if main:
        kept = sorted(folder.glob("checkpoint-*[0-9]"), key=lambda p: int(p.name.split("-")[1]))
        for old in kept[:-2]:
            disk.discard(old)
    return target


def load(accelerator: Accelerator, checkpoint: Path) -> None:
    """Restore a checkpoint. Raises TrainingError if it cannot be read; the message names an older one, if any."""
    try:
        accelerator.load_state(str(checkpoint))
    except (SafetensorError, OSError, EOFError, RuntimeError, ValueError, KeyError, IndexError) as error:
        if isinstance(error, TrainingError):
            raise
        others = [p for p in checkpoint.parent.glob("checkpoint-*[0-9]") if p != checkpoint]
        older = max(others, key=lambda p: int(p.name.split("-")[1]), default=None)
        raise TrainingError(
            f"{checkpoint} is damaged ({str(error).splitlines()[0]}): delete it, and --resume "
            + (f"goes on from {older.name}" if older else "starts from the beginning")
        ) from error


def clean(folder: Path) -> None:
    """Delete checkpoints that a killed run left half written or half deleted."""
    for part in folder.glob("checkpoint-*.part"):
        shutil.rmtree(part, ignore_errors=True)


def last_good(folder: Path) -> str:
    """A sentence that names the newest checkpoint, if there is one."""
    kept = latest_checkpoint(folder)
    return f"The last good state is {kept.name}: go on from it with --resume" if kept else "No checkpoint was saved yet"


def seconds_of(checkpoint: Path) -> float:
    """How long a run had trained at a checkpoint, see `Clock`."""
    return json.loads((checkpoint / "config.json").read_text()).get("seconds", 0.0)


def is_finished(folder: Path, steps: int, minutes: float = 0.0) -> bool:
    """Whether a run of `steps` steps, or `minutes` if not 0, has finished and its part files are written."""
    newest = latest_checkpoint(folder)
    if minutes and newest is not None and seconds_of(newest) >= 60 * minutes:
        return (newest / EXPORTED).is_file()
    return (folder / f"checkpoint-{steps}" / EXPORTED).is_file()

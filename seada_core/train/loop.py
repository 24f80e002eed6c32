"""The training loop: accelerate, EMA, atomic checkpoints, exact resume, TensorBoard. It knows nothing of the stages."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor
from torch.utils.data import DataLoader

from ..presets import TrainConfig, to_dict
from .data import Batches, Cache, rows
from .stages import Stage


class TrainingError(RuntimeError):
    """Training cannot go on; the message says why, and what was kept."""


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, constant, linear decay to zero over the last `decay` share of the steps."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    left = (config.steps - step) / (config.decay * config.steps) if config.decay else 1.0
    return config.lr * warm * min(1.0, left)


def step_seed(seed: int, step: int, rank: int) -> int:
    """Torch's seed for one step: all randomness of a step follows from it, so that a resumed run repeats exactly."""
    return (seed * 1_000_003 + step * 4099 + rank) % 2**63


def fit(
    stage: Stage,
    config: TrainConfig,
    cache: Cache,
    folder: Path,
    validation: Cache | None = None,
    resume: bool = False,
    export: Callable[[], None] | None = None,
    workers: int = 1,
) -> None:
    """Train `stage` for `config.steps` steps.

    `folder` receives `losses.jsonl` (a line a step), TensorBoard's event files and `checkpoint-<step>` folders, of
    which the newest two are kept. A checkpoint is written aside and renamed: whatever exists is whole. `export` is
    called at every checkpoint with the averaged (EMA) weights in place.

    Raises:
        TrainingError: the loss or a gradient is not finite; `folder` holds another run and `resume` is False.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs
    from diffusers.training_utils import EMAModel
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    AcceleratorState._reset_state()  # a process may train several stages, each at its own precision
    accelerator = Accelerator(
        mixed_precision=config.precision,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    folder.mkdir(parents=True, exist_ok=True)
    newest = latest_checkpoint(folder)
    if newest and not resume:
        raise TrainingError(f"{folder} holds a run already ({newest.name}); add --resume, or choose another --out")

    stage.to(accelerator.device, memory_format=torch.channels_last)
    trainable = [p for p in stage.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trainable, config.lr, config.betas, weight_decay=config.weight_decay)
    ema = EMAModel(trainable, decay=config.ema, use_ema_warmup=True, power=0.75)
    model, optimizer = accelerator.prepare(stage, optimizer)
    accelerator.register_for_checkpointing(ema)
    first = 0
    if newest:
        _check_same_run(newest, config)
        accelerator.load_state(str(newest))
        first = int(newest.name.split("-")[1])

    if config.batch % config.accumulation:
        raise TrainingError(f"batch {config.batch} cannot be split into {config.accumulation} equal micro-batches")
    micro = config.batch // config.accumulation
    batches = Batches(
        cache, config.batch, config.crop, config.seed, accelerator.process_index, accelerator.num_processes
    )
    # a worker does its own decoding; the loader's order is the order of the steps, so position is just a step number
    loader = DataLoader(batches, batch_size=None, sampler=range(first, config.steps), num_workers=workers)
    writer = SummaryWriter(folder) if accelerator.is_main_process else None
    losses = _LossLog(folder / "losses.jsonl", first) if accelerator.is_main_process else None
    bar = tqdm(
        loader, initial=first, total=config.steps, desc=stage.name, unit="step", disable=not accelerator.is_main_process
    )
    started, seen = time.monotonic(), 0
    for step, batch in enumerate(bar, first):
        torch.manual_seed(step_seed(config.seed, step, accelerator.process_index))
        rate = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        terms: dict[str, float] = {}
        for k in range(config.accumulation):
            part = _to_device(rows(batch, k * micro, (k + 1) * micro), accelerator.device)
            with accelerator.autocast():
                values = model(part)
            accelerator.backward(values["loss"] / config.accumulation)
            for name, value in values.items():
                terms[name] = terms.get(name, 0.0) + value.item() / config.accumulation
        norm = accelerator.clip_grad_norm_(trainable, config.clip).item()
        if not (math.isfinite(terms["loss"]) and math.isfinite(norm)):
            kept = latest_checkpoint(folder)
            raise TrainingError(
                f"step {step}: loss {terms['loss']:g}, gradient norm {norm:g}; the weights were not touched. "
                + (f"The last good state is {kept.name}; resume with a lower --lr" if kept else "Try a lower --lr")
            )
        optimizer.step()
        optimizer.zero_grad()
        ema.step(trainable)
        seen += config.batch * accelerator.num_processes
        if accelerator.is_main_process:
            losses.write(step, terms)
            speed = seen / (time.monotonic() - started)
            bar.set_postfix(loss=f"{terms['loss']:.4f}", pictures=f"{speed:.1f}/s", refresh=False)
            if step % 10 == 0:
                for name, value in {**terms, "gradient_norm": norm, "learning_rate": rate}.items():
                    writer.add_scalar(f"train/{name}", value, step)
                writer.add_scalar("train/pictures_per_second", speed, step)
        done = step + 1
        last = done == config.steps
        if validation is not None and (done % config.validate_every == 0 or last) and accelerator.is_main_process:
            with averaged(ema, trainable):
                validate(stage, config, validation, writer, done)
        if done % config.checkpoint_every == 0 or last:
            _checkpoint(accelerator, folder, done, config)
            if export is not None and accelerator.is_main_process:
                with averaged(ema, trainable):
                    export()
    if writer is not None:
        writer.close()
        losses.close()


class averaged:
    """`with averaged(ema, parameters):` the parameters hold their moving averages."""

    def __init__(self, ema, parameters):
        self.ema, self.parameters = ema, parameters

    def __enter__(self):
        self.ema.store(self.parameters)
        self.ema.copy_to(self.parameters)

    def __exit__(self, *_):
        self.ema.restore(self.parameters)


@torch.no_grad()
def validate(stage: Stage, config: TrainConfig, cache: Cache, writer, step: int, batches: int = 4) -> dict[str, float]:
    """Mean loss terms over a few fixed validation batches, and preview pictures, to TensorBoard."""
    size = min(config.batch, len(cache))
    source = Batches(cache, size, min(config.crop, cache.meta["resolution"]), seed=1234)
    device = next(stage.parameters()).device
    count = min(batches, max(1, len(cache) // size))
    terms: dict[str, float] = {}
    stage.eval()
    for k in range(count):
        batch = _to_device(source[k], device)
        torch.manual_seed(step_seed(1234, k, 0))
        with torch.autocast(device.type, torch.bfloat16, enabled=config.precision == "bf16"):
            for name, value in stage(batch).items():
                terms[name] = terms.get(name, 0.0) + value.item() / count
    for name, value in terms.items():
        writer.add_scalar(f"validation/{name}", value, step)
    batch = _to_device(rows(source[0], 0, 8), device)
    torch.manual_seed(1234)
    for name, pictures in stage.preview(batch).items():
        writer.add_images(f"validation/{name}", pictures.float().clamp(0, 1).cpu(), step)
    writer.flush()
    stage.train()
    with open(Path(writer.log_dir) / "validation.jsonl", "a", encoding="utf-8") as log:
        log.write(json.dumps({"step": step, **terms}) + "\n")
    return terms


def latest_checkpoint(folder: Path) -> Path | None:
    """The checkpoint of the highest step in `folder`, or None."""
    found = [p for p in folder.glob("checkpoint-*") if p.suffix != ".part"]
    return max(found, key=lambda p: int(p.name.split("-")[1]), default=None)


def _checkpoint(accelerator, folder: Path, step: int, config: TrainConfig) -> None:
    target = folder / f"checkpoint-{step}"
    part = target.with_suffix(".part")
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (part / "config.json").write_text(json.dumps(to_dict(config)))
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        kept = sorted(folder.glob("checkpoint-*[0-9]"), key=lambda p: int(p.name.split("-")[1]))
        for old in kept[:-2]:
            shutil.rmtree(old)


def _check_same_run(checkpoint: Path, config: TrainConfig) -> None:
    """What a resumed run may change: how long it goes on, and how often it reports."""
    free = {"steps", "decay", "checkpoint_every", "validate_every"}
    known, now = (json.loads(json.dumps(to_dict(c))) for c in (TrainConfig(), config))
    then = known | json.loads((checkpoint / "config.json").read_text())  # it may be older than a field: the default
    changed = [f"{name} was {then[name]}, now {now[name]}" for name in now if then[name] != now[name]]
    changed = [line for line in changed if line.split()[0] not in free]
    if changed:
        raise TrainingError(f"cannot resume {checkpoint.parent.name} with other settings: {'; '.join(changed)}")


def _to_device(batch: dict, device: torch.device) -> dict:
    def move(value):
        if isinstance(value, Tensor):
            return value.to(device, memory_format=torch.channels_last)
        return [move(v) for v in value] if isinstance(value, list) else value

    return {name: move(value) for name, value in batch.items()}


class _LossLog:
    """`losses.jsonl`: a line a step; lines of steps that a resumed run repeats are dropped first."""

    def __init__(self, path: Path, first: int):
        kept = []
        if path.is_file():
            for line in path.read_text("utf-8").splitlines():
                try:
                    entry = json.loads(line)
                except ValueError:  # a line that a kill cut short
                    continue
                if entry["step"] < first:
                    kept.append(line + "\n")
        self.file = open(path, "w", encoding="utf-8")  # noqa: SIM115
        self.file.writelines(kept)

    def write(self, step: int, terms: dict[str, float]) -> None:
        self.file.write(json.dumps({"step": step, **terms}) + "\n")
        self.file.flush()

    def close(self) -> None:
        self.file.close()

"""The training loop: accelerate, EMA, atomic checkpoints, exact resume, curves; independent of the stages."""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from functools import wraps
from pathlib import Path
from typing import Any

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import DistributedDataParallelKwargs, DistributedType
from torch import Tensor
from torch.utils.data import DataLoader
from tqdm import tqdm

from ..presets import Preset, TrainConfig
from . import disk, saving
from .averages import Averages, averaged
from .batches import Batches
from .checks import (
    TrainingError,
    check_recipe,
    check_same_run,
    describe,
    latest_checkpoint,
    micro_batches,
    process_state,
)
from .clock import Clock
from .curves import Curves
from .data import Pictures
from .memory import MemoryOptionError, build_optimizer, checkpoint_activations, freeze_in_bf16
from .precision import frozen_of, precision_of
from .stages.stage import Stage

# steps in a row that may be skipped because their loss or gradient is not finite: one bad batch is not a reason to
# stop, a model that has diverged is. fp16's loss scaling starts with steps that overflow
MOST_SKIPPED, MOST_SKIPPED_FP16 = 10, 30
Export = Callable[[dict[str, Tensor] | None], None]


def learning_rate(config: TrainConfig, step: int, time: float = 0.0) -> float:
    """Linear warm-up, constant, linear decay to zero over the last `decay` share of the steps, or of the time.

    time: the share of the time budget that is used up; what ends the run first, steps or time, is what counts.
    """
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    if not config.decay:
        return config.lr * warm
    left = min((config.steps - step) / (config.decay * config.steps), (1 - time) / config.decay)
    return config.lr * warm * min(1.0, left)


def step_seed(seed: int, step: int) -> int:
    """Torch's seed for one step, on every process: all random numbers that do not follow from a picture's own seed."""
    return (seed * 1_000_003 + step * 4099) % 2**63


def _errors_in_one_line(fit: Callable) -> Callable:
    """A process that died and a full disk are reported as errors of the run, not as bugs."""

    @wraps(fit)
    def wrapped(stage: Stage, config: TrainConfig, cache: Pictures, folder: Path, *args: Any, **options: Any) -> None:
        try:
            with disk.writing(folder, lambda: saving.last_good(folder)):
                fit(stage, config, cache, folder, *args, **options)
        except RuntimeError as error:
            if "DataLoader worker (pid" not in str(error):
                raise
            raise TrainingError(
                f"a process that decodes pictures died ({str(error).splitlines()[0].rstrip('. ')}), perhaps "
                f"because of too little memory: fewer --workers take less. {saving.last_good(folder)}"
            ) from error

    return wrapped


@_errors_in_one_line
def fit(
    stage: Stage,
    config: TrainConfig,
    cache: Pictures,
    folder: Path,
    validation: Pictures | None = None,
    resume: bool = False,
    export: Export | None = None,
    workers: int = 1,
    preset: Preset | None = None,
) -> None:
    """Train `stage` for `config.steps` steps, or less if `config.minutes` are over before, on as many processes as
    accelerate was started with.

    `folder` receives `losses.jsonl` (a line per step), `validation.jsonl`, curves and previews (see `Curves`), and
    `checkpoint-<step>` folders, of which the newest two are kept. A checkpoint is written aside and renamed, so an
    existing one is complete. It holds what is trained, not what is frozen, and resumes on any number of processes.
    `export` is called at every checkpoint with the averaged (EMA) weights in place, on the main process; its argument
    is the stage's state dict where the modules hold only shards of it, else None. `preset` is recorded, so that a run
    does not resume with other sizes.

    A step whose loss or gradient is not finite is skipped: weights, buffers, optimiser and averages do not change,
    a line on standard error says so, and `losses.jsonl` marks it (`left_out`).

    Raises:
        TrainingError: the recipe cannot work here; the loss or a gradient is not finite for `MOST_SKIPPED` steps in a
            row; a process that decodes pictures died; `folder` holds another run and `resume` is False, or its newest
            checkpoint cannot be read.
        OSError: something could not be written.
    """
    AcceleratorState._reset_state()  # a process may train several stages, each at its own precision
    state = process_state()
    check_recipe(config, state.num_processes, state.device.type, stage.multiple)
    micro, times = micro_batches(config, state.num_processes, stage.multiple)
    accelerator = Accelerator(
        mixed_precision=precision_of(config, state.device),
        gradient_accumulation_steps=times,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    main = accelerator.is_main_process
    if main and config.precision == "auto" and accelerator.mixed_precision == "no":
        print(f"this {state.device.type} has no bfloat16 instructions: training in float32", file=sys.stderr)
    folder.mkdir(parents=True, exist_ok=True)
    newest = latest_checkpoint(folder)
    if newest and not resume:
        raise TrainingError(f"{folder} holds a run already ({newest.name}); add --resume, or choose another --out")
    if newest:
        check_same_run(newest, config, preset)

    if main:
        saving.clean(folder)
    if frozen_of(config, accelerator.device) == "bf16":
        freeze_in_bf16(stage)
    fsdp = accelerator.distributed_type == DistributedType.FSDP
    layout = torch.contiguous_format if fsdp else torch.channels_last  # FSDP shards contiguous weights only
    stage.to(accelerator.device).to(memory_format=layout)
    if config.gradient_checkpointing:
        checkpoint_activations(stage)
    frozen = {saving.plain(name) for name, p in stage.named_parameters() if not p.requires_grad}
    try:
        optimizer = build_optimizer(stage.parameter_groups(), config)
    except MemoryOptionError as error:
        raise TrainingError(str(error)) from None
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        _prepare_deepspeed(accelerator, micro, config)
    model, optimizer = accelerator.prepare(stage, optimizer)
    trainable = [p for p in stage.parameters() if p.requires_grad]  # after `prepare`: FSDP replaces the parameters
    averages = Averages(trainable, config.ema)
    accelerator.register_for_checkpointing(averages)
    saving.keep_only_what_is_trained(accelerator, stage, frozen)
    sharded = fsdp or accelerator.distributed_type == DistributedType.DEEPSPEED
    if fsdp:
        from torch.distributed.fsdp import register_fsdp_forward_method

        register_fsdp_forward_method(stage, "preview")
    first, clock = 0, Clock(config.minutes)
    if newest:
        saving.load(accelerator, newest)
        accelerator.step = 0  # of accumulation, which may have changed
        first = int(newest.name.split("-")[1])
        clock = Clock(config.minutes, saving.seconds_of(newest))

    batches = Batches(
        cache, config.batch, config.crop, config.seed, accelerator.process_index, accelerator.num_processes
    )
    # a worker does its own decoding; the loader's order is the order of the steps, so a position is a step number
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, first if clock.over else config.steps),
        num_workers=workers,
        pin_memory=accelerator.device.type == "cuda",
    )

    def leave_parts(checkpoint: Path) -> None:
        if export is None:
            return
        with averaged(averages, trainable), disk.writing("the part files", lambda: saving.last_good(folder)):
            tensors = accelerator.get_state_dict(model) if sharded else None
            if main:
                export(tensors)
                (checkpoint / saving.EXPORTED).touch()

    if newest and not (newest / saving.EXPORTED).is_file():  # the run was interrupted in between
        leave_parts(newest)
    curves = Curves(folder) if main else None
    losses = disk.StepLog(folder / "losses.jsonl", first - 1) if main else None
    validations = disk.StepLog(folder / "validation.jsonl", first) if main and validation is not None else None
    total = math.inf if config.minutes else config.steps
    bar = tqdm(loader, initial=first, total=total, desc=stage.name, unit="step", disable=not main)
    started, done, in_a_row, skipped = time.monotonic(), first, 0, 0
    most = MOST_SKIPPED if accelerator.scaler is None else MOST_SKIPPED_FP16
    # DeepSpeed steps in `backward`, where a step can no longer be skipped
    steps_by_itself = accelerator.distributed_type == DistributedType.DEEPSPEED
    clock.start()
    for step, batch in enumerate(bar, first):
        torch.manual_seed(step_seed(config.seed, step))
        rate = learning_rate(config, step, clock.share)
        for group in optimizer.param_groups:
            group["lr"] = rate * group.get("scale", 1.0)
        sums: dict[str, Tensor] = {}
        finite, buffers = True, [(buffer, buffer.clone()) for buffer in stage.changing_buffers()]
        for k in range(times):
            part = batch.rows(k * micro, (k + 1) * micro).to(accelerator.device)
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    values = model(part)
                accelerator.backward(values["loss"])
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value.detach().float() / times
                if accelerator.sync_gradients:
                    # each group by itself: a discriminator's large gradient must not shorten the model's
                    norms = [accelerator.clip_grad_norm_(g["params"], config.clip) for g in optimizer.param_groups]
                    norm = float(norms[0] or 0.0)
                    means = accelerator.reduce(torch.stack(list(sums.values())), "mean").tolist()
                    terms = dict(zip(sums, means))
                    finite = math.isfinite(terms["loss"]) and math.isfinite(norm)
                if finite or accelerator.scaler is not None:  # a scaler (fp16) skips the step itself
                    optimizer.step()
                optimizer.zero_grad()
        in_a_row = 0 if finite else in_a_row + 1
        if finite:
            averages.step(trainable)
        else:
            skipped += 1
            if in_a_row > most or steps_by_itself:
                raise TrainingError(_not_finite(stage.name, step, in_a_row, terms["loss"], norm, folder))
            for buffer, value in buffers:
                buffer.copy_(value)
            if main and (accelerator.scaler is None or not math.isfinite(terms["loss"])):
                bar.write(f"step {step} skipped: loss {terms['loss']:g}, gradient norm {norm:g}", file=sys.stderr)
        done = step + 1
        clock.tick(accelerator)
        last = done == config.steps or clock.over
        if losses is not None and curves is not None:  # the main process
            marked = {} if finite else {"left_out": True}
            losses.write(step, **{n: v if math.isfinite(v) else None for n, v in terms.items()}, **marked)
            speed = (done - first) * config.batch / (time.monotonic() - started)
            left = {"left": f"{clock.left:.1f} min"} if config.minutes else {}
            bar.set_postfix(loss=f"{terms['loss']:.4f}", pictures=f"{speed:.1f}/s", **left, refresh=False)
            if step % 10 == 0:
                more = {"gradient_norm": norm, "learning_rate": rate, "pictures_per_second": speed}
                curves.scalars("train", {**terms, **more}, step)
        if validation is not None and (done % config.validate_every == 0 or last):
            with averaged(averages, trainable):
                validate(stage, config, validation, curves, validations, done)
        if done % config.checkpoint_every == 0 or last:
            state_of_run = {**describe(config, preset), "seconds": clock.seconds}
            leave_parts(saving.save(accelerator, folder, done, state_of_run))
        if last:
            break
    bar.close()
    accelerator.wait_for_everyone()
    for log in (curves, losses, validations):
        if log is not None:
            log.close()
    if main and skipped:
        print(f"{skipped} of {done - first} steps were skipped: not finite", file=sys.stderr)


def _not_finite(name: str, step: int, count: int, loss: float, norm: float, folder: Path) -> str:
    row = f" for {count} steps in a row" if count > 1 else ""
    return (
        f"stage {name}, step {step}: loss {loss:g}, gradient norm {norm:g}{row}; these steps were skipped. "
        f"{saving.last_good(folder)}; a lower --lr or --clip, or --precision no, may help"
    )


def _prepare_deepspeed(accelerator: Accelerator, micro: int, config: TrainConfig) -> None:
    """DeepSpeed clips and counts micro-batches itself, so its settings need both."""
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    if settings["zero_optimization"]["stage"] > 2:
        raise TrainingError("DeepSpeed's ZeRO stage 3 is not supported: use stage 1 or 2, or FSDP")
    settings["train_micro_batch_size_per_gpu"] = micro
    settings["gradient_clipping"] = config.clip


@torch.no_grad()
def validate(
    stage: Stage,
    config: TrainConfig,
    cache: Pictures,
    curves: Curves | None,
    log: disk.StepLog | None,
    step: int,
    batches: int = 4,
) -> dict[str, float]:
    """Mean loss terms over a few fixed validation batches, to `validation.jsonl`, and preview pictures.

    All processes compute the same; `curves` and `log` are None on all but the main process.
    """
    size = min(config.micro_batch or config.batch, len(cache))
    size = max(size - size % stage.multiple, 1)
    source = Batches(cache, size, min(config.crop, cache.meta["resolution"]), seed=1234)
    device = next(stage.parameters()).device
    count = min(batches, max(1, len(cache) // size))
    terms: dict[str, float] = {}
    precision, frozen = precision_of(config, device), frozen_of(config, device)
    half = torch.float16 if precision == "fp16" else torch.bfloat16
    stage.eval()
    for k in range(count):
        batch = source[k].to(device)
        torch.manual_seed(step_seed(1234, k))
        with torch.autocast(device.type, half, enabled=precision != "no"):
            for name, value in stage(batch).items():
                terms[name] = terms.get(name, 0.0) + value.item() / count
    torch.manual_seed(1234)
    with torch.autocast(device.type, half, enabled=frozen == "bf16"):  # else in full precision
        previews = stage.preview(source[0].rows(0, 8).to(device))
    stage.train()
    if curves is not None and log is not None:
        curves.scalars("validation", terms, step)
        curves.pictures(previews, step)
        log.write(step, **terms)
    return terms

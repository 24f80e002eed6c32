"""The training loop: accelerate, EMA, atomic checkpoints, exact resume, TensorBoard. It knows nothing of the stages."""

from __future__ import annotations

import json
import math
import shutil
import time
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.utils.data import DataLoader

from ..presets import Preset, TrainConfig
from .averages import Averages, averaged
from .checks import (
    TrainingError,
    check_recipe,
    check_same_run,
    describe,
    latest_checkpoint,
    micro_batches,
    process_state,
)
from .data import Batches, Cache, rows
from .memory import MemoryOptionError, build_optimizer, checkpoint_activations, freeze_in_bf16
from .stages import Stage

MOST_SKIPPED = 30  # steps in a row that fp16's loss scaling may leave out while it looks for its scale
Export = Callable[[dict[str, Tensor] | None], None]


def learning_rate(config: TrainConfig, step: int) -> float:
    """Linear warm-up, constant, linear decay to zero over the last `decay` share of the steps."""
    warm = min(1.0, (step + 1) / config.warmup) if config.warmup else 1.0
    left = (config.steps - step) / (config.decay * config.steps) if config.decay else 1.0
    return config.lr * warm * min(1.0, left)


def step_seed(seed: int, step: int) -> int:
    """Torch's seed for one step, on every process: what no picture's own seed decides follows from it."""
    return (seed * 1_000_003 + step * 4099) % 2**63


def fit(
    stage: Stage,
    config: TrainConfig,
    cache: Cache,
    folder: Path,
    validation: Cache | None = None,
    resume: bool = False,
    export: Export | None = None,
    workers: int = 1,
    preset: Preset | None = None,
) -> None:
    """Train `stage` for `config.steps` steps, on as many processes as accelerate was started with.

    `folder` receives `losses.jsonl` (a line a step), TensorBoard's event files and `checkpoint-<step>` folders, of
    which the newest two are kept. A checkpoint is written aside and renamed: whatever exists is whole. It holds what is
    trained and how, not what is frozen, and resumes on any number of processes. `export` is called at every checkpoint
    with the averaged (EMA) weights in place, on the main process; its argument is the stage's state dict where the
    modules hold only shards of it, else None. `preset` is recorded, so that a run does not resume with other sizes.

    Raises:
        TrainingError: the recipe cannot work here; the loss or a gradient is not finite; `folder` holds another run and
            `resume` is False.
    """
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState
    from accelerate.utils import DistributedDataParallelKwargs, DistributedType
    from torch.utils.tensorboard import SummaryWriter
    from tqdm import tqdm

    AcceleratorState._reset_state()  # a process may train several stages, each at its own precision
    state = process_state()
    check_recipe(config, state.num_processes, state.device.type, stage.multiple)
    micro, times = micro_batches(config, state.num_processes, stage.multiple)
    accelerator = Accelerator(
        mixed_precision=config.precision,
        gradient_accumulation_steps=times,
        kwargs_handlers=[DistributedDataParallelKwargs(find_unused_parameters=True)],
    )
    main = accelerator.is_main_process
    folder.mkdir(parents=True, exist_ok=True)
    newest = latest_checkpoint(folder)
    if newest and not resume:
        raise TrainingError(f"{folder} holds a run already ({newest.name}); add --resume, or choose another --out")
    if newest:
        check_same_run(newest, config, preset)

    if config.frozen == "bf16":
        freeze_in_bf16(stage)
    fsdp = accelerator.distributed_type == DistributedType.FSDP
    layout = torch.contiguous_format if fsdp else torch.channels_last  # FSDP shards contiguous weights only
    nn.Module.to(stage, accelerator.device, memory_format=layout)
    if config.gradient_checkpointing:
        checkpoint_activations(stage)
    frozen = {_plain(name) for name, p in stage.named_parameters() if not p.requires_grad}
    try:
        optimizer = build_optimizer([p for p in stage.parameters() if p.requires_grad], config)
    except MemoryOptionError as error:
        raise TrainingError(str(error)) from None
    if accelerator.distributed_type == DistributedType.DEEPSPEED:
        _prepare_deepspeed(accelerator, micro, config)
    model, optimizer = accelerator.prepare(stage, optimizer)
    trainable = [p for p in stage.parameters() if p.requires_grad]  # FSDP puts others in their place
    averages = Averages(trainable, config.ema)
    accelerator.register_for_checkpointing(averages)
    _keep_only_what_is_trained(accelerator, stage, frozen)
    sharded = fsdp or accelerator.distributed_type == DistributedType.DEEPSPEED
    if fsdp:
        from torch.distributed.fsdp import register_fsdp_forward_method

        register_fsdp_forward_method(stage, "preview")
    first = 0
    if newest:
        accelerator.load_state(str(newest))
        accelerator.step = 0  # of accumulation, which may have changed
        first = int(newest.name.split("-")[1])

    batches = Batches(
        cache, config.batch, config.crop, config.seed, accelerator.process_index, accelerator.num_processes
    )
    # a worker does its own decoding; the loader's order is the order of the steps, so position is just a step number
    loader = DataLoader(
        batches,
        batch_size=None,
        sampler=range(first, config.steps),
        num_workers=workers,
        pin_memory=accelerator.device.type == "cuda",
    )
    writer = SummaryWriter(folder) if main else None
    losses = _LossLog(folder / "losses.jsonl", first) if main else None
    bar = tqdm(loader, initial=first, total=config.steps, desc=stage.name, unit="step", disable=not main)
    started, seen, skipped = time.monotonic(), 0, 0
    for step, batch in enumerate(bar, first):
        torch.manual_seed(step_seed(config.seed, step))
        rate = learning_rate(config, step)
        for group in optimizer.param_groups:
            group["lr"] = rate
        sums: dict[str, Tensor] = {}
        for k in range(times):
            part = _to_device(rows(batch, k * micro, (k + 1) * micro), accelerator.device)
            with accelerator.accumulate(model):
                with accelerator.autocast():
                    values = model(part)
                accelerator.backward(values["loss"])
                for name, value in values.items():
                    sums[name] = sums.get(name, 0.0) + value.detach().float() / times
                if accelerator.sync_gradients:
                    norm = float(accelerator.clip_grad_norm_(trainable, config.clip) or 0.0)
                    means = accelerator.reduce(torch.stack(list(sums.values())), "mean").tolist()
                    terms = dict(zip(sums, means))
                    finite = math.isfinite(terms["loss"]) and math.isfinite(norm)
                    skipped = 0 if finite else skipped + 1
                    may_skip = accelerator.scaler is not None and math.isfinite(terms["loss"])
                    if not finite and not (may_skip and skipped <= MOST_SKIPPED):
                        raise TrainingError(_not_finite(step, terms["loss"], norm, folder))
                optimizer.step()
                optimizer.zero_grad()
        averages.step(trainable)
        seen += config.batch
        done = step + 1
        last = done == config.steps
        if main:
            losses.write(step, terms)
            speed = seen / (time.monotonic() - started)
            bar.set_postfix(loss=f"{terms['loss']:.4f}", pictures=f"{speed:.1f}/s", refresh=False)
            if step % 10 == 0:
                for name, value in {**terms, "gradient_norm": norm, "learning_rate": rate}.items():
                    writer.add_scalar(f"train/{name}", value, step)
                writer.add_scalar("train/pictures_per_second", speed, step)
        if validation is not None and (done % config.validate_every == 0 or last):
            with averaged(averages, trainable):
                validate(stage, config, validation, writer, done)
        if done % config.checkpoint_every == 0 or last:
            _checkpoint(accelerator, folder, done, describe(config, preset))
            if export is not None:
                with averaged(averages, trainable):
                    tensors = accelerator.get_state_dict(model) if sharded else None
                    if main:
                        export(tensors)
    accelerator.wait_for_everyone()
    if main:
        writer.close()
        losses.close()


def _not_finite(step: int, loss: float, norm: float, folder: Path) -> str:
    kept = latest_checkpoint(folder)
    return f"step {step}: loss {loss:g}, gradient norm {norm:g}; the weights were not touched. " + (
        f"The last good state is {kept.name}; resume with a lower --lr" if kept else "Try a lower --lr"
    )


def _plain(name: str) -> str:
    """A parameter's name without what DDP and checkpointing put into it."""
    return name.removeprefix("module.").replace("_checkpoint_wrapped_module.", "")


def _prepare_deepspeed(accelerator, micro: int, config: TrainConfig) -> None:
    """DeepSpeed clips and counts micro-batches itself, so it has to know of them."""
    settings = accelerator.state.deepspeed_plugin.deepspeed_config
    if settings["zero_optimization"]["stage"] > 2:
        raise TrainingError("DeepSpeed's ZeRO stage 3 is not supported: use stage 1 or 2, or FSDP")
    settings["train_micro_batch_size_per_gpu"] = micro
    settings["gradient_clipping"] = config.clip


def _keep_only_what_is_trained(accelerator, stage: Stage, frozen: set[str]) -> None:
    """Leave frozen weights out of checkpoints: they are in their part files. FSDP and DeepSpeed write their own."""

    def before_saving(models: list, weights: list, folder: str) -> None:
        for state in weights:
            for name in list(state):
                if _plain(name) in frozen:
                    del state[name]

    def before_loading(models: list, folder: str) -> None:
        from safetensors.torch import load_file

        if models:
            missing, unexpected = stage.load_state_dict(load_file(Path(folder) / "model.safetensors"), strict=False)
            strange = [*unexpected, *({_plain(name) for name in missing} - frozen)]
            if strange:
                raise TrainingError(f"{folder} is of another model: {strange[0]} differs")
            models.clear()

    accelerator.register_save_state_pre_hook(before_saving)
    accelerator.register_load_state_pre_hook(before_loading)


@torch.no_grad()
def validate(stage: Stage, config: TrainConfig, cache: Cache, writer, step: int, batches: int = 4) -> dict[str, float]:
    """Mean loss terms over a few fixed validation batches, and preview pictures, to TensorBoard.

    All processes do the same; `writer` is None on all but one.
    """
    size = min(config.micro_batch or config.batch, len(cache))
    size = max(size - size % stage.multiple, 1)
    source = Batches(cache, size, min(config.crop, cache.meta["resolution"]), seed=1234)
    device = next(stage.parameters()).device
    count = min(batches, max(1, len(cache) // size))
    terms: dict[str, float] = {}
    half = torch.float16 if config.precision == "fp16" else torch.bfloat16
    stage.eval()
    for k in range(count):
        batch = _to_device(source[k], device)
        torch.manual_seed(step_seed(1234, k))
        with torch.autocast(device.type, half, enabled=config.precision != "no"):
            for name, value in stage(batch).items():
                terms[name] = terms.get(name, 0.0) + value.item() / count
    torch.manual_seed(1234)
    with torch.autocast(device.type, half, enabled=config.frozen == "bf16"):  # else in full precision
        previews = stage.preview(_to_device(rows(source[0], 0, 8), device))
    stage.train()
    if writer is not None:
        for name, value in terms.items():
            writer.add_scalar(f"validation/{name}", value, step)
        for name, pictures in previews.items():
            writer.add_images(f"validation/{name}", pictures.float().clamp(0, 1).cpu(), step)
        writer.flush()
        with open(Path(writer.log_dir) / "validation.jsonl", "a", encoding="utf-8") as log:
            log.write(json.dumps({"step": step, **terms}) + "\n")
    return terms


def _checkpoint(accelerator, folder: Path, step: int, description: dict) -> None:
    target = folder / f"checkpoint-{step}"
    part = target.with_suffix(".part")
    if accelerator.is_main_process:
        shutil.rmtree(part, ignore_errors=True)
    accelerator.wait_for_everyone()
    accelerator.save_state(str(part))
    accelerator.wait_for_everyone()
    if accelerator.is_main_process:
        (part / "config.json").write_text(json.dumps(description))
        shutil.rmtree(target, ignore_errors=True)
        part.rename(target)
        kept = sorted(folder.glob("checkpoint-*[0-9]"), key=lambda p: int(p.name.split("-")[1]))
        for old in kept[:-2]:
            shutil.rmtree(old)


def _to_device(batch: dict, device: torch.device) -> dict:
    def move(value):
        if isinstance(value, Tensor):
            pictures = torch.channels_last if value.ndim == 4 else torch.preserve_format
            return value.to(device, memory_format=pictures, non_blocking=True)
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

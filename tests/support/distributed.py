"""Training runs of tiny stages, in this process or in two: `python tests/support/distributed.py PLAN.json` for each
rank."""

from __future__ import annotations

import faulthandler
import json
import os
import socket
import subprocess
import sys
import time
from dataclasses import replace
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
SECONDS = 600
CAPTIONS = ["a photo of a dog", "a photo of green grass by the sea", "a photo of the sea"]


def run(stage: str, cache: str, out: str, steps: int, fsdp: bool = False, validate: bool = False, **changes) -> None:
    """`fit` of a stage with tiny random parts, the same in every process; resumes if `out` holds a checkpoint."""
    import torch
    from tiny_models import make_tiny_parts

    from seada_core import presets
    from seada_core.train.data import Cache
    from seada_core.train.loop import fit
    from seada_core.train.stages.registry import STAGES

    if fsdp:
        _let_accelerate_shard_on_the_cpu()
    torch.set_num_threads(1)
    parts, preset = make_tiny_parts(CAPTIONS)
    config = replace(
        presets.TrainConfig(), steps=steps, batch=4, resolution=64, crop=64, lr=1e-3, precision="no", ema=0.9,
        checkpoint_every=2, validate_every=2,
    )  # fmt: skip
    config = replace(config, **changes)
    module = STAGES[stage].build(parts, preset, config)

    def export(tensors) -> None:
        state = module.state_dict() if tensors is None else tensors
        torch.save({name: tensor.clone() for name, tensor in state.items()}, Path(out) / "exported.pt")

    opened = Cache(Path(cache))
    fit(
        module,
        config,
        opened,
        Path(out),
        opened if validate else None,
        resume=True,
        export=export,
        workers=0,
        preset=preset,
    )


def _let_accelerate_shard_on_the_cpu() -> None:
    """accelerate asks for FSDP only on accelerators; torch's own FSDP shards over gloo as well."""
    from accelerate import PartialState
    from accelerate.utils import DistributedType

    PartialState(cpu=True)
    PartialState._shared_state["distributed_type"] = DistributedType.MULTI_XPU


def command(*argv: str) -> None:
    """The trainer's own command line."""
    from seada_core.train.__main__ import main

    assert main(list(argv)) == 0


def pair(folder: Path, plan: list[dict], **environment: str) -> None:
    """Run a plan in two processes, connected by gloo; raises with their output if one fails."""
    path = folder / "plan.json"
    path.write_text(json.dumps(plan))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    processes = []
    for rank in range(2):
        environment |= {
            "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": "2", "LOCAL_WORLD_SIZE": "2",
            "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true", "OMP_NUM_THREADS": "1",
            "PYTHONPATH": os.pathsep.join([str(ROOT), str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]),
        }  # fmt: skip
        log = open(folder / f"rank-{rank}.log", "w")  # noqa: SIM115
        command = [sys.executable, __file__, str(path)]
        processes.append(subprocess.Popen(command, env={**os.environ, **environment}, stdout=log, stderr=log))
    until = time.monotonic() + SECONDS
    while any(process.poll() is None for process in processes):
        if any(process.poll() for process in processes) or time.monotonic() > until:
            break  # the other one would wait for it
        time.sleep(0.1)
    for process in processes:
        process.kill()
        process.wait()
    failed = [rank for rank, process in enumerate(processes) if process.returncode]
    if failed:
        logs = [(folder / f"rank-{rank}.log").read_text()[-4000:] for rank in failed]
        raise RuntimeError("\n\n".join(logs))


if __name__ == "__main__":
    faulthandler.dump_traceback_later(SECONDS - 10)  # shows where it hangs
    for item in json.loads(Path(sys.argv[1]).read_text()):
        kind = item.pop("kind", "run")
        if kind == "run":
            run(**item)
        else:
            command(*item["argv"])
    import torch

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()

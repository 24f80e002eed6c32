"""The sampling loop. Each step's x0 estimate can be corrected before the solver uses it."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from ..presets import SCHEDULERS
from . import ccd
from .backbone import Hook, denoise

if TYPE_CHECKING:
    from diffusers import DDIMScheduler, UNet2DConditionModel

    from .controlnet_rca import ControlNetRCA
    from .vq_decoder import VQDecoder

Step = Callable[[Tensor, int, Tensor], Tensor]  # (x0, timestep t, x_t) -> x at the timestep after t


def solver(name: str, schedule: DDIMScheduler, steps: int) -> tuple[list[int], Step]:
    """Timesteps, from the noisiest down, and the function that steps from one to the next, given x0.

    Args:
        name: "ddim" (Song et al. 2021, deterministic), "unipc" (UniPC-2, Zhao et al. 2023) or "dpm++" (DPM-Solver++ 2M,
            Lu et al. 2022). The last two are diffusers', and are given x0 itself, whatever the model predicts.
        schedule: the noise schedule, see `backbone.build_scheduler`.
    Raises:
        ValueError: no such solver.
    """
    schedule.set_timesteps(steps)
    timesteps = schedule.timesteps.tolist()
    if name == "ddim":
        # not diffusers' DDIM: that takes only the model's output, here x0 may have been corrected
        alphas = schedule.alphas_cumprod.tolist()
        before = dict(zip(timesteps, [*timesteps[1:], None]))

        def ddim(x0: Tensor, t: int, x: Tensor) -> Tensor:
            alpha_bar, alpha_bar_before = alphas[t], 1.0 if before[t] is None else alphas[before[t]]
            eps = (x - alpha_bar**0.5 * x0) / (1 - alpha_bar) ** 0.5
            return alpha_bar_before**0.5 * x0 + (1 - alpha_bar_before) ** 0.5 * eps

        return timesteps, ddim
    if name == "unipc":
        from diffusers import UniPCMultistepScheduler as Solver
    elif name == "dpm++":
        from diffusers import DPMSolverMultistepScheduler as Solver
    else:
        raise ValueError(f"unknown scheduler {name!r}; choose among {', '.join(SCHEDULERS)}")
    # at zero terminal SNR both take 2^-24 for the last alpha_bar, whose logarithm they need
    multistep = Solver.from_config(
        schedule.config, prediction_type="sample", solver_order=2, final_sigmas_type="zero", thresholding=False
    )
    multistep.set_timesteps(steps)
    return timesteps, lambda x0, t, x: multistep.step(x0, t, x).prev_sample


def sample(
    model: Callable[[Tensor, int], Tensor],
    x: Tensor,
    schedule: DDIMScheduler,
    steps: int,
    scheduler: str = "ddim",
    correct: Callable[[Tensor], Tensor] | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Latents (B, 4, h, w) in float32 from noise x of that shape at the last timestep.

    Args:
        model: (x, timestep) to noise or v, as in `schedule.config.prediction_type`.
        scheduler: see `solver`.
        correct: maps each step's x0 estimate to a corrected one.
        callback: called as callback(done, steps) after every step; may raise to interrupt.
    """
    timesteps, step = solver(scheduler, schedule, steps)
    for done, t in enumerate(timesteps, 1):
        output, alpha_bar = model(x, t), schedule.alphas_cumprod[t].item()
        if schedule.config.prediction_type == "v_prediction":
            x0 = alpha_bar**0.5 * x - (1 - alpha_bar) ** 0.5 * output
        else:
            x0 = ccd.predict_x0(x, output, alpha_bar)
        if correct is not None:
            x0 = correct(x0)
        x = step(x0, t, x)
        if callback is not None:
            callback(done, steps)
    return x


def predict(
    unet: UNet2DConditionModel,
    control: ControlNetRCA | None,
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    c_f: Tensor | None,
    strength: float,
    shared: bool,
    hooks: list[Hook],
) -> Tensor:
    """The UNet's prediction under control for latents x (B, 4, h, w), (rows B, 4, h, w): what `--compile` compiles.

    Args:
        context: (rows B, L, d); rows is 2 with guidance, the ones with text first.
        c_f: the mapper's output (B, C, h, w).
        shared: run E_con on the rows with text alone, for all rows.
        hooks: besides RCA, see `backbone.denoise`.
    """
    rows = len(context) // len(x)
    z_t = x.repeat(rows, 1, 1, 1)
    residuals = None
    if control is not None:
        assert c_f is not None
        seen = 1 if shared else rows
        features = control.encode(
            z_t[: seen * len(x)], timestep, context[: seen * len(x)], strength=strength, c_f=c_f.repeat(seen, 1, 1, 1)
        )
        residuals = features.residuals
        if shared and residuals is not None:
            residuals = [r.repeat(rows, 1, 1, 1) for r in residuals]
        hooks = [lambda i, h: control.attend(i, h, features), *hooks]
    return denoise(unet, z_t, timestep, context, residuals, hooks)


def compile_parts(decoder: VQDecoder, device: torch.device) -> Callable[..., Tensor]:
    """`predict` compiled, and the decoder compiled in place: CUDA graphs on a GPU, C++ kernels on a CPU.

    Raises:
        ValueError: there is no compiler that torch can use.
    """
    missing = _missing_compiler(device)
    if missing:
        raise ValueError(f"torch.compile needs {missing}; install that, or do without compiling")
    mode = "reduce-overhead" if device.type == "cuda" else None
    decoder.gray_encoder.compile()
    decoder.decoder.compile()
    compiled = torch.compile(predict, mode=mode)
    if mode is None:
        return compiled

    def step(*arguments: Any) -> Tensor:
        torch.compiler.cudagraph_mark_step_begin()  # the previous step's output may be overwritten
        return compiled(*arguments)

    return step


def _missing_compiler(device: torch.device) -> str | None:
    """What torch.compile lacks for a device; None if it lacks nothing."""
    if device.type == "cuda" and find_spec("triton") is None:
        return "triton (pip install triton)"
    names = [os.environ["CXX"]] if "CXX" in os.environ else ["g++", "clang++", "cl"]
    if not any(map(shutil.which, names)):
        return f"a C++ compiler (looked for {', '.join(names)}; on Debian: apt install g++)"
    if not Path(sysconfig.get_path("include"), "Python.h").is_file():
        return "Python's headers (on Debian: apt install python3-dev)"
    return None

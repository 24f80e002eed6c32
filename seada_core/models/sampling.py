"""The sampling loop. Each step's x0 estimate can be corrected before the solver uses it."""

from __future__ import annotations

import os
import shutil
import sysconfig
from collections.abc import Callable, Sequence
from importlib.util import find_spec
from pathlib import Path
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from torch import Tensor

from ..color.sizes import size_of
from .backbone import Fixed, Hook, denoise, fix
from .controlnet_rca import repeat_rows
from .solvers import combine, solver

if TYPE_CHECKING:
    from .controlnet_rca import ControlNetRCA
    from .schedule import NoiseSchedule
    from .semantic_adapter import SemanticAdapter, SemanticEncoder
    from .unet import UNet
    from .vq_decoder import VQDecoder


def sample(
    model: Callable[[Tensor, int], Tensor],
    x: Tensor,
    schedule: NoiseSchedule,
    steps: int,
    scheduler: str = "ddim",
    correct: Callable[[Tensor], Tensor] | None = None,
    callback: Callable[[int, int], None] | None = None,
) -> Tensor:
    """Latents (B, 4, h, w) in float32 from noise x of that shape at the last timestep.

    Args:
        model: (x, timestep) to noise or v, as in `schedule.prediction`.
        scheduler: see `solvers.solver`.
        correct: maps each step's x0 estimate to a corrected one.
        callback: called as callback(done, steps) after every step; may raise to interrupt.
    """
    step = solver(scheduler, schedule, steps)
    alpha_bars = schedule.alphas_cumprod.tolist()
    for done, t in enumerate(schedule.timesteps(steps), 1):
        output, signal, noise = model(x, t), alpha_bars[t] ** 0.5, (1 - alpha_bars[t]) ** 0.5
        if schedule.prediction == "v_prediction":
            x0 = combine((signal, x), (-noise, output))
        else:
            x0 = combine((1 / signal, x), (-noise / signal, output))  # EDN's Eq. 3, see `ccd.predict_x0`
        if correct is not None:
            x0 = correct(x0)
        x = step(x0, t, x)
        if callback is not None:
            callback(done, steps)
    return x


# --- what is compiled, or captured as CUDA graphs: functions of parts and tensors that do not wait for the device ---


def embed(encoder: SemanticEncoder, adapter: SemanticAdapter | None, ids: Tensor, dtype: torch.dtype) -> Tensor:
    """Token ids (B, L) to e_r (B, L, d), see `Colorizer.context`."""
    e = encoder.embed(ids).to(dtype)
    return e if adapter is None else adapter(e)


def condense(control: ControlNetRCA, gray: Tensor) -> Tensor:
    """c_f (B, C, h, w) of grey pictures (B, 1, 8h, 8w), see `ControlNetRCA.condense`."""
    height, width = size_of(gray)
    return control.condense(gray.expand(-1, 3, -1, -1), (height // 8, width // 8))


def decode(decoder: VQDecoder, z: Tensor, gray: Tensor, features: list[Tensor] | None) -> Tensor:
    """(Cb, Cr) of latents, see `VQDecoder.chroma`."""
    return decoder.chroma(z, gray, features)


class FixedParts(NamedTuple):
    """What is the same at every step for UNet and controller; see `fix_parts`."""

    unet: Fixed
    control: Fixed | None

    def at(self, step: int) -> FixedParts:
        """That of one of the timesteps."""
        return FixedParts(self.unet.at(step), None if self.control is None else self.control.at(step))


def fix_parts(
    unet: UNet,
    control: ControlNetRCA | None,
    timesteps: Tensor,
    context: Tensor,
    rows: int,
) -> FixedParts:
    """`backbone.fix` of both, for timesteps (T,) and text (rows, L, d) of which E_con takes the first `rows`."""
    encoder = getattr(control, "encoder", None)  # a stock ControlNet runs as diffusers wrote it
    return FixedParts(
        fix(unet, timesteps, context), None if encoder is None else fix(encoder, timesteps, context[:rows])
    )


def predict(
    unet: UNet,
    control: ControlNetRCA | None,
    x: Tensor,
    timestep: Tensor,
    context: Tensor,
    c_f: Tensor | None,
    strength: float,
    shared: bool,
    modulation: Sequence[tuple[Tensor, Tensor]],
    fixed: FixedParts | None = None,
) -> Tensor:
    """The UNet's prediction under control for latents x (B, 4, h, w), (rows B, 4, h, w): what `--compile` compiles and
    what `Captured` captures, so it takes all that changes between steps and pictures as tensors.

    Args:
        timestep: a scalar tensor.
        context: (rows B, L, d); rows is 2 with guidance, the ones with text first.
        c_f: the mapper's output (B, C, h, w).
        shared: run E_con on the rows with text alone, for all rows.
        modulation: the learned hints' scale and shift at each decoder site, see `HintEncoder.scales_and_shifts`.
        fixed: of this timestep, if computed already.
    """
    rows = len(context) // len(x)
    seen = 1 if shared else rows
    z_t = x if rows == 1 else x.repeat(rows, 1, 1, 1)
    if fixed is None:
        fixed = fix_parts(unet, control, timestep[None], context, seen * len(x))
    residuals = None
    hooks: list[Hook] = []
    if control is not None:
        assert c_f is not None
        given: dict[str, Any] = {"strength": strength, "c_f": repeat_rows(c_f, seen)}
        if fixed.control is not None:
            given["fixed"] = fixed.control
        features = control.encode(z_t[: seen * len(x)], timestep, context[: seen * len(x)], **given)
        residuals = features.residuals
        if shared and residuals is not None:
            residuals = [repeat_rows(r, rows) for r in residuals]
        hooks.append(lambda i, h: control.attend(i, h, features))
    if modulation:
        scales, shifts = ([repeat_rows(x, rows) for x in both] for both in zip(*modulation))
        hooks.append(lambda i, h: torch.addcmul(shifts[i], h, scales[i]))
    return denoise(unet, z_t, timestep, context, residuals, hooks, fixed.unet)


def compile_functions(device: torch.device) -> dict[Callable[..., Tensor], Callable[..., Tensor]]:
    """`predict` and `decode` by their compiled forms, each one graph: CUDA graphs on a GPU, C++ kernels on a CPU.

    A photo of a new size may make them compile again, one of a size seen before does not.

    Raises:
        ValueError: there is no compiler that torch can use.
    """
    missing = _missing_compiler(device)
    if missing:
        raise ValueError(f"torch.compile needs {missing}; install that, or do without compiling")
    return {function: _compiled(function, device.type == "cuda") for function in (predict, decode)}


def _compiled(function: Callable[..., Tensor], graphs: bool) -> Callable[..., Tensor]:
    compiled = torch.compile(function, mode="reduce-overhead" if graphs else None, fullgraph=True)

    def step(*arguments: Any) -> Tensor:
        if not graphs:
            return compiled(*arguments)
        torch.compiler.cudagraph_mark_step_begin()  # the previous call's result may be overwritten, so it is copied
        return compiled(*arguments).clone()

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

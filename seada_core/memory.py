"""How much memory a colouring needs, estimated before it starts, and how much there is."""

from __future__ import annotations

import math
from pathlib import Path

import psutil
import torch

from .presets import Preset

FIXED, BY_CHANNEL = 850, 2.2  # bytes a pixel that is diffused, in float32: of the decoder, and for each UNet channel
SMALL = 2**30  # bytes that are not worth a check
SHARE = 0.9  # of what there is that may be used
_LIMITS = (  # of a container: most, and used
    ("/sys/fs/cgroup/memory.max", "/sys/fs/cgroup/memory.current"),
    ("/sys/fs/cgroup/memory/memory.limit_in_bytes", "/sys/fs/cgroup/memory/memory.usage_in_bytes"),
)
TOO_LITTLE = "there is too little memory for it; a smaller --size, --batch or photo needs less"


def needed(preset: Preset, size: tuple[int, int], batch: int, dtype: torch.dtype) -> float:
    """Bytes that diffusing and decoding pictures of a size (height, width) takes at its peak, without the weights.

    Measured with the embedded model: 990 bytes a pixel from 512 to 2,048 px.
    """
    return batch * math.prod(size) * (FIXED + BY_CHANNEL * preset.unet.channels[0]) * dtype.itemsize / 4


def available(device: torch.device) -> float:
    """Bytes that can be had: on the CPU those that are free, within a container's limit; on a GPU all that it has,
    since other models can be moved off it."""
    if device.type == "cuda":
        return float(torch.cuda.mem_get_info(device)[1])
    free = float(psutil.virtual_memory().available)
    for most, used in _LIMITS:
        try:
            free = min(free, float(Path(most).read_text()) - float(Path(used).read_text()))
        except (OSError, ValueError):  # no container, or "max"
            continue
    return max(free, 0.0)


def check(preset: Preset, size: tuple[int, int], batch: int, dtype: torch.dtype, device: torch.device) -> None:
    """Raises ValueError, with the size that fits, where colouring pictures at a size needs more than there is."""
    wanted = needed(preset, size, batch, dtype)
    if wanted < SMALL:
        return
    room = SHARE * available(device)
    if wanted > room:
        fits = int(min(size) * math.sqrt(room / wanted)) // 8 * 8
        problem = f"size {min(size)} needs about {wanted / 1e9:.3g} GB for a picture of this shape"
        if batch > 1:
            problem = f"{batch} pictures of size {min(size)} need about {wanted / 1e9:.3g} GB"
        raise ValueError(f"{problem}, and {room / 1e9:.3g} GB can be used: at most --size {max(fits, 8)} fits")


def is_shortage(error: BaseException) -> bool:
    """Whether an error is that of an allocator."""
    text = str(error)
    return isinstance(error, MemoryError | torch.OutOfMemoryError) or (
        isinstance(error, RuntimeError) and ("can't allocate memory" in text or "out of memory" in text)
    )

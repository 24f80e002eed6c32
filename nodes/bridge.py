"""The nodes' interface to ComfyUI: pictures, models and memory, progress, the server. MODELs are in `unet`."""

from __future__ import annotations

import hashlib
import html
import logging
import os
from collections.abc import Awaitable, Callable, Sequence
from functools import lru_cache
from pathlib import Path
from typing import TYPE_CHECKING, Any

import comfy.latent_formats
import comfy.model_management
import comfy.model_patcher
import comfy.ops
import comfy.utils
import folder_paths
import torch
from comfy.patcher_extension import CallbacksMP
from comfy_api.latest import io
from comfy_execution.utils import get_executing_context
from PIL import Image
from server import PromptServer
from torch import Tensor, nn

from ..seada_core.color.merging import to_bytes
from ..seada_core.color.sizes import resize
from ..seada_core.color.spaces import luminance
from ..seada_core.files import atomic
from ..seada_core.pipeline import Callback, Colorizer
from ..seada_core.weights.parts import Parts, PartStore
from . import model_folders

if TYPE_CHECKING:
    from aiohttp import web
    from aiohttp.typedefs import Handler
    from comfy.model_patcher import ModelPatcher
    from comfy.sd import CLIP

Seada = io.Custom("SEADA")
SeadaHints = io.Custom("SEADA_HINTS")
SeadaControl = io.Custom("SEADA_CONTROL")
SeadaPhoto = io.Custom("SEADA_PHOTO")

# what ComfyUI may choose for a UNet: bfloat16 is too coarse, see `weights.parts.default_dtype`
DTYPES = [torch.float16, torch.float32]
SHOWN_SIDE = 1024  # longest side of a photo shown on a node, px
PREVIEW_SIDE = 512  # longest side of a preview beside the progress bar, px
_CASTING = {
    getattr(nn, name): getattr(comfy.ops.manual_cast, name) for name in ("Linear", "Conv2d", "GroupNorm", "LayerNorm")
}


def schema(search_aliases: Sequence[str] = (), **fields: Any) -> io.Schema:
    """A node's schema; what a node is searched by is given to those versions of ComfyUI that know it."""
    known = "search_aliases" in getattr(io.Schema, "__dataclass_fields__", {})
    return io.Schema(**fields, **({"search_aliases": list(search_aliases)} if known else {}))


# --- pictures and latents ---------------------------------------------------------------------------------------------


def picture(image: Tensor, name: str = "image") -> Tensor:
    """IMAGE (B, H, W, 1, 3 or 4) to sRGB (B, 3, H, W) in [0, 1], outside inference mode; alpha is dropped."""
    if image.ndim != 4 or image.shape[-1] not in (1, 3, 4) or 0 in image.shape:
        raise ValueError(f"{name}: expected pictures (B, H, W, 3), got {tuple(image.shape)}")
    with torch.inference_mode(False):
        rgb = image[..., :3].movedim(-1, 1).float().clone().nan_to_num_().clamp_(0, 1)
    return rgb.expand(-1, 3, -1, -1)


def dropped_alpha(image: Tensor) -> list[str]:
    """A warning if an IMAGE has an alpha channel that says something."""
    if image.shape[-1] != 4 or bool((image[..., 3] >= 1).all()):
        return []
    return ["the picture's transparency is not in the result; add it again with Join Image with Alpha"]


def gray(image: Tensor, name: str = "image") -> Tensor:
    """IMAGE to its luminance (B, 1, H, W) in [0, 1]."""
    with torch.inference_mode(False):
        return luminance(picture(image, name))


def image(rgb: Tensor) -> Tensor:
    """(B, 3, H, W) to IMAGE (B, H, W, 3) on the device where ComfyUI keeps nodes' outputs."""
    return rgb.movedim(1, -1).float().contiguous().to(comfy.model_management.intermediate_device())


def rows(tensor: Tensor, count: int, what: str) -> Tensor:
    """Expand one picture to `count`, or return `count` pictures unchanged. Raises ValueError for other numbers."""
    if len(tensor) not in (1, count):
        expected = f"1 or {count}" if count != 1 else "1"
        raise ValueError(f"{what}: {len(tensor)} pictures, expected {expected}")
    return tensor.expand(count, *tensor.shape[1:])


def scaled_latent(latent: dict) -> Tensor:
    """A Stable Diffusion 1.5 LATENT to the scaled z (B, 4, h, w) that the UNet takes."""
    samples = latent["samples"]
    if samples.ndim != 4 or samples.shape[1] != 4:
        raise ValueError(
            f"this LATENT is {tuple(samples.shape)}; expected Stable Diffusion 1.5's (B, 4, h, w). Latents of other "
            "models go through their own VAE, then SeAda Merge Luminance"
        )
    with torch.inference_mode(False):
        return comfy.latent_formats.SD15().process_in(samples.clone().float())


def empty_latent(batch: int, height: int, width: int) -> Tensor:
    """Zeros (B, 4, h, w) on the device where ComfyUI keeps latents."""
    return torch.zeros(batch, 4, height, width, device=comfy.model_management.intermediate_device())


def check_shape(cells: tuple[int, int], photo: tuple[int, int]) -> None:
    """Raises ValueError unless a latent of (h, w) cells has the shape of the photo (H, W), up to rounding."""
    (h, w), (height, width) = cells, photo
    if max(height, width) > 4 * min(height, width):  # these are squeezed for diffusion
        return
    if abs(h - w * height / width) > 1.01 and abs(w - h * width / height) > 1.01:
        raise ValueError(
            f"the latent is {w * 8} x {h * 8} pixels and the picture {width} x {height}, a different shape; make the "
            "latent with SeAda Empty Latent from the same picture"
        )


# --- parts under ComfyUI's memory management --------------------------------------------------------------------------


class Part(nn.Module):
    """Wraps a module: ComfyUI sets attributes such as `device`, which some modules define themselves."""

    def __init__(self, module: nn.Module):
        super().__init__()
        self.module = module


def patcher(module: nn.Module) -> ModelPatcher:
    """A ModelPatcher of a module, `model.module`, so that ComfyUI loads (partly or fully), offloads and frees it."""
    for layer in module.modules():
        layer.__class__ = _CASTING.get(type(layer), type(layer))  # casts weights to the input's device and dtype
    device = comfy.model_management.get_torch_device()
    offload = comfy.model_management.unet_offload_device()
    patcher = comfy.model_patcher.ModelPatcher(Part(module), load_device=device, offload_device=offload)
    patcher.add_callback(CallbacksMP.ON_LOAD, _bring_the_rest)
    return patcher


def _bring_the_rest(patcher: ModelPatcher, device: torch.device, *_) -> None:
    """Moves what partial loading skips: embeddings, single parameters and buffers, which are not cast on use."""
    for layer in patcher.model.modules():
        if not hasattr(layer, "comfy_cast_weights"):
            layer._apply(lambda tensor: tensor.to(device), recurse=False)


def compute_dtype() -> torch.dtype:
    """The dtype in which ComfyUI computes a UNet on its device: one of `DTYPES`, or its command line's."""
    device = comfy.model_management.get_torch_device()
    dtype = comfy.model_management.unet_dtype(device, supported_dtypes=DTYPES)
    return comfy.model_management.unet_manual_cast(dtype, device, DTYPES) or dtype


class ComfyParts(PartStore):
    """Parts that ComfyUI loads and frees: each has a ModelPatcher, and is kept on ComfyUI's offload device.

    detached: called whenever a part has left the device.
    """

    def __init__(self, folder: Path, detached: Callable[[], None]):
        device, home = comfy.model_management.get_torch_device(), comfy.model_management.unet_offload_device()
        super().__init__(Parts(folder), device, compute_dtype(), home)
        self.patchers: dict[str, ModelPatcher] = {}
        self.detached = detached

    def get(self, part: str) -> nn.Module:
        with torch.inference_mode(False):  # gradients cannot pass through tensors made in inference mode
            return super().get(part)

    def place(self, part: str, module: nn.Module) -> nn.Module:
        module = super().place(part, module)
        self.patchers[part] = patcher(module)
        # ComfyUI also detaches, without moving anything, what it is about to load again
        self.patchers[part].add_callback(CallbacksMP.ON_DETACH, lambda _, moved: self.detached() if moved else None)
        return module


class Bundle(Colorizer):
    """SEADA: a Colorizer whose parts ComfyUI loads and frees. `load` them before use.

    graphs: replay CUDA graphs. They go when ComfyUI takes a part off the device, and come back with it.
    """

    parts: ComfyParts

    def __init__(self, folder: Path, graphs: bool = False):
        super().__init__(ComfyParts(folder, detached=lambda: self.graphs.drop()), graphs=graphs)

    def patcher(self, part: str) -> ModelPatcher:
        """The ModelPatcher of a part."""
        self.part(part)
        return self.parts.patchers[part]

    def load(self, *parts: str) -> None:
        """Move the named parts to the device; those that the model lacks are skipped."""
        with torch.inference_mode(False):
            load([self.patcher(part) for part in parts if self.has(part)])


def load(patchers: list[ModelPatcher]) -> None:
    """Move whole models to their device."""
    comfy.model_management.load_models_gpu(patchers, force_full_load=True)


@lru_cache(maxsize=1)
def _bundle(folder: Path, stamp: str, graphs: bool) -> Bundle:
    return Bundle(folder, graphs)


def bundle(name: str = model_folders.EMBEDDED, graphs: bool = False) -> Bundle:
    """The SEADA for an entry of `models`; the last one is cached."""
    return _bundle(model_folders.model_folder(name), model_folders.fingerprint(name), graphs)


def normal_weights(module: nn.Module) -> None:
    """Replace weights that were moved in inference mode, since gradients cannot pass through them."""
    for layer in module.modules():
        for name, parameter in layer.named_parameters(recurse=False):
            if parameter.is_inference():
                with torch.inference_mode(False):
                    layer.register_parameter(name, nn.Parameter(parameter.clone(), requires_grad=False))


def is_out_of_memory(error: BaseException) -> bool:
    """Whether a GPU or the machine ran out of memory; the CPU's allocator raises a plain RuntimeError."""
    return isinstance(error, (torch.cuda.OutOfMemoryError, MemoryError)) or "not enough memory" in str(error)


def free_memory() -> None:
    """Empty torch's cache of freed memory."""
    comfy.model_management.soft_empty_cache()


def progress(total: int, offset: int = 0) -> Callback:
    """A callback that moves the node's progress bar, and raises if the user has interrupted the prompt."""
    bar = comfy.utils.ProgressBar(total)

    def callback(done: int, steps: int) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        bar.update_absolute(offset + done, total)

    return callback


def progress_of_frames() -> Callable[[int, int, Tensor | None], None]:
    """Like `progress`, for frames whose number is known later; now and then it is given one (3, h, w) to show."""
    bars: list[comfy.utils.ProgressBar] = []

    def callback(done: int, total: int, frame: Tensor | None) -> None:
        comfy.model_management.throw_exception_if_processing_interrupted()
        if not bars:
            bars.append(comfy.utils.ProgressBar(total))
        shown = None if frame is None else ("JPEG", Image.fromarray(to_bytes(frame)), None)
        bars[0].update_absolute(done, total, shown)

    return callback


def show_result(rgb: Tensor, done: int, total: int) -> None:
    """Moves the node's progress bar to `done` of `total`, with the last of pictures (B, 3, H, W) as a preview."""
    pixels = (rgb[-1].movedim(0, -1) * 255).round().clamp(0, 255).byte().cpu().numpy()
    comfy.utils.ProgressBar(total).update_absolute(done, total, ("JPEG", Image.fromarray(pixels), PREVIEW_SIDE))


def clip_with(clip: CLIP, encoder: nn.Module) -> CLIP:
    """A clone of a stock CLIP with the semantic encoder's weights as patches; its LoRAs stay.

    Raises:
        ValueError: the CLIP has a different size, or is not a CLIP-L.
    """
    stock = (
        {name: tensor.shape for name, tensor in clip.cond_stage_model.clip_l.transformer.state_dict().items()}
        if (hasattr(clip.cond_stage_model, "clip_l"))
        else {}
    )
    patches = {}
    for name, weight in encoder.get_submodule("model").state_dict().items():
        ours = "text_model." + name.removeprefix("text_model.")
        if name.endswith("position_ids"):
            continue
        if stock.get(ours) != weight.shape:
            raise ValueError(
                f"this CLIP does not fit the semantic encoder ({ours} is {tuple(stock.get(ours, ()))}, expected "
                f"{tuple(weight.shape)}); use Stable Diffusion 1.5's CLIP, or disconnect CLIP"
            )
        patches[f"clip_l.transformer.{ours}"] = ("set", (weight,))
    patched = clip.clone()
    patched.add_patches(patches)
    return patched


# --- the server and its page ------------------------------------------------------------------------------------------


def add_post_route(path: str, answer: Callable[[web.Request], Awaitable[web.Response]]) -> None:
    """Adds a route to ComfyUI's server, if one is running."""
    if getattr(PromptServer, "instance", None) is not None:
        PromptServer.instance.routes.post(path)(answer)


def post_handler(path: str) -> Handler:
    """What ComfyUI's own server does with POSTs to a path."""
    routes = PromptServer.instance.routes
    return next(one.handler for one in routes if (one.method, one.path) == ("POST", path))


def change_answers(path: str, change: Callable[[str], str]) -> None:
    """Changes the text of what ComfyUI's server answers to GETs of a path, if one is running."""
    from aiohttp import web

    @web.middleware
    async def changed(request: web.Request, handler: Handler) -> web.StreamResponse:
        answer = await handler(request)
        if request.method == "GET" and request.path.removeprefix("/api") == path and answer.status == 200:
            answer.text = change(answer.text)
        return answer

    if getattr(PromptServer, "instance", None) is not None:
        PromptServer.instance.app.middlewares.append(changed)


def execution() -> tuple[str, str, int | None]:
    """The prompt's id, the node's, and the index in a list of inputs, of what this thread executes."""
    context = get_executing_context()
    return context.prompt_id, context.node_id, context.list_index


def show_text(text: str) -> None:
    """Shows a text on the node that this thread executes. The page takes it for HTML, so names of files are escaped."""
    PromptServer.instance.send_progress_text(html.escape(text), execution()[1])


def warned(warnings: Sequence[str]) -> dict[str, list[str]] | None:
    """ComfyUI's `ui` for warnings, which the page shows beside the result; they also go to the log. None for none."""
    for warning in warnings:
        logging.warning("SeAda: %s", warning)
    return {"seada_warning": list(warnings)} if warnings else None


def shown_photo(photo: Tensor) -> dict:
    """Saves the first of pictures (B, 1 or 3, H, W) as a small temporary file. Returns ComfyUI's description of the
    file for the page, with the photo's own "width" and "height"."""
    height, width = photo.shape[-2:]
    scale = min(1.0, SHOWN_SIDE / max(height, width))
    small = resize(photo[:1], (max(1, round(height * scale)), max(1, round(width * scale))))[0]
    pixels = (small.movedim(0, -1).squeeze(-1) * 255).round().clamp(0, 255).byte().cpu().numpy()
    # the same photo gives the same file: otherwise a server that runs for weeks would fill its disk
    key = hashlib.blake2b(pixels.tobytes(), digest_size=16, salt=b"%dx%d" % pixels.shape[:2]).hexdigest()
    folder, name = folder_paths.get_temp_directory(), f"seada_hints_{key}.jpg"
    path = os.path.join(folder, name)
    if not os.path.isfile(path):
        os.makedirs(folder, exist_ok=True)
        with atomic.opened(Path(path), unique=True, durable=False) as file:
            Image.fromarray(pixels).save(file, "JPEG", quality=92)
    return {"filename": name, "subfolder": "", "type": "temp", "width": width, "height": height}

"""Models of Stable Diffusion 1.5's size on a GPU, beside diffusers' UNet and ControlNet: a step, and whole pictures."""

from __future__ import annotations

import statistics
from collections.abc import Callable
from functools import partial

import torch
from torch import Tensor, nn

from benchmarks.speed import sd15_step
from seada_core.color.spaces import luminance
from seada_core.models import sampling
from seada_core.models.captured import Captured
from seada_core.models.schedule import NoiseSchedule
from seada_core.pipeline import Colorizer

from .kit import Kit, compiling_part, name_of, plain_part
from .run import Measure, Measures

GUIDANCE = 5.0
STRIDES = {"ddim": 50, "unipc": 20}


def inputs(kit: Kit) -> tuple[Tensor, Tensor, Tensor, Tensor]:
    """Latents, timestep, texts with and without, and the picture of a step with guidance."""
    cells, text = kit.side // 8, kit.preset.text
    x = torch.randn(1, 4, cells, cells, device=kit.device, dtype=kit.dtype)
    context = torch.randn(2, text.length, text.width, device=kit.device, dtype=kit.dtype)
    picture = torch.rand(1, 3, kit.side, kit.side, device=kit.device, dtype=kit.dtype)
    return x.contiguous(memory_format=torch.channels_last), torch.tensor(500, device=kit.device), context, picture


@torch.inference_mode()
def captured(step: Callable[[], None]) -> Callable[[], None]:
    """The step as a CUDA graph, without compiling: the same kernels, launched at once."""
    stream = torch.cuda.Stream()
    stream.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(stream):
        for _ in range(3):
            step()
    torch.cuda.current_stream().wait_stream(stream)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay


@plain_part
@torch.inference_mode()
def step(kit: Kit) -> Measures:
    """One step with guidance, eager and as a CUDA graph."""
    unet, twelve, four, plain_unet, plain = sd15_step.models(kit.device, kit.dtype, kit.preset)
    given = inputs(kit)
    peer = f"one step, {sd15_step.PEER}"
    steps = {
        peer: sd15_step.plain_step(plain_unet, plain, *given),
        "one step, ours, 12 sites": _our_step(unet, twelve, given),
        "one step, ours, 4 sites": _our_step(unet, four, given),
        "one step, ours, shared control": _our_step(unet, twelve, given, shared=True),
        "one step, ours, 12 sites, mapper and text in the step": _our_step(unet, twelve, given, prepared=False),
    }
    seconds = sd15_step.timed(steps, 1 if kit.tiny else 10, kit.device)
    for name, values in seconds.items():
        yield Measure(name, "s", partial(statistics.median, values), peer)
    if kit.on_gpu:
        graphs: dict[str, Callable[[], None]] = {}

        def replayed(name: str) -> float:
            graphs[name] = captured(steps[name])
            return kit.seconds(graphs[name], 10)

        for name in steps:
            yield Measure(f"{name}, CUDA graph", "s", partial(replayed, name), f"{peer}, CUDA graph")


def _our_step(unet, control, given, shared: bool = False, prepared: bool = True) -> Callable[[], None]:
    return sd15_step.our_step(sampling.predict, unet, control, *given, shared=shared, prepared=prepared)


def ours(kit: Kit, colorizer: Colorizer, scheduler: str, steps: int, **options) -> Callable[[], object]:
    """A picture by our models: texts encoded, sampled with guidance, decoded."""
    gray = luminance(torch.rand(1, 3, kit.side, kit.side, device=kit.device))
    options = {"prompt": "a dog", "guidance": GUIDANCE, "size": kit.side, "scheduler": scheduler} | options
    return partial(colorizer.chroma, gray, steps=2 if kit.tiny else steps, **options)


@plain_part
def pictures(kit: Kit) -> Measures:
    """Whole pictures by our models, eager."""
    colorizer = kit.big()
    yield Measure("sd15, load and first picture", "s", lambda: kit.once(ours(kit, colorizer, "unipc", 2)))
    kit.forget_peak()
    for name, steps in STRIDES.items():
        yield Measure(
            row_of(name), "s", lambda n=name, s=steps: kit.seconds(ours(kit, colorizer, n, s), 2, 0), their_row(name)
        )
    shared = ours(kit, colorizer, "unipc", STRIDES["unipc"], shared_control=True)
    yield Measure(f"{row_of('unipc')}, shared control", "s", lambda: kit.seconds(shared, 2, 0))
    yield Measure("sd15, peak", "GB", kit.peak, "diffusers, peak")
    yield from _decoding(kit, colorizer)
    if kit.on_gpu:
        del shared
        colorizer.offload()
        kit.forget_peak()
        run = ours(kit, colorizer, "unipc", STRIDES["unipc"])
        yield Measure(f"{row_of('unipc')}, offloaded", "s", lambda: kit.seconds(run, 2, 1))
        yield Measure("sd15, offloaded, peak", "GB", kit.peak)


def row_of(scheduler: str) -> str:
    return f"sd15, {STRIDES[scheduler]} {scheduler} steps and decoding"


def _decoding(kit: Kit, colorizer: Colorizer) -> Measures:
    z = torch.randn(1, 4, kit.side // 8, kit.side // 8, device=kit.device)
    gray = torch.rand(1, 1, kit.side, kit.side, device=kit.device)
    vae = build_vae(kit)
    with torch.inference_mode():
        peer = f"decoding, KL-f8 {name_of(kit.dtype)}"
        yield Measure(peer, "s", lambda: kit.seconds(lambda: vae.decode(z.to(kit.dtype))))
        decoder = colorizer.part("vq_decoder")
        yield Measure("decoding, VQ", "s", lambda: kit.seconds(lambda: decoder.decode(z, gray)), peer)


def build_vae(kit: Kit) -> nn.Module:
    """Stable Diffusion 1.5's autoencoder with random weights."""
    from diffusers import AutoencoderKL

    widths = (32, 32, 32, 32) if kit.tiny else (128, 256, 512, 512)
    with torch.device(kit.device):
        vae = AutoencoderKL(
            block_out_channels=widths,
            layers_per_block=2,
            down_block_types=("DownEncoderBlock2D",) * 4,
            up_block_types=("UpDecoderBlock2D",) * 4,
            latent_channels=4,
        )
    return kit.place(vae)


def diffusers_pipeline(kit: Kit):
    """StableDiffusionControlNetPipeline with random weights, without a text encoder."""
    from diffusers import DDIMScheduler, StableDiffusionControlNetPipeline

    *_, unet, plain = sd15_step.models(kit.device, kit.dtype, kit.preset)
    diffusion = kit.preset.diffusion
    pipeline = StableDiffusionControlNetPipeline(
        vae=build_vae(kit),
        text_encoder=None,
        tokenizer=None,
        unet=unet,
        controlnet=plain,
        scheduler=DDIMScheduler(
            beta_start=diffusion.beta_start,
            beta_end=diffusion.beta_end,
            beta_schedule="scaled_linear",
            clip_sample=False,
        ),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.set_progress_bar_config(disable=True)
    return pipeline


def theirs(kit: Kit, pipeline, scheduler: str, steps: int) -> Callable[[], object]:
    """A picture by diffusers' pipeline: texts are given encoded, sampled with guidance, decoded by KL-f8."""
    from diffusers import DDIMScheduler, UniPCMultistepScheduler

    kind = {"ddim": DDIMScheduler, "unipc": UniPCMultistepScheduler}[scheduler]
    _, _, context, picture = inputs(kit)

    def run() -> None:
        pipeline.scheduler = kind.from_config(pipeline.scheduler.config)
        pipeline(
            prompt_embeds=context[:1],
            negative_prompt_embeds=context[1:],
            image=picture,
            num_inference_steps=2 if kit.tiny else steps,
            guidance_scale=GUIDANCE,
            output_type="pt",
            height=kit.side,
            width=kit.side,
        )

    return run


def their_row(scheduler: str) -> str:
    return f"diffusers, {STRIDES[scheduler]} {scheduler} steps and decoding"


@plain_part
def diffusers_pictures(kit: Kit) -> Measures:
    """Whole pictures by diffusers' pipeline, eager."""
    pipeline = diffusers_pipeline(kit)
    theirs(kit, pipeline, "unipc", 2)()
    kit.forget_peak()
    for name, steps in STRIDES.items():
        yield Measure(their_row(name), "s", lambda n=name, s=steps: kit.seconds(theirs(kit, pipeline, n, s), 2, 0))
    yield Measure("diffusers, peak", "GB", kit.peak)


@plain_part
def graphs(kit: Kit) -> Measures:
    """Whole pictures with CUDA graphs, not compiled; and how far they are from those without."""
    colorizer, eager = kit.big(graphs=True), kit.big()
    yield Measure("sd15 CUDA graphs, load and first picture", "s", lambda: kit.once(ours(kit, colorizer, "unipc", 4)))
    kit.forget_peak()
    yield from _faster(kit, colorizer, "CUDA graphs")
    gray = torch.rand(1, 1, kit.side, kit.side, device=kit.device)
    yield Measure("sd15 CUDA graphs beside eager", "of 255: max", lambda: _apart(kit, colorizer, eager, gray))


def _apart(kit: Kit, one: Colorizer, other: Colorizer, gray: Tensor) -> float:
    """The largest difference of two models' chroma after a few steps, on CUDA graphs from the third call on."""
    options = {"prompt": "a dog", "guidance": GUIDANCE, "size": kit.side, "steps": 4}
    for _ in range(3):
        chroma = one.chroma(gray, **options)
    return float((chroma - other.chroma(gray, **options)).abs().max() * 255)


@compiling_part
def compiled(kit: Kit) -> Measures:
    """Whole pictures by `Colorizer.compile`."""
    colorizer = kit.big()
    colorizer.compile()
    yield Measure("sd15 compiled, first picture", "s", lambda: kit.once(ours(kit, colorizer, "unipc", 4)))
    yield None
    yield from _faster(kit, colorizer, "compiled")


def _faster(kit: Kit, colorizer: Colorizer, how: str) -> Measures:
    for name, steps in reversed(STRIDES.items()):
        run = ours(kit, colorizer, name, steps)
        yield Measure(f"{row_of(name)}, {how}", "s", partial(kit.seconds, run, 3, 3), row_of(name))
    yield Measure(f"sd15 {how}, peak", "GB", kit.peak, "sd15, peak")
    palette = ours(kit, colorizer, "unipc", STRIDES["unipc"], palette=("#2040e0", "#20a040"))
    yield Measure(f"{row_of('unipc')}, palette, {how}, first", "s", lambda: kit.once(palette))
    yield Measure(f"{row_of('unipc')}, palette, {how}", "s", lambda: kit.seconds(palette, 2, 1))


@plain_part
def diffusers_graphs(kit: Kit) -> Measures:
    """Whole pictures by diffusers' UNet and ControlNet, a step recorded as a CUDA graph as ours is, and KL-f8."""
    run = _their_loop(kit, Captured)
    yield Measure("diffusers CUDA graphs, first picture", "s", lambda: kit.once(lambda: run("unipc", 4)))
    yield from _theirs_faster(kit, run, "CUDA graphs")


@compiling_part
def diffusers_compiled(kit: Kit) -> Measures:
    """Likewise compiled, both in one graph a step as ours are."""
    mode = "reduce-overhead" if kit.on_gpu else None

    def compile_step(predict: Callable[..., Tensor]) -> Callable[..., Tensor]:
        compiled_step = torch.compile(predict, mode=mode)

        def step(*arguments: Tensor) -> Tensor:
            torch.compiler.cudagraph_mark_step_begin()  # the previous step's output may be overwritten
            return compiled_step(*arguments)

        return step

    run = _their_loop(kit, compile_step)
    yield Measure("diffusers compiled, first picture", "s", lambda: kit.once(lambda: run("unipc", 4)))
    yield None
    yield from _theirs_faster(kit, run, "compiled")


def _theirs_faster(kit: Kit, run: Callable[[str, int], None], how: str) -> Measures:
    for name, steps in reversed(STRIDES.items()):
        picture = partial(run, name, steps)
        yield Measure(f"{their_row(name)}, {how}", "s", partial(kit.seconds, picture, 3, 3), their_row(name))
    yield Measure(f"diffusers {how}, peak", "GB", kit.peak, "diffusers, peak")


def _their_loop(
    kit: Kit, faster: Callable[[Callable[..., Tensor]], Callable[..., Tensor]]
) -> Callable[[str, int], None]:
    """A picture by diffusers' UNet, ControlNet and KL-f8, and our solvers; `faster` changes the step's function."""
    *_, unet, plain = sd15_step.models(kit.device, kit.dtype, kit.preset)
    vae, schedule = build_vae(kit), NoiseSchedule(kit.preset.diffusion)
    x, _, context, picture = inputs(kit)
    picture = picture.repeat(2, 1, 1, 1)

    def predict(x: Tensor, timestep: Tensor) -> Tensor:
        z_t = x.repeat(2, 1, 1, 1)
        down, middle = plain(z_t, timestep, context, picture, conditioning_scale=1.0, return_dict=False)
        residuals = {"down_block_additional_residuals": down, "mid_block_additional_residual": middle}
        return unet(z_t, timestep, context, **residuals, return_dict=False)[0]

    step = faster(predict)
    times = torch.arange(kit.preset.diffusion.train_steps, device=kit.device)

    def model(x: Tensor, t: int) -> Tensor:
        with_text, without = step(x.to(kit.dtype), times[t]).float().chunk(2)
        return torch.lerp(without, with_text, GUIDANCE)

    @torch.no_grad()
    def run(scheduler: str, steps: int) -> None:
        z = sampling.sample(model, x.float(), schedule, 2 if kit.tiny else steps, scheduler)
        vae.decode(z.to(kit.dtype) / vae.config.scaling_factor)

    return run

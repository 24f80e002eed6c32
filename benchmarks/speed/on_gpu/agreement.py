"""Every part of the embedded model on a device, in fp32, fp16 and bf16, beside fp32 on the CPU.

Parts that the pipeline keeps in float32 (text, decoder, tokens, captioner) run in half precision by autocast, as in
training.
"""

from __future__ import annotations

import re
import subprocess
import sys
from collections import Counter
from collections.abc import Callable, Sequence
from functools import partial

import torch
from torch import Tensor, nn

from seada_core.models.affinity import classifier_maps
from seada_core.models.backbone import denoise
from seada_core.pipeline import Colorizer
from seada_core.weights import part_files
from seada_core.weights.parts import HALF_PRECISION

from .kit import ROOT, Kit, name_of, plain_part
from .run import Measure, Measures

# largest difference over the largest value of the CPU's. A GPU's fp32 convolutions are TF32, of 10 bits, as fp16 is
TOLERANCES = {torch.float32: 1e-2, torch.float16: 2e-2, torch.bfloat16: 2e-1}

SIDE, CELLS = 96, 12  # px; latent cells
Inputs = dict[str, Tensor]


def inputs(colorizer: Colorizer) -> Inputs:
    """The same random numbers for every device: pictures (1, ., 96, 96), latents (1, 4, 12, 12), texts (1, L, d)."""
    generator = torch.Generator().manual_seed(0)
    text = colorizer.part("semantic_encoder").config
    codes = colorizer.part("vq_decoder").config.codes
    # smooth, as photos are
    coarse = torch.rand(1, 1, 8, 8, generator=generator)
    gray = nn.functional.interpolate(coarse, (SIDE, SIDE), mode="bicubic").clamp(0, 1)
    hints = torch.zeros(1, 3, SIDE, SIDE)
    hints[:, :, 30:40, 40:60] = torch.tensor([0.2, -0.1, 1.0])[:, None, None]
    return {
        "gray": gray,
        "hints": hints,
        "z": torch.randn(1, 4, CELLS, CELLS, generator=generator),
        "context": torch.randn(1, text.length, text.width, generator=generator),
        "tokens": torch.randint(0, codes, (1, CELLS * CELLS), generator=generator),
    }


def output(part: str, colorizer: Colorizer, given: Inputs) -> Tensor:
    """What a part computes of the inputs, which have its device and dtype; several tensors joined, flat."""
    module, t = colorizer.part(part), torch.tensor(600, device=given["z"].device)
    found: list[Tensor]
    if part == "unet":
        found = [denoise(module, given["z"], t, given["context"])]
    elif part == "controlnet_rca":
        features = module.encode(given["z"], t, given["context"], given["gray"].expand(-1, 3, -1, -1))
        sites = [(site, features.maps[feature]) for site, feature in module.pairs.items()]
        found = [features.condition, *features.maps, *(features.residuals or ())]
        found += [module.attend(site, _hidden(module.rca[str(site)], of), features) for site, of in sites]
    elif part == "semantic_encoder":
        found = [module(["a photo of a red car on green grass"])[0]]
    elif part == "semantic_adapter":
        found = [module(given["context"])]
    elif part == "captioner":
        found = [module.model._encode_image(module.prepare(given["gray"].expand(-1, 3, -1, -1)))[1]]
    elif part == "vq_decoder":
        found = [module.chroma(given["z"], given["gray"])]
    elif part == "token_diffusion":
        features = colorizer.part("vq_decoder").gray_features(given["gray"])
        found = [module(given["tokens"], t[None] // 10, given["tokens"], features[-1], given["context"])]
    elif part in ("affinity", "people", "scenery"):
        classifier = colorizer.part("controlnet_rca").mapper.classifier
        maps = classifier_maps(given["gray"], classifier)
        found = module(given["gray"], maps) if part == "affinity" else module(maps)
        found = [found] if isinstance(found, torch.Tensor) else list(found)
    elif part == "hint_encoder":
        encoded = module.encode(given["gray"], given["hints"])
        found = [*encoded]
        for site, (level, projection) in enumerate(zip(module.levels, module.projections)):
            ones = encoded[level].new_ones(1, projection.out_channels // 2, *encoded[level].shape[-2:])
            found.append(module.modulate(site, ones, encoded))
    else:
        raise ValueError(f"unknown part {part!r}")
    return torch.cat([tensor.float().cpu().flatten() / tensor.float().abs().max().cpu() for tensor in found])


def _hidden(rca: nn.Module, like: Tensor) -> Tensor:
    """A hidden state of the UNet's decoder for an RCA, of a map's size."""
    channels = next(p for p in rca.parameters() if p.ndim == 1).shape[0]
    return torch.linspace(-1, 1, channels, device=like.device, dtype=like.dtype)[None, :, None, None].expand(
        1, -1, *like.shape[-2:]
    )


@torch.no_grad()
def difference(part: str, colorizer: Colorizer, reference: Tensor, given: Inputs, dtype: torch.dtype) -> float:
    """The largest difference from the reference, whose largest value is 1."""
    device = colorizer.device
    half = part in HALF_PRECISION
    placed = {name: x.to(device, dtype if half and x.is_floating_point() else None) for name, x in given.items()}
    autocast = torch.autocast(device.type, dtype, enabled=not half and dtype != torch.float32)
    with autocast:
        found = output(part, colorizer, placed)
    return float((found - reference).abs().max())


@plain_part
def parts(kit: Kit) -> Measures:
    """Largest difference of every part's output in every precision, and whether it is within the tolerance."""
    cpu = Colorizer.from_pretrained("mini", "cpu")
    given = inputs(cpu)
    with torch.no_grad():
        references = {part: output(part, cpu, given) for part in part_files.SECTIONS}
    for dtype, tolerance in TOLERANCES.items():
        colorizer = kit.mini(dtype)
        for part, reference in references.items():
            measured = partial(difference, part, colorizer, reference, given, dtype)
            row = f"{part} in {name_of(dtype)} beside the CPU's fp32"
            yield Measure(row, "of the largest value", partial(_judged, measured, tolerance))


TESTS = ("tests/whole/test_numbers.py", "tests/models/test_captured.py")
ON_GPU = "a_gpu or on_cuda"  # in the names of those that need one


@plain_part
def tests(kit: Kit) -> Measures:
    """The tests that compare a GPU with the CPU, and CUDA graphs with none."""
    if kit.on_gpu:
        yield Measure("tests on the GPU", "", lambda: run_tests(TESTS, ON_GPU, 25))


def run_tests(files: Sequence[str], names: str, seconds: float) -> str:
    """How many tests passed, and which failed, of those with these names; after so many seconds they are stopped.

    Args:
        names: pytest's expression for `-k`. Slow tests run, too.
    """
    command = [sys.executable, "-m", "pytest", "-v", "--tb=line", "-p", "no:cacheprovider", "-m", "", "-k", names]
    try:
        done = subprocess.run([*command, *files], cwd=ROOT, capture_output=True, timeout=seconds)
        stdout, end = done.stdout, ""
        if done.returncode > 1:  # neither passed nor failed: no pytest, an error in a file, none of these names
            end = "; " + " ".join((done.stderr or stdout).decode(errors="replace").split("\n")[-2:]).strip(" =")
    except subprocess.TimeoutExpired as stopped:
        stdout, end = stopped.stdout or b"", f"; stopped after {seconds:g} s"
    results = re.findall(r"^(\S+::.+) (PASSED|FAILED|ERROR|SKIPPED)", stdout.decode(errors="replace"), re.MULTILINE)
    counts = Counter(result for _, result in results)
    failed = [name.rpartition("::")[2] for name, result in results if result in ("FAILED", "ERROR")]
    said = [f"{count} {result.lower()}" for result, count in counts.items()] or ["none ended"]
    return ", ".join([*said, *failed]) + end


def _judged(measured: Callable[[], float], tolerance: float) -> str:
    found = measured()
    return f"{found:.2g}, {'within' if found <= tolerance else 'MORE THAN'} {tolerance:g}"

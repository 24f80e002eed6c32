"""Captions for grey photos: CoCa, BLIP, BLIP-2 and ClipCap behind one interface (SeAda, Table 5).

A captioner is a module that maps pictures (B, 3, H, W) in [0, 1] to B strings; it resizes and normalises for itself.
Nothing is downloaded: weights are local files.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from .caption_text import strip_monochrome
from .color import luminance
from .efficientnet import CHANNELS, EfficientNetLite0
from .presets import CaptionerConfig
from .tokenizer import Tokenizer
from .weightfiles import PICKLES, expect, pickle_text, read_header

CLIP_MEAN = (0.48145466, 0.4578275, 0.40821073)
CLIP_STD = (0.26862954, 0.26130258, 0.27577711)


# --- pictures ---------------------------------------------------------------------------------------------------------


def resize(images: Tensor, size: int, crop: bool) -> Tensor:
    """(B, C, H, W) to (B, C, size, size), bicubic and antialiased; `crop` keeps the aspect and the centre."""
    if images.ndim != 4 or images.shape[1] != 3:
        raise ValueError(f"a captioner takes pictures (B, 3, H, W), not {tuple(images.shape)}")
    if crop:
        side = min(images.shape[-2:])
        top, left = ((n - side) // 2 for n in images.shape[-2:])
        images = images[..., top : top + side, left : left + side]
    return F.interpolate(images.float(), (size, size), mode="bicubic", antialias=True).clamp(0, 1)


def normalize(images: Tensor, mean: tuple[float, ...], std: tuple[float, ...]) -> Tensor:
    """(images - mean) / std, by channel."""
    return (images - images.new_tensor(mean).view(-1, 1, 1)) / images.new_tensor(std).view(-1, 1, 1)


# --- decoding ---------------------------------------------------------------------------------------------------------


def beam_search(
    next_log_probs: Callable[[Tensor, Tensor], Tensor], batch: int, *, beams: int, start: int, end: int, length: int
) -> list[tuple[list[int], float]]:
    """The best token sequence found for each of `batch` pictures, and its score.

    next_log_probs(tokens (N, t), pictures (N,)) gives (N, V) float32 log-probabilities of each hypothesis' next token.
    Sequences have at most `length` tokens, `start` and `end` included. The score is the mean log-probability of the
    tokens after `start`. A hypothesis that ends gives up its beam, so that one beam is greedy decoding; with more, the
    greedy sequence competes too, hence the score is never below greedy's.
    """
    if beams < 1 or length < 2:
        raise ValueError(f"beam search needs beams >= 1 and length >= 2, not {beams} and {length}")
    best = [([], float("-inf"))] * batch
    if beams > 1:
        best = beam_search(next_log_probs, batch, beams=1, start=start, end=end, length=length)
    alive = {i: [([start], 0.0)] for i in range(batch)}  # picture -> hypotheses (tokens, summed log-probability)
    room = [beams] * batch
    for t in range(1, length):
        rows = [(i, ids, total) for i, hypotheses in alive.items() for ids, total in hypotheses]
        if not rows:
            break
        tokens = torch.tensor([ids for _, ids, _ in rows])
        pictures = torch.tensor([i for i, _, _ in rows])
        log_probs = next_log_probs(tokens, pictures).cpu()
        first = 0
        for i in list(alive):
            hypotheses = alive[i]
            totals = log_probs[first : first + len(hypotheses)] + torch.tensor([[s] for _, s in hypotheses])
            first += len(hypotheses)
            values, flat = totals.flatten().topk(min(room[i], totals.numel()))
            alive[i] = []
            for total, index in zip(values.tolist(), flat.tolist()):
                if total == float("-inf"):
                    continue
                ids = hypotheses[index // totals.shape[1]][0] + [index % totals.shape[1]]
                if ids[-1] == end or t == length - 1:
                    room[i] -= 1
                    if total / t > best[i][1]:
                        best[i] = (ids, total / t)
                else:
                    alive[i].append((ids, total))
            # a sum only falls, so no continuation can score above total / (length - 1)
            if all(total / (length - 1) <= best[i][1] for _, total in alive[i]):
                del alive[i]
    return best


# --- CoCa -------------------------------------------------------------------------------------------------------------


class CoCaCaptioner(nn.Module):
    """An open_clip `CoCa` with the decoding that open_clip's own `generate` no longer offers under transformers 5."""

    def __init__(
        self, model: nn.Module, tokenizer: Tokenizer, image_size: int, *, beams: int = 1, max_tokens: int = 30
    ):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.beams = beams
        self.length = min(max_tokens, model.context_length)

    def prepare(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] as the image encoder wants them."""
        return normalize(resize(images, self.image_size, crop=True), CLIP_MEAN, CLIP_STD)

    @torch.no_grad()
    def decode(self, images: Tensor) -> list[tuple[list[int], float]]:
        """Token ids (start and end included) and mean log-probability of the best caption of each prepared picture."""
        _, image_tokens = self.model._encode_image(images)

        def next_log_probs(tokens: Tensor, pictures: Tensor) -> Tensor:
            tokens, pictures = tokens.to(image_tokens.device), pictures.to(image_tokens.device)
            _, text_tokens = self.model._encode_text(tokens)
            logits = self.model.text_decoder(image_tokens[pictures], text_tokens)[:, -1].float()
            logits[:, [self.model.pad_id, self.tokenizer.start]] = float("-inf")
            if tokens.shape[1] == 1:
                logits[:, self.tokenizer.end] = float("-inf")  # no empty caption
            return logits.log_softmax(-1)

        return beam_search(
            next_log_probs,
            len(images),
            beams=self.beams,
            start=self.tokenizer.start,
            end=self.tokenizer.end,
            length=self.length,
        )

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[str]:
        weight = self.model.logit_scale
        prepared = self.prepare(images.to(weight.device)).to(weight.dtype)
        return [strip_monochrome(self.tokenizer.decode(ids)) for ids, _ in self.decode(prepared)]


class ConvTower(nn.Module):
    """A small residual convolutional image encoder in place of CoCa's ViT, which learns too little from few pictures.

    Grey (B, 1, S, S) to a pooled embedding (B, embed_dim) and tokens (B, 1 + n, width), the pooled picture first.
    """

    def __init__(self, config: CaptionerConfig):
        super().__init__()

        def conv(inputs: int, outputs: int, kernel: int, stride: int) -> nn.Sequential:
            padding = (kernel - stride + 1) // 2
            # running statistics over the last 30 steps or so suit averaged (EMA) weights better than the last ten's
            norm = nn.BatchNorm2d(outputs, momentum=0.03)
            return nn.Sequential(nn.Conv2d(inputs, outputs, kernel, stride, padding, bias=False), norm)

        stages = []
        inputs, kernel, stride = 1, config.stem_stride + 2, config.stem_stride
        for channels, blocks in zip(config.vision_channels, config.vision_blocks):
            stages += [conv(inputs, channels, kernel, stride), nn.ReLU()]
            stages += [_Residual(conv(channels, channels, 3, 1), conv(channels, channels, 3, 1)) for _ in range(blocks)]
            inputs, kernel, stride = channels, 3, 2
        self.stages = nn.Sequential(*stages).to(memory_format=torch.channels_last)
        self.token_projection = nn.Linear(inputs, config.width)
        self.projection = nn.Linear(inputs, config.embed_dim, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        x = self.stages(images.contiguous(memory_format=torch.channels_last)).flatten(2).mT
        pooled = x.mean(1, keepdim=True)
        return self.projection(pooled[:, 0]), self.token_projection(torch.cat([pooled, x], 1))


class _Residual(nn.Module):
    def __init__(self, first: nn.Module, second: nn.Module):
        super().__init__()
        self.first, self.second = first, second
        nn.init.zeros_(second[1].weight)  # a block starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class RecognizingTower(nn.Module):
    """A frozen ImageNet classifier's last feature map as CoCa's image tokens: few pictures teach words, not sight.

    Grey (B, 3, S, S) in [0, 1], or the classifier's map of it (B, 320, S / 32, S / 32), to a pooled embedding
    (B, embed_dim) and tokens (B, 1 + n, width), the pooled picture first.
    """

    def __init__(self, config: CaptionerConfig):
        super().__init__()
        self.classifier = EfficientNetLite0()
        self.head = nn.Sequential(nn.Linear(CHANNELS[-1], 512), nn.ReLU(), nn.Dropout(0.3))
        self.token_projection = nn.Linear(512, config.width)
        self.projection = nn.Linear(512, config.embed_dim, bias=False)

    def forward(self, images: Tensor) -> tuple[Tensor, Tensor]:
        if images.shape[1] == 3:
            with torch.no_grad():
                images = self.classifier(images.contiguous(memory_format=torch.channels_last))[-1]
        x = self.head(images.flatten(2).mT)
        pooled = x.mean(1, keepdim=True)
        return self.projection(pooled[:, 0]), self.token_projection(torch.cat([pooled, x], 1))


class TinyCoCa(CoCaCaptioner):
    """CoCa of `mini`'s size with a small image encoder over luminance; vocabulary and length are the tokenizer's."""

    def __init__(self, config: CaptionerConfig, tokenizer: Tokenizer):
        from open_clip.coca_model import CoCa

        if tokenizer.vocabulary is None:
            raise ValueError("a tiny CoCa needs a compact vocabulary: build its tokenizer by Tokenizer.from_captions")
        text = {"context_length": tokenizer.length, "vocab_size": tokenizer.size, "width": config.width}
        text |= {"heads": config.heads}
        model = CoCa(
            config.embed_dim,
            multimodal_cfg=text | {"layers": config.decoder_layers},
            text_cfg=text | {"layers": config.text_layers, "embed_cls": True, "output_tokens": True},
            vision_cfg={"image_size": 16, "patch_size": 16, "layers": 1, "width": 64, "output_tokens": True},
            pad_id=tokenizer.pad,
        )
        model.visual = RecognizingTower(config) if config.recognition else ConvTower(config)
        # open_clip leaves the output projection uninitialised
        nn.init.normal_(model.text_decoder.text_projection, std=config.width**-0.5)
        super().__init__(model, tokenizer, config.image_size, max_tokens=tokenizer.length)
        self.config = config

    def prepare(self, images: Tensor) -> Tensor:
        """Luminance as the image encoder wants it.

        For a classifier (B, 3, S, S) in [0, 1]. Otherwise (B, 1, S, S), each picture at zero mean and unit deviation:
        faded photos look like any other.
        """
        gray = luminance(resize(images, self.image_size, crop=True))
        return gray.expand(-1, 3, -1, -1) if self.config.recognition else self.standardize(gray)

    @staticmethod
    def standardize(gray: Tensor) -> Tensor:
        """(B, 1, H, W) less its mean, over its standard deviation (at least 0.02, so that noise stays noise)."""
        std, mean = torch.std_mean(gray, (-2, -1), keepdim=True, correction=0)
        return (gray - mean) / std.clamp_min(0.02)


def _load_coca(path: Path, config: str | None, options: dict) -> CoCaCaptioner:
    from open_clip import get_model_config
    from open_clip.coca_model import CoCa

    if path.is_dir():  # the hub's layout
        described = path / "open_clip_config.json"
        if config is None and described.is_file():
            model_config = json.loads(described.read_text())["model_cfg"]
        else:
            model_config = get_model_config(config or _coca_name(path / "open_clip_model.safetensors"))
        path = path / "open_clip_model.safetensors"
    else:
        model_config = get_model_config(config or _coca_name(path))
    if model_config is None or "multimodal_cfg" not in model_config:
        raise ValueError(f"{config!r} is no CoCa that open_clip knows; use coca_ViT-L-14, coca_ViT-B-32 or coca_base")
    weights = read_safetensors(path, ("coca",), "a CoCa of open_clip")
    model = CoCa(**{name: value for name, value in model_config.items() if name != "custom_text"})
    load_weights(model, weights, path)
    tokenizer = Tokenizer(model_config["multimodal_cfg"]["context_length"])
    return CoCaCaptioner(model, tokenizer, model_config["vision_cfg"]["image_size"], **options)


def _coca_name(path: Path) -> str:
    """Which of open_clip's CoCas a file's shapes are those of; coca_ViT-L-14 where they do not tell."""
    from open_clip import get_model_config, list_models

    shapes = read_header(path).shapes if path.is_file() else {}
    shapes = {name.removeprefix("module."): shape for name, shape in shapes.items()}
    for name in list_models():
        config = get_model_config(name)
        if "multimodal_cfg" not in config or "vocab_size" not in config["text_cfg"]:
            continue
        vision, text = config["vision_cfg"], config["text_cfg"]
        patches = (vision["width"], 3, vision["patch_size"], vision["patch_size"])
        words = (text["vocab_size"], text["width"])
        if (shapes.get("visual.conv1.weight"), shapes.get("text.token_embedding.weight")) == (patches, words):
            return name
    return "coca_ViT-L-14"


# --- BLIP and BLIP-2 --------------------------------------------------------------------------------------------------


class BLIPCaptioner(nn.Module):
    """`BlipForConditionalGeneration` or `Blip2ForConditionalGeneration` of transformers, with its tokenizer."""

    def __init__(
        self,
        model: nn.Module,
        tokenizer,
        *,
        mean: tuple[float, ...] = CLIP_MEAN,
        std: tuple[float, ...] = CLIP_STD,
        beams: int = 1,
        max_tokens: int = 30,
    ):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_size = model.config.vision_config.image_size
        self.mean, self.std = mean, std
        self.options = {"num_beams": beams, "max_new_tokens": max_tokens, "do_sample": False}

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[str]:
        pixels = normalize(resize(images.to(self.model.device), self.image_size, crop=False), self.mean, self.std)
        ids = self.model.generate(pixel_values=pixels.to(self.model.dtype), **self.options)
        if self.model.config.model_type == "blip":
            ids = ids[:, 1:]  # the start token, which not every copy of its tokenizer knows to be special
        return [strip_monochrome(text) for text in self.tokenizer.batch_decode(ids, skip_special_tokens=True)]


BLIP_HEAD = "text_decoder.cls.predictions.decoder.weight"


def _load_blip(kind: str, folder: Path, options: dict) -> BLIPCaptioner:
    import transformers

    model_class = {"blip": "BlipForConditionalGeneration", "blip2": "Blip2ForConditionalGeneration"}[kind]
    described = _read_config(folder / "config.json")
    weights = sorted(folder.glob("*.safetensors")), [file for file in folder.glob("*") if file.suffix in PICKLES]
    if not weights[0] and weights[1]:
        raise ValueError(pickle_text(min(weights[1])))
    for file in weights[0]:
        read_header(file)
    if kind.replace("2", "-2") != described.get("model_type"):
        raise ValueError(f"{folder} holds a {described.get('model_type')!r} model, not {kind}; give a {kind} folder")
    try:
        model, loaded = getattr(transformers, model_class).from_pretrained(
            folder, local_files_only=True, use_safetensors=True, output_loading_info=True
        )
        tokenizer = transformers.AutoTokenizer.from_pretrained(folder, local_files_only=True)
    except (OSError, ValueError) as error:
        raise ValueError(f"no complete {kind} model with its tokenizer in {folder}: {first_line(error)}") from error
    missing = set(loaded["missing_keys"])
    if BLIP_HEAD in missing:  # newer files leave out what is the word embeddings; older versions draw it at random then
        model.text_decoder.cls.predictions.decoder.weight = model.text_decoder.bert.embeddings.word_embeddings.weight
        missing.remove(BLIP_HEAD)
    if missing:
        raise ValueError(f"no complete {kind} model in {folder}: it lacks {len(missing)} weights, {min(missing)} first")
    if kind == "blip2" and model.config.image_token_index is None:
        raise ValueError(f"{folder}/config.json names no image_token_index; use a current copy of the BLIP-2 model")
    preprocessor = folder / "preprocessor_config.json"
    if preprocessor.is_file():
        pixels = _read_config(preprocessor)
        options = options | {"mean": tuple(pixels["image_mean"]), "std": tuple(pixels["image_std"])}
    return BLIPCaptioner(model, tokenizer, **options)


# --- files ------------------------------------------------------------------------------------------------------------


def load_captioner(
    kind: str, path: str | Path, *, config: str | None = None, beams: int = 1, max_tokens: int = 30
) -> nn.Module:
    """A captioner in eval mode from local files: images (B, 3, H, W) in [0, 1] -> B captions.

    kind    path
    coca    a .safetensors file of an open_clip CoCa (`config` names it, else its shapes do), or a folder with
            open_clip_config.json and open_clip_model.safetensors
    blip    a transformers folder: config.json, model.safetensors, tokenizer files
    blip2   likewise
    clipcap a folder: clipcap.safetensors (the released clip_project.* and gpt.*), clip.safetensors (open_clip's
            `config`, else ViT-B-32-quickgelu or RN50x4-quickgelu by its shapes), GPT-2's vocab.json and merges.txt

    Raises ValueError where a file is missing or is of another model.
    """
    path, options = Path(path), {"beams": beams, "max_tokens": max_tokens}
    if kind not in ("coca", "blip", "blip2", "clipcap"):
        raise ValueError(f"unknown captioner {kind!r}; choose coca, blip, blip2 or clipcap")
    if not path.exists():
        raise ValueError(f"no {kind} captioner at {path}; nothing is downloaded, put its files there first")
    if kind == "coca":
        captioner = _load_coca(path, config, options)
    elif kind == "clipcap":
        from .clipcap import load_clipcap

        captioner = load_clipcap(path, config, options)
    else:
        captioner = _load_blip(kind, path, options)
    return captioner.eval()


def captioner_kind(path: str | Path) -> str:
    """Which captioner, of `load_captioner`'s kinds, lies at a path, by its contents.

    Raises ValueError where it is none.
    """
    path = Path(path)
    if path.is_file():
        return expect(read_header(path), ("coca",), "a CoCa of open_clip, or a captioner's folder").name
    if (path / "open_clip_model.safetensors").is_file():
        return "coca"
    if (path / "clipcap.safetensors").is_file():
        return "clipcap"
    kind = _read_config(path / "config.json").get("model_type")
    if kind not in ("blip", "blip-2"):
        raise ValueError(f"{path} holds a {kind!r} model; expected CoCa, BLIP, BLIP-2 or ClipCap")
    return kind.replace("-", "")


def read_safetensors(path: Path, kinds: tuple[str, ...], what: str) -> dict[str, Tensor]:
    """A captioner's weights. Raises ValueError where they are of another kind of model than `kinds`, or broken."""
    from safetensors.torch import load_file

    if not path.is_file():
        pickles = [file for file in path.parent.glob(f"*{path.stem.split('_')[-1]}*") if file.suffix in PICKLES]
        raise ValueError(pickle_text(pickles[0]) if pickles else f"no {path.name} in {path.parent}; put it there")
    expect(read_header(path), kinds, what)
    return {name.removeprefix("module."): tensor for name, tensor in load_file(path).items()}


def _read_config(path: Path) -> dict:
    if not path.is_file():
        raise ValueError(f"no {path.name} in {path.parent}; put it there")
    try:
        return json.loads(path.read_text())
    except ValueError as error:
        raise ValueError(f"{path} is damaged: {error}") from error


def load_weights(module: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Load all of `weights`, but for the attention masks that older releases stored."""
    masks = ("attn_mask", ".attn.bias", ".attn.masked_bias")
    try:
        missing, unexpected = module.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        lines = str(error).splitlines()
        raise ValueError(f"{path} does not fit this model: {lines[min(1, len(lines) - 1)].strip()}") from error
    unexpected = [key for key in unexpected if not key.endswith(masks)]
    if missing or unexpected:
        raise ValueError(f"{path} does not fit this model: missing {missing[:3]}, unexpected {unexpected[:3]}")


def first_line(error: Exception) -> str:
    return str(error).strip().splitlines()[0]

"""Captions for grey photos: CoCa, BLIP, BLIP-2 and ClipCap behind one interface (SeAda, Table 5).

A captioner is a module that maps pictures (B, 3, H, W) in [0, 1] to B strings; it resizes and normalises for itself.
Nothing is downloaded: weights are local files.
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import TYPE_CHECKING

import torch
from torch import Tensor, nn
from torch.nn import functional as F

from ...color.spaces import luminance
from ...files.weight_headers import read_header
from ...presets import CaptionerConfig
from ..captured import Graphs
from ..classifier import class_name, class_probabilities, views
from ..efficientnet import CHANNELS, EfficientNetLite0
from ..tokenizer import Tokenizer
from .caption_text import name_thing, strip_monochrome
from .coca_model import CoCaModel
from .decoding import CLIP_MEAN, CLIP_STD, beam_search, normalize, resize
from .reading import load_weights, read_safetensors

if TYPE_CHECKING:
    from open_clip.coca_model import CoCa

# a class of this probability is named; 93 % of those are right on grey photos (300 photos of a thousand classes)
CERTAIN = 0.4


class CoCaCaptioner(nn.Module):
    """A CoCa with its own beam search: open_clip's `generate` no longer works under transformers 5."""

    def __init__(
        self, model: CoCa | CoCaModel, tokenizer: Tokenizer, image_size: int, *, beams: int = 1, max_tokens: int = 30
    ):
        super().__init__()
        self.model = model
        self.tokenizer = tokenizer
        self.image_size = image_size
        self.beams = beams
        self.length = min(max_tokens, self.model.context_length)
        self.graphs = Graphs(False)

    def prepare(self, images: Tensor) -> Tensor:
        """Pictures (B, 3, H, W) in [0, 1] as the image encoder wants them."""
        return normalize(resize(images, self.image_size, crop=True), CLIP_MEAN, CLIP_STD)

    @torch.no_grad()
    def decode(self, images: Tensor) -> list[tuple[list[int], float]]:
        """Token ids (start and end included) and mean log-probability of the best caption of each prepared picture."""
        image_tokens = self.graphs(_encode_images, self.model)(self.model, images)
        # a graph needs one shape for texts of all lengths; several beams and pictures have too many shapes
        fixed_shape = self.graphs.on and self.beams == len(images) == 1
        captured = self.graphs(_next_logits, self.model)

        def next_log_probs(tokens: Tensor, pictures: Tensor) -> Tensor:
            device, last = image_tokens.device, torch.tensor([tokens.shape[1] - 1])
            if fixed_shape:
                rows = F.pad(tokens, (0, self.length - tokens.shape[1]), value=self.model.pad_id)
                logits = captured(self.model, image_tokens, rows.to(device), last.to(device))
            else:
                logits = _next_logits(self.model, image_tokens[pictures.to(device)], tokens.to(device), last.to(device))
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


def _encode_images(model: CoCa | CoCaModel, images: Tensor) -> Tensor:
    """The image tokens of prepared pictures."""
    return model._encode_image(images)[1]


def _next_logits(model: CoCa | CoCaModel, image_tokens: Tensor, tokens: Tensor, last: Tensor) -> Tensor:
    """Logits (N, V) of the token after position `last` (1,) of texts (N, L); what is behind it has no influence."""
    text_tokens = model._encode_text(tokens)[1]
    return model.text_decoder(image_tokens, text_tokens).index_select(1, last)[:, 0].float()


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
    def __init__(self, first: nn.Sequential, second: nn.Sequential):
        super().__init__()
        self.first, self.second = first, second
        nn.init.zeros_(second[1].get_parameter("weight"))  # a block starts as the identity

    def forward(self, x: Tensor) -> Tensor:
        return F.relu(x + self.second(F.relu(self.first(x))))


class RecognizingTower(nn.Module):
    """A frozen ImageNet classifier's last feature map as CoCa's image tokens.

    A few thousand pictures are enough to learn the language model, not the visual features.

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
        if tokenizer.vocabulary is None:
            raise ValueError("a tiny CoCa needs a compact vocabulary: build its tokenizer by Tokenizer.from_captions")
        visual = RecognizingTower(config) if config.recognition else ConvTower(config)
        model = CoCaModel(config, visual, tokenizer.size, tokenizer.length, tokenizer.pad)
        super().__init__(model, tokenizer, config.image_size, max_tokens=tokenizer.length)
        self.config = config

    def prepare(self, images: Tensor) -> Tensor:
        """Luminance as the image encoder wants it.

        For a classifier (B, 3, S, S) in [0, 1]. Otherwise (B, 1, S, S), each picture with zero mean and unit deviation,
        so that contrast does not matter.
        """
        gray = luminance(resize(images, self.image_size, crop=True))
        return gray.expand(-1, 3, -1, -1) if self.config.recognition else self.standardize(gray)

    @staticmethod
    def standardize(gray: Tensor) -> Tensor:
        """(B, 1, H, W) less its mean, over its standard deviation (at least 0.02, so that noise stays noise)."""
        std, mean = torch.std_mean(gray, (-2, -1), keepdim=True, correction=0)
        return (gray - mean) / std.clamp_min(0.02)

    @torch.no_grad()
    def forward(self, images: Tensor) -> list[str]:
        """Captions; where its classifier is certain of one of ImageNet's classes, they name it."""
        captions = super().forward(images)
        classifier = classifier_of(self)
        if classifier is None:
            return captions
        squares = views(classifier, luminance(images))
        probable, best = self.graphs(class_probabilities, classifier)(classifier, squares).max(1)
        certain = zip(captions, probable.tolist(), best.tolist())
        return [name_thing(text, class_name(k)) if p > CERTAIN else text for text, p, k in certain]


def classifier_of(captioner: nn.Module) -> EfficientNetLite0 | None:
    """The classifier that a captioner uses as image encoder; None if it uses another encoder."""
    tower = getattr(getattr(captioner, "model", None), "visual", None)
    return tower.classifier if isinstance(tower, RecognizingTower) else None


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
        raise ValueError(f"{config!r} is not a CoCa model of open_clip; use coca_ViT-L-14, coca_ViT-B-32 or coca_base")
    weights = read_safetensors(path, ("coca",), "a CoCa of open_clip")
    model = CoCa(**{name: value for name, value in model_config.items() if name != "custom_text"})
    load_weights(model, weights, path)
    tokenizer = Tokenizer(model_config["multimodal_cfg"]["context_length"])
    return CoCaCaptioner(model, tokenizer, model_config["vision_cfg"]["image_size"], **options)


def _coca_name(path: Path) -> str:
    """The open_clip CoCa model that a file's shapes match; coca_ViT-L-14 where they are ambiguous."""
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


# --- files ------------------------------------------------------------------------------------------------------------

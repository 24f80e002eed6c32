"""The options of a run of the command besides `ColorizeOptions`. `arguments` makes these; Ray pickles them."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING

from ..files.hint_format import Hint, Stroke
from ..options import ColorizeOptions

if TYPE_CHECKING:
    from torch import Tensor

    from ..hints.palettes import Scheme


@dataclass(frozen=True)
class ModelOptions:
    """Which model, and on which device; see `Colorizer.from_pretrained`."""

    model: str | None = None
    base: str | None = None
    control: Path | None = None
    captioner: Path | None = None
    download: bool = False
    device: str | None = None
    dtype: str | None = None  # a name of torch's; None for what suits the device
    offload: bool = False
    compile: bool = False
    graphs: bool | None = None


@dataclass(frozen=True)
class WorkOptions:
    """What a worker needs to colour a picture; see `worker.Worker`.

    Args:
        colorize: options of every picture. Its seed is the first of `variants` seeds.
        schemes: palettes by name, of which each picture gets the one that suits it.
        reference: a picture whose colours similar things get, sRGB (1, 3, h, w) in [0, 1].
        regions: what finds the coloured things of the prompt, see `steering.word_hints`.
        words: whether to look for the prompt's coloured things.
        batch: how many pictures of one size are coloured together.
        max_megapixels: the largest picture that is read; None for the default of `files.pictures`.
        partial: of files that are cut short, colour what is there.
        keep_color: leave photos as they are that have colours already, and coloured parts of others.
        quality: of JPEG and WebP, 1 to 100; None for `files.pictures`' own.
    """

    colorize: ColorizeOptions = field(default_factory=ColorizeOptions)
    model: ModelOptions = field(default_factory=ModelOptions)
    schemes: Mapping[str, Scheme] | None = None
    reference: Tensor | None = None
    regions: str = "auto"
    words: bool = True
    variants: int = 1
    batch: int = 1
    max_megapixels: float | None = None
    partial: bool = False
    keep_color: bool = False
    quality: int | None = None

    @property
    def seeds(self) -> range:
        """The seeds of every picture."""
        return range(self.colorize.seed, self.colorize.seed + self.variants)

    @property
    def prompt(self) -> str | None:
        """The text for every picture; None for each one's caption. Raises ValueError for several texts."""
        prompt = self.colorize.prompt
        if prompt is not None and not isinstance(prompt, str):
            raise ValueError("expected one prompt for all pictures")
        return prompt


@dataclass(frozen=True)
class FilmOptions:
    """What is asked for films besides; times are in seconds.

    Args:
        folders: inputs are folders of numbered frames.
        codec, quality: FFmpeg's name of a codec, and its constant rate factor; None for what suits the result's name.
        spacing: frames from key to key; None for the default.
        start, end: the part to colour.
        stills: coloured frames by their times.
        hints: hints by the times of the frames that they are on.
    """

    folders: bool = False
    codec: str | None = None
    quality: int | None = None
    spacing: int | None = None
    start: float | None = None
    end: float | None = None
    stills: tuple[tuple[float, Path], ...] = ()
    hints: tuple[tuple[float, tuple[Hint | Stroke, ...]], ...] = ()


@dataclass(frozen=True)
class RunOptions:
    """One run of the command; see `plan.plan` for where pictures come from and results go."""

    inputs: tuple[Path, ...]
    work: WorkOptions
    output: str | None = None
    recursive: bool = False
    unpack: bool = False
    pages: bool = False  # each picture of files that have several
    overwrite: bool = False
    engine: str = "plain"  # or "ray"
    workers: int | None = None  # photos at a time on the CPU; processes of "ray"
    json: bool = False
    film: FilmOptions | None = None  # where inputs are films

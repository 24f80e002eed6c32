"""Cache training pictures and their latents in shares, by any number of processes or machines.

`python -m seada_core.train.cache --data SOURCE --out FOLDER --resolution 512 --encoder VAE --shares 64 [--share K]`
"""

from __future__ import annotations

import json
import sys
from collections.abc import Callable, Iterable, Sequence
from dataclasses import MISSING, dataclass
from pathlib import Path
from typing import Literal

import torch

from ..command_fields import add_fields, given_fields
from ..command_line import FAILED, FINE, Parser
from ..files import atomic
from ..settings import setting
from .data import Cache, build_cache, check_source, share_name
from .encoder import load_encoder
from .sources import DataError, Tally


def build_shares(
    source: str,
    folder: Path,
    resolution: int,
    load: Callable,
    mirror: bool = False,
    film_share: float = 0.0,
    shares: int = 1,
    mine: Iterable[int] | None = None,
    log: Callable[[str], None] = print,
    missing_captions: str = "empty",
    describe_colors: bool = False,
) -> None:
    """Build shares `mine` (all by default) of `shares` of a cache; complete ones are kept.

    A share is a folder `share-00003` of its own, see `build_cache`; `join_shares` makes them one cache. `load` returns
    the latent encoder, and is called only if a share has to be built.
    """
    encoder = None
    for k in range(shares) if mine is None else mine:
        target = folder / share_name(k)
        if not (target / "cache.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            encoder = encoder or load()
            build_cache(
                source, target, resolution, encoder, mirror, film_share, log, (k, shares), missing_captions,
                describe_colors,
            )  # fmt: skip


def join_shares(folder: Path, shares: int, log: Callable[[str], None] = print) -> None:
    """Make a folder's shares one cache, once all of them are there.

    Raises:
        DataError: a share is missing, or is of another source or resolution than the first.
    """
    folders = [folder / share_name(k) for k in range(shares)]
    missing = [k for k, share in enumerate(folders) if not (share / "cache.json").is_file()]
    if missing:
        raise DataError(f"{folder} lacks {len(missing)} of {shares} shares, the first is {missing[0]}")
    first, *others = (Cache(share) for share in folders)
    for other in others:
        check_source(other, first.meta)
    atomic.write_text(folder / "cache.json", json.dumps({**first.meta, "shares": shares}))
    report = Cache(folder).report
    tally = Tally(first.meta["source"], log, report["read"], report["left_out"], report["without_captions"])
    tally.finish()


@dataclass(frozen=True)
class CacheOptions:
    """Options of `python -m seada_core.train.cache`; the help texts describe the fields."""

    data: str = setting(MISSING, "folder of pictures or webdataset shards, as for training")
    out: Path = setting(  # noqa: RUF009
        MISSING, "the cache's folder, for --cache of the trainer; on a file system that all machines share"
    )
    encoder: str = setting(MISSING, "latent encoder: TAESD's encoder file or a diffusers VAE folder")
    resolution: int = setting(512, "side of the square pictures, px")
    mirror: bool = setting(False, "cache the latents of the mirrored pictures too")
    film: float = setting(0.0, "share of the pictures that are also cached as an old film would show them", high=1)
    shares: int = setting(1, "folders that the cache is split into")
    share: int | None = setting(None, "build only this one, counted from 0", low=0)
    device: str | None = setting(None, "of the encoder; by default CUDA where available")
    missing_captions: Literal["empty", "error"] = setting("empty", "what a picture without a caption gets")
    describe_colors: bool = setting(
        False, "write colour captions for pictures that have none, from the colours of their areas and labels"
    )


def main(argv: Sequence[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0 fine, 1 failed; bad usage exits with 2."""
    parser = Parser(
        prog="python -m seada_core.train.cache",
        description="Cache training pictures and their latents, all at once or a share at a time (a job array, one job "
        "per share). The last job joins the shares. Finished shares are kept, so a job may be run again.",
    )
    add_fields(parser, CacheOptions, switches=True)
    options = CacheOptions(**given_fields(parser.parse_args(argv), CacheOptions))
    device = options.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if options.share is not None and options.share >= options.shares:
            raise DataError(f"--share must be 0 to {options.shares - 1}, not {options.share}")
        build_shares(
            options.data, options.out, options.resolution, lambda: load_encoder(options.encoder, device),
            options.mirror, options.film, options.shares, None if options.share is None else [options.share],
            missing_captions=options.missing_captions, describe_colors=options.describe_colors,
        )  # fmt: skip
        try:
            join_shares(options.out, options.shares)
        except DataError as error:
            if options.share is None:
                raise
            print(error, file=sys.stderr)  # other jobs have not finished theirs
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return FAILED
    return FINE


if __name__ == "__main__":
    sys.exit(main())

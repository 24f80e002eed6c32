"""Cache training pictures and their latents in shares, by any number of processes or machines.

`python -m seada_core.train.cache --data SOURCE --out FOLDER --resolution 512 --encoder VAE --shares 64 [--share K]`
"""

from __future__ import annotations

import json
import os
import sys
from collections.abc import Callable, Iterable
from dataclasses import dataclass
from pathlib import Path

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
) -> None:
    """Build shares `mine` (all by default) of `shares` of a cache; those that are whole already are left as they are.

    A share is a folder `share-00003` of its own, see `build_cache`; `join_shares` makes them one cache. `load` gives
    the latent encoder, and is called only where there is something to do.
    """
    from .data import build_cache, share_name

    encoder = None
    for k in range(shares) if mine is None else mine:
        target = folder / share_name(k)
        if not (target / "cache.json").is_file():
            folder.mkdir(parents=True, exist_ok=True)
            encoder = encoder or load()
            build_cache(source, target, resolution, encoder, mirror, film_share, log, (k, shares), missing_captions)


def join_shares(folder: Path, shares: int, log: Callable[[str], None] = print) -> None:
    """Make a folder's shares one cache, once all of them are there.

    Raises:
        DataError: a share is missing, or is of another source or resolution than the first.
    """
    from .data import Cache, check_source, share_name

    folders = [folder / share_name(k) for k in range(shares)]
    missing = [k for k, share in enumerate(folders) if not (share / "cache.json").is_file()]
    if missing:
        raise DataError(f"{folder} lacks {len(missing)} of {shares} shares, the first is {missing[0]}")
    first, *others = (Cache(share) for share in folders)
    for other in others:
        check_source(other, first.meta)
    part = folder / "cache.json.part"
    part.write_text(json.dumps({**first.meta, "shares": shares}))
    os.replace(part, folder / "cache.json")
    report = Cache(folder).report
    tally = Tally(first.meta["source"], log, report["read"], report["left_out"], report["without_captions"])
    tally.finish()


def main(argv: list[str] | None = None) -> int:
    """Run the command. Returns the exit status: 0 fine, 1 failed; bad usage exits with 2."""
    import tyro

    @dataclass(frozen=True)
    class Arguments:
        """Cache training pictures and their latents, all at once or a share at a time (a job array, one job a share).

        The last job joins the shares. Shares that are done are left as they are, so a job may be run again.
        """

        data: str
        """A folder of pictures or webdataset shards, as for training."""
        out: Path
        """The cache's folder, for --cache of the trainer; on a file system that all machines share."""
        encoder: str
        """Latent encoder: TAESD's encoder file or a diffusers VAE folder."""
        resolution: int = 512
        mirror: bool = False
        """Cache the mirrored pictures' latents too."""
        film: float = 0.0
        """Share of the pictures of which a view as an old film would have taken them is cached, too."""
        shares: int = 1
        """How many folders to spread the cache over."""
        share: int | None = None
        """Build this one only, counted from 0."""
        device: str | None = None
        """Of the encoder; CUDA where there is one."""
        missing_captions: str = "empty"
        """What a picture without a caption is: "empty" for an empty caption, or an "error"."""

    arguments = tyro.cli(Arguments, args=argv, prog="python -m seada_core.train.cache")
    import torch

    from .encoder import load_encoder

    device = arguments.device or ("cuda" if torch.cuda.is_available() else "cpu")
    try:
        if arguments.share is not None and not 0 <= arguments.share < arguments.shares:
            raise DataError(f"--share must be 0 to {arguments.shares - 1}, not {arguments.share}")
        build_shares(
            arguments.data, arguments.out, arguments.resolution, lambda: load_encoder(arguments.encoder, device),
            arguments.mirror, arguments.film, arguments.shares, None if arguments.share is None else [arguments.share],
            missing_captions=arguments.missing_captions,
        )  # fmt: skip
        try:
            join_shares(arguments.out, arguments.shares)
        except DataError as error:
            if arguments.share is None:
                raise
            print(error, file=sys.stderr)  # other jobs are still at it
    except (DataError, OSError) as error:
        print(f"error: {error}", file=sys.stderr)
        return 1
    return 0


if __name__ == "__main__":
    sys.exit(main())

"""Benchmarks of speed, memory and quality; RESULTS.md quotes the tables that they print.

`python -m benchmarks` lists the commands.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

RESULTS = Path(__file__).with_name("results")


class Table:
    """One benchmark's figures: a Markdown table, printed row by row, and a JSON file in `benchmarks/results`.

    Args:
        name: the file's name.
        about: what was measured and how, a line above the table.
        columns: the figures' names and units; a column with the rows' names precedes them.
        folder: where the file is written, if not there.
    """

    def __init__(self, name: str, about: str, columns: Sequence[str], device: str = "cpu", folder: Path | None = None):
        self.file = (folder or RESULTS) / f"{name}.json"
        self.content = {"about": about, "machine": machine(device), "columns": list(columns), "rows": {}}
        print(f"{about}\n{self.content['machine']}\n")
        print(f"| | {' | '.join(columns)} |\n|{' --- |' * (len(columns) + 1)}", flush=True)

    def add(self, row: str, *values: float | int | str | None) -> None:
        """Print a row and rewrite the file, which is complete after every row."""
        self.content["rows"][row] = values
        print(f"| {row} | {' | '.join(map(_shown, values))} |", flush=True)
        self.file.parent.mkdir(parents=True, exist_ok=True)
        self.file.write_text(json.dumps(self.content, indent=1) + "\n", encoding="utf-8")


def _shown(value: float | int | str | None) -> str:
    if isinstance(value, float):
        return f"{value:.3g}" if abs(value) < 1000 else f"{value:,.0f}"
    return "" if value is None else str(value)


def machine(device: str = "cpu") -> str:
    """The machine, the versions and the date, in one line."""
    import datetime
    import os
    import platform

    import diffusers
    import torch

    if device.startswith("cuda"):
        name = torch.cuda.get_device_name(device)
    else:
        cpuinfo = Path("/proc/cpuinfo")
        lines = cpuinfo.read_text().splitlines() if cpuinfo.is_file() else []
        model = next((line.split(": ")[1] for line in lines if line.startswith("model name")), platform.processor())
        name = f"{model}, {torch.get_num_threads()} of {os.cpu_count()} threads, load {os.getloadavg()[0]:.1f}"
    versions = f"torch {torch.__version__}, diffusers {diffusers.__version__}, Python {platform.python_version()}"
    return f"{name}; {versions}; {datetime.date.today()}"

"""Lists the benchmarks: `python -m benchmarks`."""

from __future__ import annotations

import ast
from pathlib import Path

HERE = Path(__file__).resolve().parent


def main() -> None:
    for file in sorted(HERE.glob("*/*.py")):
        text = file.read_text(encoding="utf-8")
        if '__name__ == "__main__"' in text:
            summary = (ast.get_docstring(ast.parse(text)) or "").split("\n\n")[0]
            print(f"benchmarks.{file.parent.name}.{file.stem}\n    " + summary.replace("\n", "\n    "))


if __name__ == "__main__":
    main()

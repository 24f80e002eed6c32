"""Lists the benchmarks: `python -m benchmarks`."""

import ast
from pathlib import Path

FOLDER = Path(__file__).parent


def main() -> int:
    for room in ("speed", "quality"):
        print(f"{room}:")
        for path in sorted((FOLDER / room).glob("*.py")):
            source = path.read_text("utf-8")
            if "__main__" in source:
                about = (ast.get_docstring(ast.parse(source)) or "").split("\n\n")[0].replace("\n", " ")
                print(f"  python -m benchmarks.{room}.{path.stem}\n      {about.split(': `python')[0]}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())

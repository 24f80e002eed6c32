"""Where names are imported from, the cost of imports, and the public names of `seada_core` and its packages."""

import ast
import subprocess
import sys
from pathlib import Path

import pytest

import seada_core

ROOT = Path(__file__).resolve().parents[2]
SOURCES = sorted(path for folder in ("seada_core", "nodes") for path in (ROOT / folder).rglob("*.py"))


def defined(tree: ast.Module) -> set[str]:
    """The names that a module defines at its top level, without imported ones."""
    names: set[str] = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.ClassDef):
            names.add(node.name)
        elif isinstance(node, ast.Name) and isinstance(node.ctx, ast.Store):
            names.add(node.id)
    return names


def module_of(node: ast.ImportFrom, path: Path) -> Path:
    """The file or folder of a relative import."""
    folder = path.parents[node.level - 1]
    return folder.joinpath(*(node.module or "").split("."))


@pytest.mark.parametrize("path", SOURCES, ids=lambda path: path.relative_to(ROOT).as_posix())
def test_names_are_imported_from_the_module_that_defines_them(path):
    for node in ast.walk(ast.parse(path.read_text())):
        if isinstance(node, ast.ImportFrom) and node.level:
            file = module_of(node, path).with_suffix(".py")
            if file.is_file():  # else it is a folder, whose modules are imported
                known = defined(ast.parse(file.read_text()))
                for alias in node.names:
                    assert alias.name in known, f"{alias.name} is not defined in {file.relative_to(ROOT)}"


def without(heavy: set[str], code: str) -> str:
    """The output of the code in a new process, which fails if one of the heavy modules is imported."""
    code += f"\nimport sys; assert not {heavy} & set(sys.modules), 'something heavy was imported'"
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr
    return done.stdout


def without_torch(code: str) -> str:
    return without({"torch", "numpy", "PIL", "tqdm"}, code)


@pytest.mark.parametrize(
    "package, names",
    [
        ("seada_core", ["ColorizeOptions", "Colorizer", "Hint", "Stroke", "__version__"]),
        ("seada_core.color", ["lab_to_rgb", "luminance", "merge", "rgb_to_lab", "rgb_to_ycbcr", "ycbcr_to_rgb"]),
        ("seada_core.hints", ["Hint", "Stroke", "propagate", "quantize", "slic"]),
    ],
)
def test_public_names_are_imported_lazily(package, names):
    printed = without_torch(f"import {package} as p; print(sorted(p.__all__)); assert set(p.__all__) <= set(dir(p))")
    assert printed.strip() == repr(names)
    room = __import__(package, fromlist=names)
    for name in names:
        value = getattr(room, name)
        assert getattr(value, "__name__", name) == name
    with pytest.raises(AttributeError, match=f"module '{package}' has no attribute 'nothing'"):
        room.nothing  # noqa: B018


def test_options_and_hints_need_no_torch():
    code = "from seada_core import ColorizeOptions, Hint\n"
    code += "print(ColorizeOptions(hints=[Hint(1, 2, '#aabbcc')], steps=2).steps)"
    assert without_torch(code) == "2\n"


@pytest.mark.parametrize("command", ["colorize", "convert", "evaluate"])
def test_help_needs_no_torch(command):
    code = f"from seada_core.{command}.__main__ import main; assert main(['--help']) == 0"
    assert f"python -m seada_core.{command}" in without_torch(code)


def test_types_and_the_version_are_exported():
    assert (ROOT / "seada_core" / "py.typed").is_file()
    assert seada_core.__version__.count(".") == 2


@pytest.mark.slow
def test_the_pipeline_imports_no_slow_library():
    """It is imported when ComfyUI starts: slow libraries are imported with the first model."""
    slow = {"diffusers", "transformers", "open_clip", "accelerate", "torchvision", "webdataset"}
    without(slow, "import seada_core.pipeline, seada_core.steering, seada_core.colorize.worker")


# what plain colouring has no use for, and what once took half of its time
BUDGET = {"accelerate", "bitsandbytes", "diffusers", "huggingface_hub", "open_clip", "peft", "ray", "scipy", "sympy"}
BUDGET |= {"timm", "torch._dynamo", "torch._inductor", "torchvision", "transformers"}


def test_colouring_a_photo_stays_within_its_import_budget(tmp_path):
    arguments = ["samples/photo.jpg", "-o", str(tmp_path / "colour.jpg"), "--size", "64"]
    printed = without(BUDGET, f"from seada_core.colorize.__main__ import main; assert main({arguments}) == 0")
    assert "photo.jpg" in printed and (tmp_path / "colour.jpg").is_file()

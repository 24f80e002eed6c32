"""The command in a process of its own: what it imports, and what it prints."""

import json
import os
import subprocess
import sys

from command import ROOT, luma_share, scene
from PIL import Image


def lightly(*argv: str) -> subprocess.CompletedProcess:
    """The command in a process that fails where it has imported anything heavy."""
    code = (
        "import sys; from seada_core.colorize.__main__ import main; status = main(sys.argv[1:]); "
        "heavy = {'torch', 'numpy', 'PIL', 'diffusers', 'transformers', 'tqdm'} & set(sys.modules); "
        "sys.exit(f'imported {heavy}' if heavy else status)"
    )
    return subprocess.run([sys.executable, "-c", code, *argv], capture_output=True, text=True, cwd=ROOT)


def test_help_imports_nothing_heavy():
    done = lightly("--help")
    assert (done.returncode, done.stderr) == (0, "")
    for option in ("--hint", "--palette", "--variants", "--json", "--overwrite", "--token-steps"):
        assert option in done.stdout


def test_palettes_are_listed_without_anything_heavy():
    done = lightly("--list-palettes")
    assert (done.returncode, done.stderr) == (0, "")
    bank = json.loads((ROOT / "seada_core" / "hints" / "palettes.json").read_text())["schemes"]
    lines = done.stdout.splitlines()
    assert [line.split(" (")[0] for line in lines] == [scheme["name"] for scheme in bank]
    for line, scheme in zip(lines, bank):
        assert scheme["era"] in line and all(f"{c['color']} {c['name']}" in line for c in scheme["colors"])


def test_hints_and_palettes_are_read_without_anything_heavy(tmp_path):
    (tmp_path / "hints.json").write_text('[{"x": 1, "y": 2, "color": "#aabbcc"}]')
    good = ["in.png", "--hint", "1,2,#aabbcc", "--hints", str(tmp_path / "hints.json"), "--palette", "#112233"]
    done = lightly(*good, "--hint", "1,2,#aabbcc,-1")
    assert (done.returncode, done.stderr.count("\n")) == (2, 1)
    assert "hint radius is -1" in done.stderr


def test_as_a_process(tiny_model, photo, tmp_path):
    (tmp_path / "bad.png").write_bytes(b"no picture")
    argv = [sys.executable, "-m", "seada_core.colorize", "bad.png", "photo.png", "--model", str(tiny_model), "--json"]
    environment = os.environ | {"PYTHONPATH": str(ROOT)}
    done = subprocess.run(argv, capture_output=True, text=True, cwd=tmp_path, env=environment)
    assert done.returncode == 1
    bad, good = map(json.loads, done.stdout.splitlines())
    assert bad["error"]
    assert good["output"] == "photo-color.png"
    assert luma_share(scene(), Image.open(tmp_path / "photo-color.png")) >= 0.995
    *_, error, summary = done.stderr.splitlines()
    assert error == f"error: {bad['error']}"
    assert summary.startswith("1 coloured, 1 failed in ")

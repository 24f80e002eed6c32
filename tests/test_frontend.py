"""The workflows in ComfyUI's own page, in a headless Chromium driven by playwright-core."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

TESTS = Path(__file__).resolve().parent
WORKFLOWS = TESTS.parent / "workflows"


@pytest.fixture(scope="module")
def browser() -> list[str]:
    """The command that drives the page; NODE_PATH names the node_modules that holds playwright-core."""
    node, chromium = shutil.which("node"), os.environ.get("CHROMIUM") or shutil.which("chromium")
    if node is None or chromium is None:
        pytest.skip("the page is tested with node and Debian's chromium; install both, or set CHROMIUM")
    if subprocess.run([node, "-e", "require('playwright-core')"], capture_output=True, cwd=TESTS).returncode:
        pytest.skip("no playwright-core: npm install it anywhere, and set NODE_PATH to its node_modules")
    return [node, str(TESTS / "frontend.cjs"), chromium]


def test_every_workflow_loads_without_a_red_node_and_a_picture_appears(comfy, browser):
    from PIL import Image

    Image.open(comfy.base / "input" / "photo.png").resize((150, 130)).save(comfy.base / "input" / "example.png")
    workflows = sorted(WORKFLOWS.glob("*.json"))
    command = [*browser, f"http://127.0.0.1:{comfy.port}", WORKFLOWS / "seada-one-node.json", *workflows]
    done = subprocess.run(command, capture_output=True, text=True, timeout=900)
    assert done.returncode == 0, done.stderr
    report = json.loads(done.stdout)
    assert report["unknown"] == {path.name: [] for path in workflows}
    assert report["errors"] == []
    assert report["picture"] == [150, 130]

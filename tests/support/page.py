"""ComfyUI's page in a headless browser driven by playwright-core, whose node_modules NODE_PATH names."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
WORKFLOWS = ROOT / "workflows"
SCRIPTS = ROOT / "tests" / "nodes"


def browser(executable: str | None = None) -> str:
    """The path of a browser: Debian's chromium, or CHROMIUM. Skips the test where there is none."""
    node, found = shutil.which("node"), executable or os.environ.get("CHROMIUM") or shutil.which("chromium")
    if node is None or found is None:
        pytest.skip("the page is tested with node and Debian's chromium; install both, or set CHROMIUM")
    if subprocess.run([node, "-e", "require('playwright-core')"], capture_output=True, cwd=SCRIPTS).returncode:
        pytest.skip("no playwright-core: npm install it anywhere, and set NODE_PATH to its node_modules")
    return found


def drive(executable: str, script: str, *arguments: str | Path, seconds: int = 900) -> dict:
    """What a script of tests/nodes prints, run with a browser."""
    command = ["node", SCRIPTS / script, executable, *arguments]
    done = subprocess.run(command, capture_output=True, text=True, timeout=seconds)
    assert done.returncode == 0, done.stderr
    return json.loads(done.stdout)

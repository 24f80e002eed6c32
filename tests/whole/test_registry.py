"""What ComfyUI's registry needs: addresses, classifiers, pictures, a small archive, workflows that name packs."""

import json
import subprocess
import sys
from pathlib import Path

import pytest

if sys.version_info < (3, 11):
    pytest.skip("tomllib is in Python 3.11", allow_module_level=True)

import tomllib

from seada_core import __version__

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())


def test_the_project_has_addresses_and_classifiers():
    urls = PROJECT["project"]["urls"]
    assert urls.keys() == {"Repository", "Documentation", "Bug Tracker"}
    assert all(url.startswith("https://github.com/") for url in urls.values())
    assert {"Operating System :: OS Independent", "Environment :: GPU :: NVIDIA CUDA"} <= set(
        PROJECT["project"]["classifiers"]
    )
    if "OWNER" in urls["Repository"]:  # not published yet: the document says what to replace
        assert "OWNER" in (ROOT / "CONTRIBUTING.md").read_text().split("## Before publishing")[1].split("\n## ")[0]


@pytest.mark.parametrize("kind, shape", [("Icon", (400, 400)), ("Banner", (1260, 540))])
def test_the_registry_s_pictures_are_there(kind, shape):
    from PIL import Image

    path = ROOT / PROJECT["tool"]["comfy"][kind].split("/main/")[1]
    assert Image.open(path).size == shape and path.stat().st_size < 400_000


def test_the_archive_has_what_users_need_and_no_more():
    if not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    command = ["git", "ls-files", "-c"]
    every = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n")) - {""}
    command = [*command, "-i", "--exclude-from=.comfyignore"]
    dropped = set(subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=True).stdout.split("\n"))
    kept = every - dropped
    folders = {name.split("/")[0] for name in kept if "/" in name}
    assert folders == {"docs", "locales", "nodes", "samples", "seada_core", "subgraphs", "web", "workflows"}
    needed = (
        "nodes/",
        "web/",
        "locales/",
        "samples/",
        "seada_core/",
        "subgraphs/",
        "workflows/",
        "LICENSE",
        "README.md",
    )
    assert not [name for name in dropped if name.startswith(needed)]


@pytest.mark.parametrize("path", sorted((ROOT / "workflows").glob("*.json")), ids=lambda path: path.stem)
def test_every_node_of_a_workflow_names_its_pack_and_version(path):
    for node in json.loads(path.read_text())["nodes"]:
        if node["type"] not in ("Note", "MarkdownNote"):
            own = node["type"].startswith("SeAda")
            assert node["properties"]["cnr_id"] == (PROJECT["project"]["name"] if own else "comfy-core")
            assert node["properties"]["ver"] == (__version__ if own else "0.3.64")

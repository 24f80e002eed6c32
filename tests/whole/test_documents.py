"""The documents: links and paths lead somewhere."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
DOCUMENTS = [
    *ROOT.glob("*.md"),
    *ROOT.glob("docs/*.md"),
    *ROOT.glob("seada_core/**/*.md"),
    *ROOT.glob("benchmarks/*.md"),
]
FOLDERS = ("seada_core", "nodes", "web", "docs", "benchmarks", "tests", "tools")
MAPS = [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document):
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", MAPS, ids=lambda path: path.name)
def test_paths_exist(document):
    """Paths are given from the repository's root or from `seada_core`, or as a file's name alone."""
    text = document.read_text(encoding="utf-8")
    paths = set(re.findall(r"`([\w./-]+/[\w./-]*)`", text)) - {"models/seada", "custom_nodes"}
    assert {path for path in paths if not any((base / path).exists() for base in (ROOT, ROOT / "seada_core"))} == set()
    names = set(re.findall(r"`([\w-]+\.(?:py|js|toml|txt|md))`", text))
    known = {file.name for folder in FOLDERS for file in (ROOT / folder).rglob("*")} | {
        file.name for file in ROOT.iterdir()
    }
    assert names - known == set()

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
MAPS = [ROOT / "docs" / "architecture.md", ROOT / "CONTRIBUTING.md", ROOT / "SECURITY.md"]


@pytest.mark.parametrize("document", DOCUMENTS, ids=lambda path: str(path.relative_to(ROOT)))
def test_links_lead_to_files(document):
    links = re.findall(r"\]\(([^)#\s]+)", document.read_text(encoding="utf-8"))
    missing = [link for link in links if "://" not in link and not (document.parent / link).exists()]
    assert missing == []


@pytest.mark.parametrize("document", MAPS, ids=lambda path: path.name)
def test_paths_exist(document):
    """Paths are given from the repository's root or from `seada_core`."""
    names = re.findall(r"`([\w./-]+/[\w./-]*|[\w./-]+\.(?:py|js|toml|txt|md))`", document.read_text(encoding="utf-8"))
    bases = [ROOT, ROOT / "seada_core", ROOT / "seada_core" / "evaluate", ROOT / "nodes", ROOT / "web" / "js"]
    missing = {name for name in names if not any((base / name).exists() for base in bases)}
    assert {name for name in missing if not name.startswith(("custom_nodes", "models/seada"))} == set()

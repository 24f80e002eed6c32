"""The lock file of CI: everything pinned, with hashes, within the requirements' bounds, and of no particular index."""

import re
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

ROOT = Path(__file__).resolve().parents[2]


def requirements(name: str) -> list[Requirement]:
    """A file's requirements, those of the files that it names included."""
    found = []
    for line in (ROOT / name).read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            found += requirements(line.removeprefix("-r "))
        elif line:
            found.append(Requirement(line))
    return found


@pytest.fixture(scope="module")
def lock() -> list[tuple[Requirement, list[str]]]:
    """What is pinned, with its hashes."""
    lines = (ROOT / "requirements-lock.txt").read_text()
    entries = re.sub(r"\\\n\s*", "", re.sub(r"^#.*\n", "", lines, flags=re.M)).splitlines()
    return [(Requirement(entry.split("--hash=")[0]), entry.split("--hash=")[1:]) for entry in entries]


def test_all_that_is_pinned_has_one_version_and_hashes(lock):
    assert len(lock) > 100
    for requirement, hashes in lock:
        assert [specifier.operator for specifier in requirement.specifier] == ["=="], requirement
        assert hashes and all(re.fullmatch(r"sha256:[0-9a-f]{64}\s*", found) for found in hashes), requirement


def test_the_lock_file_names_no_index_and_no_path():
    text = (ROOT / "requirements-lock.txt").read_text()
    assert not re.search(r"://|^\s*(-i|-f|--index|--extra-index|--find-links|--trusted)|(^|\s)/", text, re.M)


def test_every_requirement_is_in_the_lock_file_within_its_bounds(lock):
    for requirement in requirements("requirements-dev.txt"):
        name = canonicalize_name(requirement.name)
        pinned = [next(iter(r.specifier)).version for r, _ in lock if canonicalize_name(r.name) == name]
        assert pinned, f"{name} is missing: make the lock file anew, see CONTRIBUTING.md"
        assert all(requirement.specifier.contains(version) for version in pinned), (requirement, pinned)


def test_the_workflow_audits_and_tests_the_lowest_and_the_newest_versions():
    import yaml

    jobs = yaml.safe_load((ROOT / ".github" / "workflows" / "tests.yml").read_text())["jobs"]
    commands = {name: "\n".join(step.get("run", "") for step in job["steps"]) for name, job in jobs.items()}
    assert "--require-hashes -r requirements-lock.txt" in commands["core"]
    assert re.search(r"^pip-audit .*requirements-lock\.txt", commands["audit"], re.M)
    kinds = {entry["versions"] for entry in jobs["versions"]["strategy"]["matrix"]["include"]}
    assert kinds == {"lowest", "newest", "transformers-4"}
    assert jobs["nodes"]["strategy"]["matrix"]["comfyui"] == ["v0.3.64", "master"]

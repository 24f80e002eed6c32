"""Dependencies: requirements and extras, the lock file, and the workflows that install, test and publish."""

import ast
import importlib.metadata
import importlib.util
import json
import os
import re
import subprocess
import sys
from pathlib import Path

import pytest
import yaml
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

if sys.version_info >= (3, 11):
    import tomllib
else:
    import tomli as tomllib

ROOT = Path(__file__).resolve().parents[2]
DISTRIBUTIONS = {
    "PIL": "Pillow",
    "open_clip": "open_clip_torch",
    "skimage": "scikit-image",
    "sklearn": "scikit-learn",
}  # where a package's name is not its module's
COMFYUI = {"aiohttp", "comfy", "comfy_api", "comfy_execution", "folder_paths", "server"}
CARRIED = {"huggingface_hub"}  # comes with diffusers and transformers, which bound it


def requirements(name: str) -> list[Requirement]:
    """A file's requirements, including those of the files that it refers to."""
    found = []
    for line in (ROOT / name).read_text().splitlines():
        line = line.split("#")[0].strip()
        if line.startswith("-r "):
            found += requirements(line.removeprefix("-r "))
        elif line:
            found.append(Requirement(line))
    return found


def extras() -> dict[str, list[Requirement]]:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    return {name: [Requirement(line) for line in lines] for name, lines in project["optional-dependencies"].items()}


def names(found: list[Requirement]) -> set[str]:
    return {canonicalize_name(requirement.name) for requirement in found}


def imported(files: list[Path]) -> set[str]:
    """The distributions that files import, lazily or not."""
    modules = set()
    for file in files:
        for node in ast.walk(ast.parse(file.read_text(encoding="utf-8"))):
            if isinstance(node, ast.Import):
                modules |= {alias.name.split(".")[0] for alias in node.names}
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                modules.add(node.module.split(".")[0])
    modules -= sys.stdlib_module_names | COMFYUI | CARRIED | {"seada_core"}
    return {canonicalize_name(DISTRIBUTIONS.get(module, module)) for module in modules}


# --- requirements -----------------------------------------------------------------------------------------------------


def test_requirements_are_what_nodes_and_colorize_import_and_no_more():
    core = ROOT / "seada_core"
    others = [core / "train", core / "evaluate", core / "convert", core / "film", core / "colorize" / "ray_engine.py"]
    files = [file for file in core.rglob("*.py") if not any(other in (file, *file.parents) for other in others)]
    needed = imported([*files, *(ROOT / "nodes").glob("*.py")]) - names(extras()["heic"])  # used where it is installed
    assert needed == names(requirements("requirements.txt"))


def test_each_extra_is_what_its_command_imports_beyond_that():
    core, base = ROOT / "seada_core", names(requirements("requirements.txt"))
    declared = {name: names(found) for name, found in extras().items()}
    training = imported(list((core / "train").rglob("*.py"))) - base - {"bitsandbytes"}  # of one optimizer only
    assert training <= declared["train"] | declared["lora"]
    evaluation = imported(list((core / "evaluate").rglob("*.py"))) - base
    assert evaluation <= declared["evaluate"]
    assert imported([core / "colorize" / "ray_engine.py"]) - base == declared["ray"]
    assert imported([core / "files" / "formats.py"]) - base == declared["heic"]


def test_the_tests_install_every_extra():
    everything = {(canonicalize_name(r.name), str(r.specifier)) for r in requirements("requirements-dev.txt")}
    for name, found in extras().items():
        assert {(canonicalize_name(r.name), str(r.specifier)) for r in found} <= everything, name


def test_installing_into_a_comfyui_environment_changes_no_package(tmp_path):
    python = os.environ.get("COMFYUI_PYTHON")
    if not python:
        pytest.skip("COMFYUI_PYTHON names no Python of a ComfyUI")
    pip = [python, "-m", "pip", "--disable-pip-version-check"]
    report = tmp_path / "report.json"
    command = [*pip, "install", "--dry-run", "--quiet", "--report", str(report), "-r", str(ROOT / "requirements.txt")]
    result = subprocess.run(command, capture_output=True, text=True)
    if result.returncode and re.search(r"connection|resolve host|name resolution|No matching dist", result.stderr):
        pytest.skip("some requirements are not installed there, and the package index cannot be reached")
    assert result.returncode == 0, result.stderr
    listed = subprocess.run([*pip, "list", "--format", "json"], capture_output=True, text=True, check=True).stdout
    present = {canonicalize_name(package["name"]) for package in json.loads(listed)}
    added = {canonicalize_name(one["metadata"]["name"]) for one in json.loads(report.read_text())["install"]}
    assert added.isdisjoint(present)


def test_the_project_packages_every_room_and_its_data():
    setuptools = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]
    find = importlib.util.find_spec("setuptools") and importlib.import_module("setuptools").find_packages
    if not find:
        pytest.skip("setuptools is not installed")
    packages = find(str(ROOT), include=setuptools["packages"]["find"]["include"])
    rooms = {file.parent.relative_to(ROOT).as_posix().replace("/", ".") for file in ROOT.glob("seada_core/**/*.py")}
    assert set(packages) == rooms
    patterns = setuptools["package-data"]
    for file in (ROOT / "seada_core").rglob("*"):
        if file.is_file() and file.suffix in (".json", ".safetensors", ".md"):
            package = file.parent if (file.parent / "__init__.py").is_file() else file.parent.parent
            globs = patterns["*"] + patterns.get(package.relative_to(ROOT).as_posix().replace("/", "."), [])
            assert any(file.relative_to(package).match(one) for one in globs), file


# --- wheels for a machine with a GPU ----------------------------------------------------------------------------------


def test_the_wheels_for_a_gpu_are_whole():
    """They and what is already there are all that the project and the wheels themselves need; pinned, with hashes."""
    text = (ROOT / "requirements-gpu.txt").read_text()
    there = {canonicalize_name(name) for line in re.findall(r"# already there: (.*)", text) for name in line.split()}
    carried = {}
    for line in text.replace("\\\n", " ").splitlines():
        if line and not line.startswith("#"):
            assert re.search(r" --hash=sha256:[0-9a-f]{64}$", line), line
            requirement = Requirement(line.split(" --hash")[0])
            carried[canonicalize_name(requirement.name)] = str(requirement.specifier).removeprefix("==")
    assert carried and there.isdisjoint(carried)
    needed = requirements("requirements.txt")
    for name in carried:
        needed += map(Requirement, importlib.metadata.requires(name) or ())
    for requirement in needed:
        if requirement.marker and not requirement.marker.evaluate({"extra": "", "python_version": "3.12"}):
            continue
        name = canonicalize_name(requirement.name)
        if name == "lazy-importer":  # of a newer importlib_metadata than the one that is carried
            continue
        assert name in there or requirement.specifier.contains(carried.get(name, "")), requirement


# --- the lock file ----------------------------------------------------------------------------------------------------


@pytest.fixture(scope="module")
def lock() -> list[tuple[Requirement, list[str]]]:
    """Pinned requirements with their hashes."""
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
        assert pinned, f"{name} is missing: regenerate the lock file, see CONTRIBUTING.md"
        assert all(requirement.specifier.contains(version) for version in pinned), (requirement, pinned)


# --- the workflows ----------------------------------------------------------------------------------------------------


def workflow(name: str) -> dict:
    return yaml.safe_load((ROOT / ".github" / "workflows" / name).read_text())


def triggers(name: str) -> dict:
    return workflow(name)[True]  # YAML reads the key `on` as a truth value


def commands(job: dict) -> str:
    return "\n".join(step.get("run", "") for step in job["steps"])


def entries(job: dict) -> list[dict]:
    """The combinations in which a job runs."""
    matrix = job["strategy"]["matrix"]
    return matrix.get("include") or [{key: value} for key, values in matrix.items() for value in values]


@pytest.fixture(scope="module")
def jobs() -> dict[str, dict]:
    return workflow("tests.yml")["jobs"]


def test_every_push_and_pull_request_is_tested():
    assert triggers("tests.yml")["push"] == {"branches": ["main"]}
    assert "pull_request" in triggers("tests.yml")


def test_every_job_runs_the_tests_or_the_audit(jobs):
    for name, job in jobs.items():
        assert re.search(r"python -m pytest|^pip-audit ", commands(job), re.M), name


def test_the_locked_versions_are_installed_by_hash_and_audited(jobs):
    installs = [name for name, job in jobs.items() if re.search(r"^pip install .*lock", commands(job), re.M)]
    audits = [line for job in jobs.values() for line in commands(job).splitlines() if line.startswith("pip-audit ")]
    assert installs and all("--require-hashes" in commands(jobs[name]) for name in installs)
    assert audits and all("--requirement requirements-lock.txt" in line for line in audits)


def test_the_lowest_and_the_newest_versions_are_tested(jobs):
    job = next(job for job in jobs.values() if "uv pip compile" in commands(job))
    assert "${{ matrix.compile }}" in commands(job) and "-c constraints.txt" in commands(job)
    options = [entry["compile"] for entry in entries(job)]
    assert any("--resolution lowest-direct" in option for option in options)
    assert any("--upgrade" in option for option in options)


def test_the_oldest_supported_comfyui_and_the_newest_are_tested(jobs):
    job = next(job for job in jobs.values() if "pytest" in commands(job) and "tests/nodes" in commands(job))
    versions = [entry["comfyui"] for entry in entries(job)]
    bound = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["comfy"]["requires-comfyui"]
    assert {"v" + bound.removeprefix(">="), "master"} <= set(versions)


def test_only_what_has_passed_the_tests_on_main_is_published():
    jobs = workflow("publish.yml")["jobs"]
    publishing = [
        job for job in jobs.values() if any("publish" in step.get("uses", "") for step in job.get("steps", []))
    ]
    assert len(publishing) == 1
    assert publishing[0]["if"] == "github.ref == 'refs/heads/main'"
    needed = [jobs[name] for name in [publishing[0]["needs"]]]
    assert [job["uses"] for job in needed] == ["./.github/workflows/tests.yml"]
    assert "workflow_call" in triggers("tests.yml")


def test_ci_checks_what_make_check_checks(jobs):
    recipe = (ROOT / "Makefile").read_text().split("\ncheck:\n")[1].split("\n\n")[0]
    checks = [line.strip().removeprefix("$(BIN)") for line in recipe.splitlines()]
    script = (ROOT / ".ci" / "run").read_text().splitlines()
    assert len(checks) >= 6 and set(checks) <= set(script)
    assert any(re.search(r"^make check$", commands(job), re.M) for job in jobs.values())

"""A server under load: mixed prompts, some of them bad, some interrupted; `python -m tools.load` runs 300."""

import statistics

import pytest
from comfy_server import PromptError

from tools import load


@pytest.fixture(scope="module", autouse=True)
def _proc():
    from pathlib import Path

    if not Path("/proc/self/smaps_rollup").exists():
        pytest.skip("memory is read from /proc")


@pytest.mark.slow
def test_mixed_prompts_give_the_same_results_as_alone(comfy):
    found = load.run(comfy, 16, seed=3, seeds=1, sizes=2)
    assert found.faults == []
    assert found.answered >= 6 and found.refused
    assert found.answered + sum(found.refused.values()) + found.stopped == 16
    # shortly after its start, a server still grows by up to 5 %
    assert statistics.median(found.memory[-3:]) <= 1.09 * found.memory[0]


@pytest.mark.parametrize("kind", range(load.BAD))
def test_each_kind_of_bad_prompt_is_refused(comfy, kind):
    load.prepare(comfy)
    with pytest.raises(PromptError):
        comfy.run(load.bad(kind, size=0, seed=kind))


@pytest.mark.slow
def test_100_prompts_do_not_increase_memory(comfy):
    before = len(comfy.log.read_text())
    found = load.run(comfy, 100)
    assert found.faults == []
    assert found.grown <= load.AIM_MEMORY  # less is no fault
    # each part of the two models once, and again where its loading was interrupted
    assert comfy.log.read_text()[before:].count("Requested to load Part") <= 8 * 2 + found.stopped

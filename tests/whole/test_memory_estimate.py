"""Memory is estimated before it is used, and its shortage is said in words."""

import pytest
import torch
from command import scene

from seada_core import Colorizer, memory, presets
from seada_core.colorize import worker as worker_module

CPU = torch.device("cpu")


def test_the_estimate_is_what_was_measured():
    for side, measured in ((512, 1.09e3), (1024, 0.99e3), (2048, 0.99e3)):  # bytes a pixel, of the embedded model
        estimate = memory.needed(presets.MINI, (side, side), 1, torch.float32) / side**2
        assert 0.85 < estimate / measured < 1.15
    assert memory.needed(presets.SD15, (512, 512), 1, torch.float16) < memory.needed(
        presets.SD15, (512, 512), 1, torch.float32
    )


def test_what_does_not_fit_is_refused_with_the_size_that_does(monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 4e9)
    memory.check(presets.MINI, (1024, 1536), 1, torch.float32, CPU)
    with pytest.raises(
        ValueError, match=r"size 5000 needs about 37.* GB .*3.6 GB can be used: at most --size 15"
    ) as caught:
        memory.check(presets.MINI, (5000, 7500), 1, torch.float32, CPU)
    fits = int(str(caught.value).split("--size ")[1].split()[0])
    memory.check(presets.MINI, (fits, fits * 3 // 2), 1, torch.float32, CPU)
    with pytest.raises(ValueError, match="--size"):
        memory.check(presets.MINI, (fits * 11 // 10, fits * 3 // 2 * 11 // 10), 1, torch.float32, CPU)
    with pytest.raises(ValueError, match="64 pictures of size 1024 need about"):
        memory.check(presets.MINI, (1024, 1024), 64, torch.float32, CPU)


def test_what_is_available_counts_a_containers_limit(monkeypatch, tmp_path):
    (tmp_path / "max").write_text("3000000000\n")
    (tmp_path / "used").write_text("1000000000\n")
    monkeypatch.setattr(memory, "_LIMITS", ((str(tmp_path / "max"), str(tmp_path / "used")),))
    assert memory.available(CPU) <= 2e9
    (tmp_path / "max").write_text("max\n")
    assert memory.available(CPU) > 0


def test_the_command_refuses_before_it_starts(run, tmp_path, monkeypatch):
    monkeypatch.setattr(memory, "available", lambda device: 4e9)
    monkeypatch.setattr(Colorizer, "sample", lambda *_: pytest.fail("it has started"))
    scene().save(tmp_path / "a.png")
    status, out, err = run(tmp_path / "a.png", "--size", 5000, "--prompt", "x")
    assert (status, out, len(err)) == (1, [], 1)
    assert "size 5000 needs about" in err[0] and "at most --size " in err[0]


@pytest.mark.parametrize(
    "error",
    [
        RuntimeError(
            "[enforce fail at alloc_cpu.cpp:127] err == 0. DefaultCPUAllocator: can't allocate memory: you tried"
        ),
        torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has a total capacity of"),
        MemoryError(),
    ],
    ids=["cpu", "gpu", "python"],
)
def test_no_text_of_an_allocator_is_shown(run, tmp_path, monkeypatch, error):
    def fail(*_, **__):
        raise error

    monkeypatch.setattr(worker_module, "colorize", fail)
    scene().save(tmp_path / "a.png")
    status, out, err = run(tmp_path / "a.png")
    assert (status, out) == (1, [])
    assert err == [f"error: {tmp_path / 'a.png'}: {memory.TOO_LITTLE}"]

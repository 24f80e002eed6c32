"""Commands and trainer without a network: in a network namespace of their own, even without a loopback device.

If the system does not allow that, only the process's own sockets fail, not those of programs that it starts.
"""

import os
import shutil
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from training import SIZES

ROOT = Path(__file__).resolve().parents[2]
GUARD = """
import socket, sys
def refuse(event, arguments):
    if event == "socket.connect" and isinstance(arguments[1], (str, bytes)):
        return  # a Unix socket: between processes of this machine
    if event in ("socket.connect", "socket.getaddrinfo", "socket.gethostbyname", "socket.sendto"):
        print("NETWORK", event, arguments[1:], file=sys.stderr)
        raise OSError(101, "the network is cut off")
sys.addaudithook(refuse)
"""


def cut_off() -> list[str]:
    """The prefix of a command that runs it without a network."""
    unshare = shutil.which("unshare")
    allowed = unshare and subprocess.run([unshare, "-rn", "true"], capture_output=True).returncode == 0
    return [unshare, "-rn"] if allowed else []


@pytest.fixture(scope="module")
def run(tmp_path_factory):
    """Runs Python without a network; even attempts to use it fail. The home is empty, so that there are no caches."""
    folder = tmp_path_factory.mktemp("offline")
    (folder / "sitecustomize.py").write_text(GUARD)
    home = folder / "home"
    environment = {k: v for k, v in os.environ.items() if not k.startswith(("HF_", "TRANSFORMERS_", "TORCH_HOME"))}
    environment |= {"PYTHONPATH": os.pathsep.join([str(folder), str(ROOT)]), "HOME": str(home), "OMP_NUM_THREADS": "1"}

    def start(*command) -> subprocess.CompletedProcess:
        whole = [*cut_off(), sys.executable, *map(str, command)]
        done = subprocess.run(whole, env=environment, cwd=folder, capture_output=True, text=True, check=False)
        assert "NETWORK" not in done.stderr, done.stderr[-2000:]
        return done

    return start


def test_the_network_is_cut_off(tmp_path):
    (tmp_path / "sitecustomize.py").write_text(GUARD)
    code = "import socket; socket.create_connection(('127.0.0.1', 9), 3)"
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=False)
    assert done.returncode and "NETWORK socket" in done.stderr
    if cut_off():
        done = subprocess.run([*cut_off(), sys.executable, "-c", code], capture_output=True, text=True, check=False)
        assert "unreachable" in done.stderr


@pytest.mark.slow
def test_the_command_colours(run, tmp_path):
    Image.open(ROOT / "samples" / "photo.jpg").resize((120, 80)).save(tmp_path / "photo.png")
    done = run("-m", "seada_core.colorize", tmp_path / "photo.png", "--palette", "auto", "--token-steps", 1)
    assert done.returncode == 0, done.stderr
    assert Image.open(tmp_path / "photo-color.png").size == (120, 80)
    prompt = ["--prompt", "a red cup on a green table", "--hint", "3,4,#804020"]
    done = run("-m", "seada_core.colorize", tmp_path / "photo.png", "-o", tmp_path / "b.png", *prompt)
    assert done.returncode == 0, done.stderr


def test_a_hub_name_is_not_downloaded(run, tmp_path):
    Image.new("L", (32, 32), 90).save(tmp_path / "a.png")
    done = run("-m", "seada_core.colorize", tmp_path / "a.png", "--base", "someone/stable-diffusion-v1-5")
    assert done.returncode == 1 and "--download" in done.stderr


@pytest.mark.slow
def test_training_and_evaluation(run, tmp_path):
    from diffusers import AutoencoderTiny
    from safetensors.torch import save_file

    rng = np.random.default_rng(0)
    (tmp_path / "photos").mkdir()
    for k in range(8):
        picture = Image.fromarray(rng.integers(0, 255, (6, 6, 3), np.uint8)).resize((80, 64))
        picture.save(tmp_path / "photos" / f"{k}.png")
        (tmp_path / "photos" / f"{k}.txt").write_text("a photo of a dog")
    torch.manual_seed(0)
    state = AutoencoderTiny().encoder.state_dict()
    encoder = tmp_path / "taesd_encoder.safetensors"
    save_file({name.removeprefix("layers."): tensor.clone() for name, tensor in state.items()}, encoder)
    quick = ["--steps=2", "--batch=2", "--resolution=64", "--crop=64", "--precision=no", "--chroma-weight=0"]
    where = ["--data", tmp_path / "photos", "--encoder", encoder, "--out", tmp_path / "run"]
    done = run("-m", "seada_core.train", "base", "--preset=mini", *where, *quick, *SIZES)
    assert done.returncode == 0, done.stderr[-2000:]
    assert (tmp_path / "run" / "parts" / "unet.safetensors").is_file()
    images = ["--images", tmp_path / "photos", "--out", tmp_path / "report", "--steps", "1", "--features"]
    done = run("-m", "seada_core.evaluate", *images, "--device", "cpu")
    assert done.returncode == 0 and (tmp_path / "report" / "report.html").is_file(), done.stderr[-2000:]

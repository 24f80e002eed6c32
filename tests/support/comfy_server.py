"""A real ComfyUI server in a process of its own, with this pack and a probe in a base folder of its own."""

from __future__ import annotations

import json
import os
import shutil
import socket
import subprocess
import time
import urllib.error
import urllib.request
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
START_SECONDS = 300
RUN_SECONDS = 300


def find() -> tuple[Path, Path] | str:
    """ComfyUI's folder and its Python, or a message about what is missing."""
    named = os.environ.get("COMFYUI_DIR")
    places = [Path(named)] if named else []
    if not named and ROOT.parent.name == "custom_nodes":
        places.append(ROOT.parent.parent)
    if not named:
        places += [Path.home() / "comfy" / "ComfyUI", Path.home() / "ComfyUI"]
    folder = next((place for place in places if (place / "main.py").is_file()), None)
    if folder is None:
        return "no ComfyUI: set COMFYUI_DIR to a checkout, and COMFYUI_PYTHON to its Python, to run these tests"
    python = os.environ.get("COMFYUI_PYTHON")
    environments = [folder.parent / "comfy-venv", folder / "venv", folder / ".venv"]
    pythons = [Path(python)] if python else [environment / "bin" / "python" for environment in environments]
    found = next((path for path in pythons if path.exists()), None)
    if found is None:
        return f"no Python environment for {folder}: set COMFYUI_PYTHON to one with its and this pack's requirements"
    return folder, found


class PromptError(Exception):
    """A prompt that the server refused, or a node that failed; the text is the one shown to users."""


class Server:
    """`run` queues prompts in ComfyUI's API format. `pack` is a checkout of the nodes; without `probe` no
    prompt runs before the first of the caller's."""

    def __init__(self, base: Path, *arguments: str, pack: Path = ROOT, probe: bool = True):
        folder, python = find()
        self.base = base
        for name in ("custom_nodes", "models/seada", "input", "output", "temp", "user"):
            (base / name).mkdir(parents=True, exist_ok=True)
        (base / "custom_nodes" / "ComfyUI-SeAda").symlink_to(pack)
        shutil.copytree(ROOT / "tests" / "nodes" / "probe", base / "custom_nodes" / "probe")
        with socket.socket() as free:
            free.bind(("127.0.0.1", 0))
            self.port = free.getsockname()[1]
        command = [python, "main.py", "--cpu", "--listen", "127.0.0.1", "--port", str(self.port), "--disable-api-nodes"]
        command += ["--use-pytorch-cross-attention", "--base-directory", str(base), "--preview-method", "latent2rgb"]
        command += ["--database-url", f"sqlite:///{base}/user/comfyui.db", *arguments]
        self.log = base / "server.log"
        with self.log.open("w") as log:
            self.process = subprocess.Popen(command, cwd=folder, stdout=log, stderr=subprocess.STDOUT)
        until = time.monotonic() + START_SECONDS
        while True:
            try:
                self.object_info = self.get("/object_info")
                break
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise RuntimeError(f"ComfyUI did not start: {self.log.read_text()[-2000:]}") from None
                time.sleep(0.5)
        if not probe:
            return
        heavy = ["diffusers", "open_clip", "accelerate", "webdataset"]
        self.heavy_at_start = self.probe(f"import sys; result = [name for name in {heavy} if name in sys.modules]")

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def read_bytes(self, path: str) -> bytes:
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return answer.read()

    def read(self, path: str) -> str:
        return self.read_bytes(path).decode()

    def get(self, path: str):
        return json.loads(self.read(path))

    def post(self, path: str, data: dict) -> dict:
        body = json.dumps(data).encode()
        request = urllib.request.Request(
            f"http://127.0.0.1:{self.port}{path}", body, {"Content-Type": "application/json"}
        )
        try:
            with urllib.request.urlopen(request, timeout=60) as answer:
                return json.loads(answer.read() or "{}")
        except urllib.error.HTTPError as error:
            raise PromptError(error.read().decode()) from None

    def queue(self, prompt: dict) -> str:
        return self.post("/prompt", {"prompt": prompt})["prompt_id"]

    def wait(self, prompt_id: str, every: float = 0.1) -> dict:
        """The prompt's outputs by node id, polled every `every` seconds.

        Raises:
            PromptError: with the failing node's message.
        """
        until = time.monotonic() + RUN_SECONDS
        while time.monotonic() < until:
            entry = self.get(f"/history/{prompt_id}").get(prompt_id)
            if entry is not None:
                for kind, message in entry["status"]["messages"]:
                    if kind == "execution_error":
                        raise PromptError(f"{message['node_type']}: {message['exception_message']}")
                    if kind == "execution_interrupted":
                        raise PromptError("interrupted")
                return entry["outputs"]
            if self.process.poll() is not None:
                raise RuntimeError(f"ComfyUI died: {self.log.read_text()[-2000:]}")
            time.sleep(every)
        raise TimeoutError(f"the prompt took more than {RUN_SECONDS} s")

    def run(self, prompt: dict) -> dict:
        return self.wait(self.queue(prompt))

    def probe(self, code: str, nodes: dict | None = None, **wires):
        """`result` of Python code run inside the server; a to e are outputs of `nodes`, as [id, index]."""
        prompt = {**(nodes or {}), "probe": {"class_type": "Probe", "inputs": {"code": code, **wires}}}
        return json.loads(self.run(prompt)["probe"]["result"][0])

    def picture(self, outputs: dict, node: str, index: int = 0) -> Path:
        """The file of a SaveImage's or PreviewImage's output."""
        image = outputs[node]["images"][index]
        return self.base / image["type"] / image["subfolder"] / image["filename"]


def node(class_type: str, **inputs) -> dict:
    return {"class_type": class_type, "inputs": inputs}


def colorize(image: str = "photo.png", model: str = "tiny", **inputs) -> dict:
    """SeAdaColorize as a prompt; its IMAGE is ["color", 0]."""
    settings = {"prompt": "a dog", "seed": 1, "steps": 0, "guidance": 0, "size": 0, "strength": 1.0, "saturation": 1.0}
    return {
        "image": node("LoadImage", image=image),
        "load": node("SeAdaLoadModel", model_name=model),
        "color": node("SeAdaColorize", **settings | {"image": ["image", 0], "seada": ["load", 1]} | inputs),
    }


def full_graph(image: str = "photo.png", model: str = "tiny", steps: int = 2, cfg: float = 1.0, **decode) -> dict:
    """The same work as a graph; its MODELs are ["load", 0] and ["control", 0], its IMAGE ["decode", 0]."""
    control_name = "embedded" if model == "embedded" else f"{model}/controlnet_rca.safetensors"
    decode = {"saturation": 1.0, "token_steps": 0, "temperature": 1.0, "seed": 1, "tiled": False} | decode
    return {
        "image": node("LoadImage", image=image),
        "load": node("SeAdaLoadModel", model_name=model),
        "text": node("SeAdaSemanticAdapter", seada=["load", 1], text="a dog", strength=1.0),
        "empty": node("SeAdaSemanticAdapter", seada=["load", 1], text="", strength=1.0),
        "load_control": node("SeAdaLoadControlNetRCA", control_name=control_name),
        "control": node(
            "SeAdaApplyControlNetRCA",
            model=["load", 0], control=["load_control", 0], image=["image", 0], strength=1.0, start=0.0, end=1.0,
        ),
        "latent": node("SeAdaEmptyLatent", seada=["load", 1], image=["image", 0], size=0),
        "sample": node(
            "KSampler",
            model=["control", 0], seed=1, steps=steps, cfg=cfg, sampler_name="ddim", scheduler="simple",
            positive=["text", 0], negative=["empty", 0], latent_image=["latent", 0], denoise=1.0,
        ),
        "decode": node(
            "SeAdaVQDecode", seada=["load", 1], latent=["sample", 0], image=["image", 0],
            conditioning=["text", 0], **decode,
        ),
    }  # fmt: skip

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

ROOT = Path(__file__).resolve().parents[1]
START_SECONDS = 300
RUN_SECONDS = 300


def find() -> tuple[Path, Path] | str:
    """ComfyUI's folder and its Python, or a line that says what is missing."""
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
    """A prompt that the server refused, or a node that failed; the text is what the user sees."""


class Server:
    """`run` queues prompts in ComfyUI's API format."""

    def __init__(self, base: Path, *arguments: str):
        folder, python = find()
        self.base = base
        for name in ("custom_nodes", "models/seada", "input", "output", "temp", "user"):
            (base / name).mkdir(parents=True, exist_ok=True)
        (base / "custom_nodes" / "ComfyUI-SeAda").symlink_to(ROOT)
        shutil.copytree(ROOT / "tests" / "probe", base / "custom_nodes" / "probe")
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
                return
            except (urllib.error.URLError, ConnectionError):
                if self.process.poll() is not None or time.monotonic() > until:
                    self.stop()
                    raise RuntimeError(f"ComfyUI did not start: {self.log.read_text()[-2000:]}") from None
                time.sleep(0.5)

    def stop(self) -> None:
        self.process.terminate()
        try:
            self.process.wait(20)
        except subprocess.TimeoutExpired:
            self.process.kill()
            self.process.wait()

    def get(self, path: str):
        with urllib.request.urlopen(f"http://127.0.0.1:{self.port}{path}", timeout=60) as answer:
            return json.loads(answer.read())

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

    def wait(self, prompt_id: str) -> dict:
        """The prompt's outputs by node id. Raises PromptError with the failing node's message."""
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
            time.sleep(0.1)
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

"""The page of `evaluate`, in a browser."""

import json
import os
import shutil
import subprocess
from pathlib import Path

import pytest
import torch
from evaluation import command, half, report_of

from seada_core.evaluate import metrics, sources

HOSTILE = "<img src=x onerror=window.pwned=1>&\"'"


def test_page_in_a_browser(folder, photos):
    """Everything is in the file, every thumbnail loads, and names stay names."""
    node, chromium = shutil.which("node"), os.environ.get("CHROMIUM") or shutil.which("chromium")
    if node is None or chromium is None:
        pytest.skip("the page is tested with node and Debian's chromium; install both, or set CHROMIUM")
    here = Path(__file__).parent
    if subprocess.run([node, "-e", "require('playwright-core')"], capture_output=True, cwd=here).returncode:
        pytest.skip("no playwright-core: npm install it anywhere, and set NODE_PATH to its node_modules")
    name = HOSTILE.replace("/", "")
    (folder / "truth" / name).mkdir()
    photos[0].save(folder / "truth" / name / f"{name}.png")
    sources.to_image(half(sources.to_tensor(photos[0]))).save(folder / "half" / f"{name}.png")
    assert command(folder) == 0
    done = subprocess.run(
        [node, here / "report.cjs", chromium, (folder / "report" / "report.html").as_uri()],
        capture_output=True,
        text=True,
        timeout=300,
    )
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["requests"] == [] and seen["errors"] == [] and not seen["pwned"]
    assert seen["shut"]  # markup that got in all the same would run nothing
    assert seen["pictures"] == 9 * 3 and seen["broken"] == 0  # input, half, truth of each
    assert f"{name}/{name}" in seen["names"]
    assert name in seen["classes"]
    titles = ["Worst by PSNR over grey's", "Best", "Spread evenly over the rest", "Chroma", "By class", "Settings"]
    assert seen["titles"] == titles
    truth = torch.stack([sources.to_tensor(photo) for photo in [*photos, photos[0]]])
    psnr = metrics.psnr(half(truth), truth)
    worst = (psnr - metrics.psnr(sources.gray_of(truth), truth)).argsort(stable=True)[:3]
    assert [float(text) for text in seen["worst"]] == pytest.approx(psnr[worst].tolist(), abs=0.06)
    assert seen["lines"] == 2  # truth and half in the histogram
    report = report_of(folder)
    assert report["methods"]["half"]["psnr"] == pytest.approx(float(seen["psnr"].split()[0]), abs=0.006)

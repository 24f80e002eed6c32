"""Lays the workflows out: `python -m tools.lay_out MEASURED...`, with what tests/nodes/layout.cjs prints.

Nodes stand in named groups from left to right, and in a group in columns by what they depend on, so that links run from
left to right. In workflows that are not large, columns stand below the links that pass them: a link behind a node looks
as if it ended there. A node is as large as the largest of the page's measurements, in both renderers, and of the
workflow's own; `python -m tools.lay_out` without files therefore keeps sizes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path

from seada_core import __version__

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
PACK = "comfyui-seada"  # in the registry
CORE = "0.3.64"  # the oldest ComfyUI that is supported
COLUMN, ROW, MARGIN, TITLE = 60, 30, 24, 30  # between columns, between nodes, around a group's nodes; a node's title
HEADING = 44  # of a group
SLOT, CLEAR = 20, 16  # the height of a socket; between a link and the node below it
LOWEST = 1000  # how far a column is lowered at most
NOTES = ("Note", "MarkdownNote")
WIDTH = 340
SIZES = {  # of nodes that show pictures or long texts: width, least height without the title
    "SeAdaLoadPhoto": (320, 370),
    "LoadImage": (320, 370),
    "SeAdaHints": (520, 620),
    "SeAdaColorize": (380, 590),
    "SeAdaLoadFolder": (340, 250),
    "SeAdaSavePhoto": (440, 500),
    "SaveImage": (440, 500),
    "LoadVideo": (340, 360),
    "SaveVideo": (440, 440),
    "SeAdaColorizeVideo": (400, 480),
    "PreviewImage": (400, 330),
    "PreviewAny": (340, 200),
    "SeAdaSemanticAdapter": (340, 200),
    "CLIPTextEncode": (340, 170),
    "TextEncodeQwenImageEditPlus": (340, 260),
    "Note": (640, 170),
    "MarkdownNote": (640, 260),
}
STAGES = {  # the groups, and the nodes that stand in each
    "Photo and model": [
        *("SeAdaLoadPhoto", "SeAdaLoadFolder", "SeAdaLoadModel", "SeAdaLoadControlNetRCA", "LoadImage", "PreviewAny"),
        *("CheckpointLoaderSimple", "ControlNetLoader", "UNETLoader", "CLIPLoader", "DualCLIPLoader", "VAELoader"),
        *("LoraLoaderModelOnly", "LoadVideo", "GetVideoComponents"),
    ],
    "Text": ["SeAdaCaptioner", "SeAdaSemanticAdapter", "CLIPTextEncode"],
    "Colours": [
        *("SeAdaHints", "SeAdaHintsFromText", "SeAdaHintsFromReference", "SeAdaPalette", "SeAdaPaletteBank"),
        *("SeAdaPropagateHints", "SeAdaHintsFromMasks", "ImageToMask", "ThresholdMask", "InvertMask", "PreviewImage"),
    ],
    "Recolour a small copy": [
        *(
            "ImageScaleToTotalPixels",
            "FluxKontextImageScale",
            "VAEEncode",
            "TextEncodeQwenImageEditPlus",
            "ReferenceLatent",
        ),
        *("FluxGuidance", "ConditioningZeroOut", "ModelSamplingAuraFlow", "CFGNorm"),
        *("EmptyFlux2LatentImage", "GetImageSize", "Flux2Scheduler", "CFGGuider", "KSamplerSelect", "RandomNoise"),
        *("SamplerCustomAdvanced", "FluxKontextMultiReferenceLatentMethod"),
    ],
    "Sampling": [
        *(
            "SeAdaApplyControlNetRCA",
            "SeAdaEmptyLatent",
            "SeAdaCCD",
            "KSampler",
            "ControlNetApplyAdvanced",
            "EmptyImage",
        ),
    ],
    "Result": [
        *("SeAdaColorize", "SeAdaVQDecode", "VAEDecode", "SeAdaMergeLuminance", "SeAdaSavePhoto", "SaveImage"),
        *("SeAdaColorizeVideo", "SeAdaSteadyColors", "CreateVideo", "SaveVideo"),
    ],
}
COLORS = dict(zip(STAGES, ("#3f789e", "#88A", "#8A8", "#a1309b", "#a1309b", "#b58b2a")))


def size_of(node: dict, measured: list[dict]) -> tuple[int, int]:
    """A node's width, and its height with the title."""
    width, height = SIZES.get(node["type"], (WIDTH, 30))
    boxes = [[0, 0, node["size"][0], node["size"][1] + TITLE], *(one[str(node["id"])] for one in measured)]
    return max([width, *(box[2] for box in boxes)]), max([height + TITLE, *(box[3] for box in boxes)])


def stages_of(workflow: dict) -> dict[int, str]:
    """The group of each node. A node whose results go into an earlier group moves there."""
    stages = {}
    names = list(STAGES)
    edits = any(node["type"] in STAGES["Recolour a small copy"] for node in workflow["nodes"])
    for node in workflow["nodes"]:
        if node["type"] not in NOTES:
            stages[node["id"]] = next(name for name, types in STAGES.items() if node["type"] in types)
            if edits and stages[node["id"]] in ("Text", "Sampling"):
                stages[node["id"]] = "Recolour a small copy"
    changed = True
    while changed:
        changed = False
        for _, source, _, target, _, _ in workflow["links"]:
            if names.index(stages[source]) > names.index(stages[target]):
                stages[source], changed = stages[target], True
    return stages


def depths(nodes: list[int], links: list[list]) -> dict[int, int]:
    """How many nodes of a group come before each of them."""
    depth = dict.fromkeys(nodes, 0)
    for _ in nodes:
        for _, source, _, target, _, _ in links:
            if source in depth and target in depth:
                depth[target] = max(depth[target], depth[source] + 1)
    return depth


def sockets(node: dict, side: str) -> list[int]:
    """How far below a node's position its sockets are; those of widgets are lower down."""
    heights, row = [], 0
    for socket in node[side]:
        heights.append(node["size"][1] if socket.get("widget") else round((row + 0.7) * SLOT))
        row += not socket.get("widget")
    return heights


def drops(columns: list[list[int]], nodes: dict[int, dict], links: list[list]) -> list[int]:
    """How far each column is to stand lower, to be clear of the links that pass it; not at all in large workflows.

    Two links that pass each other's ends can never both be cleared: then only those from the first column are, and all
    that pass a column of nodes that end there, such as previews.
    """
    column_of = {i: k for k, column in enumerate(columns) for i in column}
    sources = {link[1] for link in links}
    ends = [sources.isdisjoint(column) for column in columns]
    for everything in (True, False):
        lowered = [0] * len(columns)
        for _ in range(2 * len(columns)):
            before = list(lowered)
            for _, source, out, target, into, _ in links:
                first, last = column_of[source], column_of[target]
                start = nodes[source]["pos"][1] + sockets(nodes[source], "outputs")[out] + lowered[first]
                end = nodes[target]["pos"][1] + sockets(nodes[target], "inputs")[into] + lowered[last]
                for k in range(first + 1, last):
                    if everything or first == 0 or ends[k]:
                        lowered[k] = max(lowered[k], max(start, end) + CLEAR - HEADING)
            if lowered == before and max(lowered) <= LOWEST:
                return lowered
    return [0] * len(columns)


def lay_out(workflow: dict, measured: list[dict]) -> None:
    """Set positions, sizes and groups."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    stages, left, workflow["groups"] = stages_of(workflow), 0, []
    members: dict[str, list[list[int]]] = {}
    for stage in STAGES:
        ours = [i for i in nodes if stages.get(i) == stage]
        if ours:
            depth = depths(ours, workflow["links"])
            members[stage] = [[i for i in ours if depth[i] == k] for k in range(max(depth.values()) + 1)]
    for stage, columns in members.items():
        x = left + MARGIN
        for column in columns:
            y, width = HEADING + TITLE, 0
            for i in column:
                w, h = size_of(nodes[i], measured)
                nodes[i]["pos"], nodes[i]["size"] = [x, y], [w, h - TITLE]
                y, width = y + h + ROW, max(width, w)
            x += width + COLUMN
        right = x - COLUMN + MARGIN
        box = {"id": len(workflow["groups"]) + 1, "title": stage, "bounding": [left, 0, right - left, 0]}
        workflow["groups"].append(box | {"color": COLORS[stage], "font_size": 24, "flags": {}})
        left = right + COLUMN
    everything = [column for columns in members.values() for column in columns]
    for column, drop in zip(everything, drops(everything, nodes, workflow["links"]), strict=True):
        for i in column:
            nodes[i]["pos"][1] += drop
    for group in workflow["groups"]:
        ours = [nodes[i] for column in members[group["title"]] for i in column]
        group["bounding"][3] = max(node["pos"][1] + node["size"][1] for node in ours) + MARGIN
    top = 0
    for note in reversed([node for node in nodes.values() if node["type"] in NOTES]):
        w, h = size_of(note, measured)
        top -= h + ROW
        note["pos"], note["size"] = [0, top + TITLE], [w, h - TITLE]


def identify(workflow: dict) -> None:
    """Say where each node comes from, so that ComfyUI's manager can offer what is missing."""
    for node in workflow["nodes"]:
        if node["type"] not in NOTES:
            own = node["type"].startswith("SeAda")
            node["properties"] |= {"cnr_id": PACK if own else "comfy-core", "ver": __version__ if own else CORE}


def main(files: list[str]) -> None:
    reports = [json.loads(Path(file).read_text())["workflows"] for file in files]
    for path in sorted(WORKFLOWS.glob("*.json")):
        workflow = json.loads(path.read_text())
        lay_out(workflow, [report[path.stem]["nodes"] for report in reports])
        identify(workflow)
        path.write_text(json.dumps(workflow, indent=1) + "\n")


if __name__ == "__main__":
    main(sys.argv[1:])

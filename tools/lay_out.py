"""Lays the workflows out: `python -m tools.lay_out MEASURED...`, with what tests/nodes/layout.cjs prints.

Nodes stand in named groups from left to right, and in a group in columns by what they depend on, so that links run from
left to right. A link behind a node looks as if it ended there, so columns stand below the links that pass them, or, in
large workflows, such links run in lanes above the nodes, through reroutes. A node is as large as the largest of the
page's measurements, in both renderers, and of the workflow's own; `python -m tools.lay_out` without files therefore
keeps sizes.
"""

from __future__ import annotations

import json
import sys
from pathlib import Path
from typing import NamedTuple

from seada_core import __version__

WORKFLOWS = Path(__file__).resolve().parent.parent / "workflows"
PACK = "comfyui-seada"  # in the registry
CORE = "0.3.64"  # the oldest ComfyUI that is supported
COLUMN, ROW, MARGIN, TITLE = 60, 30, 24, 30  # between columns, between nodes, around a group's nodes; a node's title
HEADING = 44  # of a group
SLOT, CLEAR = 20, 16  # the height of a socket; between a link and the node below it
LOWEST = 1000  # how far a column is lowered at most
FAR = 600  # px below the groups' edges from which a link needs one more reroute to turn upwards
LANE, TURN, STEP = 24, 30, 8  # the height of a lane; from a column to where links turn; between such links
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


def drops(columns: list[list[int]], nodes: dict[int, dict], links: list[list]) -> list[int] | None:
    """How far each column is to stand lower, to be clear of the links that pass it; None if that cannot be, as where
    two links pass each other's ends, or would need more than `LOWEST`."""
    column_of = {i: k for k, column in enumerate(columns) for i in column}
    lowered = [0] * len(columns)
    for _ in range(2 * len(columns)):
        before = list(lowered)
        for _, source, out, target, into, _ in links:
            first, last = column_of[source], column_of[target]
            start = nodes[source]["pos"][1] + sockets(nodes[source], "outputs")[out] + lowered[first]
            end = nodes[target]["pos"][1] + sockets(nodes[target], "inputs")[into] + lowered[last]
            for k in range(first + 1, last):
                lowered[k] = max(lowered[k], max(start, end) + CLEAR - HEADING)
        if lowered == before and max(lowered) <= LOWEST:
            return lowered
    return None


class Lane(NamedTuple):
    """The way of all links of an output that pass columns."""

    source: int
    output: int
    number: int  # from the top
    links: dict[int, list[list]]  # by the columns where they end


def lanes(columns: list[list[int]], nodes: dict[int, dict], links: list[list]) -> list[Lane]:
    """A lane for each output whose links pass columns. Lanes that end before others begin share a number."""
    column_of = {i: k for k, column in enumerate(columns) for i in column}
    ways: dict[tuple[int, int], dict[int, list[list]]] = {}
    for link in links:
        if column_of[link[3]] > column_of[link[1]] + 1:
            ways.setdefault((link[1], link[2]), {}).setdefault(column_of[link[3]], []).append(link)
    found, ends = [], []  # ends: the column where a lane is free again
    # those from lower outputs rise farther right and run lower, so that they do not cross
    for source, output in sorted(ways, key=lambda way: (column_of[way[0]], nodes[way[0]]["pos"][1], way[1])):
        first, last = column_of[source], max(ways[source, output])
        number = next((k for k, end in enumerate(ends) if end <= first), len(ends))
        ends[number : number + 1] = [last]
        found.append(Lane(source, output, number, ways[source, output]))
    return found


def reroute(workflow: dict, columns: list[list[int]], ways: list[Lane]) -> None:
    """Lead links along their lanes: up after the column of their output, down before that of their input."""
    nodes = {node["id"]: node for node in workflow["nodes"]}
    column_of = {i: k for k, column in enumerate(columns) for i in column}
    left = [min(nodes[i]["pos"][0] for i in column) for column in columns]
    right = [max(nodes[i]["pos"][0] + nodes[i]["size"][0] for i in column) for column in columns]
    reroutes: list[dict] = []
    extensions = []

    def add(x: int, way: Lane, parent: int | None, links: list[list], y: int | None = None) -> int:
        made = {"id": len(reroutes) + 1, "pos": [x, HEADING + LANE * way.number + LANE // 2 if y is None else y]}
        reroutes.append(
            made | ({"parentId": parent} if parent else {}) | {"linkIds": sorted(link[0] for link in links)}
        )
        return made["id"]

    def end_of(way: Lane, column: int) -> int:
        """The height of the first input where a lane's links end in a column."""
        tops = [nodes[link[3]]["pos"][1] + sockets(nodes[link[3]], "inputs")[link[4]] for link in way.links[column]]
        return min(tops)

    falling = {
        k: sorted((way for way in ways if k in way.links), key=lambda way: end_of(way, k)) for k in range(len(left))
    }
    rising = dict.fromkeys(range(len(left)), 0)
    for way in ways:
        first = column_of[way.source]
        x = right[first] + TURN + STEP * rising[first]
        rising[first] += 1
        rest = [link for k in sorted(way.links) for link in way.links[k]]
        start = nodes[way.source]["pos"][1] + sockets(nodes[way.source], "outputs")[way.output]
        # the farther a link goes, the wider it swings
        parent = add(x, way, None, rest, start) if start > FAR else None
        parent = add(x + TURN, way, add(x, way, parent, rest), rest)
        for k in sorted(way.links):
            x = left[k] - TURN - STEP * falling[k].index(way)
            parent = add(x - TURN, way, parent, rest)
            corner = add(x, way, parent, way.links[k])
            extensions += [{"id": link[0], "parentId": corner} for link in way.links[k]]
            rest = [link for link in rest if link not in way.links[k]]
    workflow["extra"] |= {"reroutes": reroutes, "linkExtensions": sorted(extensions, key=lambda one: one["id"])}


def place(workflow: dict, measured: list[dict], members: dict[str, list[list[int]]], gap: int, top: int) -> None:
    """Set positions, sizes and groups: `gap` between columns, and the nodes' titles `top` below the groups' edges."""
    nodes, left = {node["id"]: node for node in workflow["nodes"]}, 0
    workflow["groups"] = []
    for stage, columns in members.items():
        x = left + MARGIN
        for column in columns:
            y, width = top + TITLE, 0
            for i in column:
                w, h = size_of(nodes[i], measured)
                nodes[i]["pos"], nodes[i]["size"] = [x, y], [w, h - TITLE]
                y, width = y + h + ROW, max(width, w)
            x += width + gap
        right = x - gap + MARGIN
        box = {"id": len(workflow["groups"]) + 1, "title": stage, "bounding": [left, 0, right - left, 0]}
        workflow["groups"].append(box | {"color": COLORS[stage], "font_size": 24, "flags": {}})
        left = right + COLUMN


def lay_out(workflow: dict, measured: list[dict]) -> None:
    """Set positions, sizes, groups and reroutes."""
    nodes, links = {node["id"]: node for node in workflow["nodes"]}, workflow["links"]
    stages = stages_of(workflow)
    members: dict[str, list[list[int]]] = {}
    for stage in STAGES:
        ours = [i for i in nodes if stages.get(i) == stage]
        if ours:
            depth = depths(ours, links)
            members[stage] = [[i for i in ours if depth[i] == k] for k in range(max(depth.values()) + 1)]
    columns = [column for stage in members.values() for column in stage]
    workflow["extra"] = {
        key: workflow["extra"][key] for key in workflow["extra"].keys() - {"reroutes", "linkExtensions"}
    }
    place(workflow, measured, members, COLUMN, HEADING)
    lowered = drops(columns, nodes, links)
    if lowered is None:
        ways = lanes(columns, nodes, links)
        lowest = HEADING + LANE * (1 + max(way.number for way in ways))
        place(workflow, measured, members, COLUMN + 2 * MARGIN, lowest + CLEAR)
        reroute(workflow, columns, ways)
    for column, drop in zip(columns, lowered or [0] * len(columns), strict=True):
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

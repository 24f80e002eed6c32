"""The order of the pack's workflows in the page's templates: ComfyUI lists them as the file system does."""

from __future__ import annotations

import json

from . import bridge

ORDER = [
    "seada-1-start-here",
    "seada-folder-of-photos",
    "seada-hints-in-one-node",
    "seada-words-and-reference",
    "seada-masks",
    "seada-palette-bank",
    "seada-video",
    "seada-edit-qwen-image",
    "seada-edit-flux-kontext",
    "seada-edit-flux2-klein",
    "seada-full-graph",
    "seada-hints-and-palette",
    "seada-edn-tokens",
    "seada-steady-colors",
    "seada-sd15-stock-controlnet",
    "seada-sd15-full",
]


def register() -> None:
    """Have ComfyUI's list of templates name this pack's in `ORDER`."""
    bridge.change_answers("/workflow_templates", in_order)


def in_order(listed: str) -> str:
    """ComfyUI's list, JSON of packs' folders and their templates, with those of this pack in `ORDER`, others last."""
    packs = json.loads(listed)
    for names in packs.values():
        if not set(names).isdisjoint(ORDER):  # a folder may have any name
            names.sort(key=lambda name: (ORDER.index(name) if name in ORDER else len(ORDER), name))
    return json.dumps(packs)

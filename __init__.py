"""ComfyUI's entry: the pack's nodes. Outside ComfyUI (pytest imports this file too) it does nothing."""

import sys

# ComfyUI's own top-level module `nodes` is what loads packs
if hasattr(sys.modules.get("nodes"), "load_custom_node"):
    from .nodes import comfy_entrypoint

    WEB_DIRECTORY = "./web"

    __all__ = ["WEB_DIRECTORY", "comfy_entrypoint"]

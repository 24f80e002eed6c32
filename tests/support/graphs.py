"""Hints and nodes shared by tests of the nodes."""

from comfy_server import node

POINT = '[{"x": 30, "y": 20, "color": "#d04020", "radius": 6}]'


def ccd(**inputs) -> dict:
    weights = {"hint": 1.0, "palette": 0.3, "exposure": 0.0, "constancy": 0.0, "smoothness": 0.0, "modulation": 1.0}
    settings = {"seada": ["load", 1], "scale": 6.0, "start": 0.0, "end": 1.0} | weights
    return node("SeAdaCCD", **settings | inputs)


def forget(comfy) -> None:
    """Drop cached results, so that the next prompt computes and loads everything again."""
    comfy.post("/free", {"unload_models": True, "free_memory": True})

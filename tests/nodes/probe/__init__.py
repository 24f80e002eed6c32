"""A node for tests only: runs Python inside the server on its inputs."""

import json


class AnyType(str):
    def __ne__(self, other):
        return False


class Probe:
    @classmethod
    def INPUT_TYPES(cls):
        anything = {name: (AnyType("*"),) for name in "abcde"}
        return {"required": {"code": ("STRING", {"multiline": True})}, "optional": anything}

    RETURN_TYPES = (AnyType("*"),)
    FUNCTION = "run"
    OUTPUT_NODE = True

    def run(self, code, **values):
        scope = dict.fromkeys("abcde") | values | {"result": None, "out": None}
        exec(code, scope)
        return {"ui": {"result": [json.dumps(scope["result"])]}, "result": (scope["out"],)}


NODE_CLASS_MAPPINGS = {"Probe": Probe}

"""Opens files given on standard input, one JSON line each, and answers with what happened, one JSON line each.

Run as a program of its own, so that a crash, a hang or a memory peak is seen from outside and belongs to one file.
"""

from __future__ import annotations

import json
import resource
import sys
import time
import traceback
from pathlib import Path
from typing import Any

from cbsurgeon import models
from cbsurgeon.errors import CBSurgeonError
from tests.attacks.corpus import ARCH

SMALL = f"{ARCH}"


def answer(path: Path, arch: str | None, inputs: bool) -> dict[str, Any]:
    before, began = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss, time.perf_counter()
    outcome: dict[str, Any] = {"code": None, "text": "", "crash": ""}
    try:
        if inputs:
            models.build(ARCH, inputs=path)
        else:
            models.load(str(path), arch=arch, input="3")
    except CBSurgeonError as error:
        outcome |= {"code": error.code, "text": str(error), "exit": error.exit_code}
    except BaseException:
        outcome["crash"] = traceback.format_exc()
    outcome["seconds"] = time.perf_counter() - began
    outcome["megabytes"] = (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before) / 1024
    return outcome


def warm() -> None:
    """Import the modules that builders need, so that the time of the first hostile file does not include the
    imports."""
    models.build("timm:vit_tiny_patch16_224", options={"depth": 1})
    models.build("hf:ViTModel", options={"num_hidden_layers": 1, "hidden_size": 8, "num_attention_heads": 2})
    models.build("mod:tests.models.factories:with_tensor")


if __name__ == "__main__":
    warm()
    print("ready", flush=True)
    for line in sys.stdin:
        request = json.loads(line)
        result = answer(Path(request["path"]), request["arch"], request["inputs"])
        print(json.dumps(result), flush=True)

"""An edited model written to a file and read by another process: the same bits, and memory near the weights."""

from __future__ import annotations

import json
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch

import cbsurgeon as cbs
from cbsurgeon.graph.capture import capture
from tests.training.networks import images, recipe

ROOT = Path(__file__).parents[2]
OPTIONS = {"img_size": 32, "patch_size": 8, "embed_dim": 32, "depth": 2, "num_heads": 2, "num_classes": 5}
ARCH = "timm:vit_tiny_patch16_224"

READ = """
import sys, torch, cbsurgeon as cbs
x = torch.load(sys.argv[1])
for path in sys.argv[2:]:
    model = cbs.load(path, trust=path.endswith(".pt2"))
    run = model.module if model.module is not None else model.program.module()
    with torch.no_grad():
        torch.save({"out": run(x), "recipes": list(model.recipes)}, path + ".out")
"""


def trained(op: str) -> cbs.Model:
    """A model with the operator whose new numbers are none that a fresh insertion has."""
    fresh = cbs.load(ARCH, options=OPTIONS)
    model = cbs.insert(fresh, recipe("vit", op))
    with torch.no_grad():
        for key, value in model.module.state_dict().items():
            if key.endswith(".scale"):
                value.normal_()
            elif key.endswith(".strength"):
                value.fill_(0.2)
    return model


def test_a_fresh_process_computes_the_same_bits(tmp_path: Path) -> None:
    """Every form of file, and every kind of operator: without state, with a parameter, with a buffer."""
    pytest.importorskip("timm", reason="the architecture is timm's")
    torch.save(images(), tmp_path / "x.pt")
    expected: dict[Path, tuple[torch.Tensor, cbs.Model]] = {}
    for op in ("cb", "cb_s", "cb_retrofit"):
        model = trained(op)
        with torch.no_grad():
            out = model.module(images())
        for suffix in ("safetensors", "pt", *(["pt2"] if op == "cb_s" else [])):
            edited = replace(model, program=capture(model).exported) if suffix == "pt2" else model
            with torch.no_grad():
                of_file = edited.program.module()(images()) if suffix == "pt2" else out
            torch.testing.assert_close(of_file, out, rtol=1e-5, atol=1e-6)
            expected[cbs.save(edited, tmp_path / f"{op}.{suffix}")] = (of_file, model)
    command = [sys.executable, "-W", "ignore", "-c", READ, str(tmp_path / "x.pt"), *map(str, expected)]
    subprocess.run(command, check=True, cwd=ROOT, timeout=200)
    for path, (out, model) in expected.items():
        found = torch.load(f"{path}.out", weights_only=True)
        assert torch.equal(found["out"], out), path.name
        assert found["recipes"] == list(model.recipes), path.name


def test_shards_with_an_insertion(tmp_path: Path) -> None:
    """A trainer's shards hold the operator's parameters like any others; the recipe is given beside them."""
    pytest.importorskip("timm", reason="the architecture is timm's")
    from safetensors.torch import save_file

    model = trained("cb_s")
    state = model.module.state_dict()
    keys = list(state)
    parts = {"m-1-of-2.safetensors": keys[::2], "m-2-of-2.safetensors": keys[1::2]}
    for name, chosen in parts.items():
        save_file({key: state[key].contiguous() for key in chosen}, tmp_path / name)
    index = tmp_path / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": {key: name for name, chosen in parts.items() for key in chosen}}))
    loaded = cbs.load(str(index), arch=ARCH, options=OPTIONS, recipe=recipe("vit", "cb_s"))
    with torch.no_grad():
        assert torch.equal(loaded.module(images()), model.module(images()))


def test_a_recipe_is_for_a_file_of_weights() -> None:
    pytest.importorskip("timm", reason="the architecture is timm's")
    with pytest.raises(cbs.CBSurgeonError, match="CB-REF-01"):
        cbs.load(ARCH, options=OPTIONS, recipe=recipe("vit", "cb"))


WEIGHTS = 4 * 2 * 4096 * 18432 * 4
"""Bytes of the matrices of ``wide``: 2.42 GB."""

COPIES = 1.25
"""One copy is the module. A quarter more is for pages of the file that are being compared or read, and for buffers."""

WRITE_LARGE = """
import resource, sys, torch, cbsurgeon as cbs
from tests.training.networks import wide
with torch.device("meta"):
    module, _ = wide()
module.to_empty(device="cpu").eval()
small, x = wide(8, 32)
recipe = cbs.plan(cbs.inspect(cbs.Model(small.eval(), (x,))), op="cb_s", layers="all")
cbs.save(cbs.Model(small), sys.argv[1] + ".small.safetensors")
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
with torch.no_grad():
    for number, parameter in enumerate(module.parameters()):
        parameter.fill_(1 / (1 + number))
found = cbs.inspect(cbs.Model(module, (torch.zeros(2, 8, 4096),)))
cbs.insert_(module, cbs.plan(found, op="cb_s", layers="all", options={"initial": 0.5}))
cbs.save(cbs.Model(module), sys.argv[1])
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
"""

READ_LARGE = """
import resource, sys, torch, cbsurgeon as cbs
arch = "mod:tests.training.networks:wide"
cbs.load(sys.argv[1] + ".small.safetensors", arch=arch, options={"channels": 8, "hidden": 32})
before = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
model = cbs.load(sys.argv[1], arch=arch)
print(1024 * (resource.getrusage(resource.RUSAGE_SELF).ru_maxrss - before))
assert len(model.recipes) == 1
for number, (name, value) in enumerate(
    (name, value) for name, value in model.module.named_parameters() if "context_broadcast" not in name
):
    assert float(value.flatten()[0]) == float(value.flatten()[-1]) == float(torch.tensor(1 / (1 + number))), name
assert all(float(v.min()) == 0.5 for n, v in model.module.named_parameters() if n.endswith("broadcast.scale"))
"""


@pytest.mark.slow
@pytest.mark.skipif(sys.platform != "linux", reason="ru_maxrss counts kilobytes on Linux only")
@pytest.mark.parametrize("suffix", ["safetensors", "pt"])
def test_more_than_two_gigabytes(tmp_path: Path, suffix: str) -> None:
    """Past the reach of a signed 32-bit offset, inserted, written, read by another process, in little more memory than
    the weights take.
    """
    path = tmp_path / f"large.{suffix}"
    try:
        for code in (WRITE_LARGE, READ_LARGE):
            command = [sys.executable, "-W", "ignore", "-c", code, str(path)]
            done = subprocess.run(command, capture_output=True, text=True, cwd=ROOT, timeout=280)
            assert done.returncode == 0, done.stderr[-3000:]
            used = int(done.stdout)
            print(f"{suffix}: {used / 1e9:.2f} GB for {WEIGHTS / 1e9:.2f} GB of weights")
            assert used < COPIES * WEIGHTS
        assert path.stat().st_size > WEIGHTS > 2**31
    finally:
        for file in tmp_path.iterdir():
            file.unlink()

"""Files changed at random, and every reader that must answer them with an error of ours or with a value."""

from __future__ import annotations

import json
import random
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy
import onnx
import torch
from safetensors.torch import save_file

import cbsurgeon as cbs
from cbsurgeon import models, report
from cbsurgeon.deploy import manifest
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.errors import CBSurgeonError
from cbsurgeon.models.files import metadata
from cbsurgeon.models.files.arrays import read_arrays
from cbsurgeon.verbs import read_inserted, read_recipe
from tests.report import documents

ODD = (
    None, True, -1, 0, 2**31, 2**63, 10**39, -4, 1e308, "", "\x1b]0;x\x07", "\u202e", "a" * 5000, [], {}, [[]], [None],
    {"": None}, "mod:os:system", "../../etc/passwd",
)  # fmt: skip
"""Values that take the place of others in a document."""

TEXTS = ("NaN", "Infinity", "1e999", "9" * 5000, "[" * 100_000, '"\\ud800"', '{"a":1,"a":2}', "-", "\x00")
"""Pieces of text that JSON does not have, or that break careless readers."""


@dataclass(frozen=True)
class Reader:
    """One way into the program.

    Attributes:
        name: for the report.
        file: name of the file it reads.
        original: bytes of a file it takes.
        read: reads a path; raises an error of ours or returns.
        document: the file is JSON.
    """

    name: str
    file: str
    original: bytes
    read: Callable[[Path], object]
    document: bool = False


def readers(folder: Path) -> list[Reader]:
    """Every reader with a valid file; made in ``folder``."""
    torch.manual_seed(0)
    layer = torch.nn.TransformerEncoderLayer(8, 2, 16, batch_first=True, norm_first=True)
    model = cbs.Model(torch.nn.TransformerEncoder(layer, 2, enable_nested_tensor=False).eval(), (torch.randn(2, 5, 8),))
    recipe = cbs.plan(cbs.inspect(model), op="cb_s", layers="all")
    edited = cbs.insert(model, recipe)
    files = {
        "model.safetensors": lambda path: cbs.save(edited, path),
        "model.pt": lambda path: cbs.save(edited, path),
        "model.onnx": lambda path: cbs.export(edited, path),
        "recipe.json": lambda path: path.write_text(recipe.to_json()),
        "inputs.npz": lambda path: numpy.savez(path, x=numpy.zeros((2, 5, 8), "float32")),
        "plain.safetensors": lambda path: save_file({"weight": torch.ones(3)}, path, {"format": "pt"}),
        "report.json": lambda path: path.write_text(json.dumps(documents.insertion())),
        "bench.json": lambda path: path.write_text(json.dumps(documents.benchmark())),
    }
    for name, write in files.items():
        write(folder / name)
    engine = folder / "model.engine"
    engine.write_bytes(b"no engine")
    described = {"engine": {"sha256": onnx_file.sha256(engine)}, "batch": [1, 4, 8]}
    manifest.write(manifest.beside(engine), described)

    def shown(path: Path) -> str:
        with report.shown(str(path)):
            return report.render_text(report.read_document(path))

    def opened(path: Path) -> object:
        checkpoint = models.open_checkpoint(path)
        return [one.shape for one in checkpoint.state_dict.values()]

    def in_onnx(path: Path) -> object:
        proto = onnx.load(str(folder / "model.onnx"))
        proto.metadata_props[0].value = _text(path)
        onnx.save(proto, str(path.with_suffix(".onnx")))
        with report.shown(str(path)):
            report.render_text(read_inserted(path.with_suffix(".onnx")))
        return cbs.audit(path.with_suffix(".onnx")).to_dict()

    def in_safetensors(path: Path) -> object:
        target = path.with_suffix(".safetensors")
        save_file({"weight": torch.ones(3)}, target, {"format": "pt", metadata.KEY: _text(path)})
        checkpoint = models.open_checkpoint(target)
        return checkpoint.recipes, checkpoint.architecture

    proto = onnx.load(str(folder / "model.onnx"))
    (folder / "in_onnx.json").write_text(proto.metadata_props[0].value)
    (folder / "in_safetensors.json").write_text(
        metadata.Metadata("timm:deit_tiny_patch16_224", {"depth": 2}, (recipe.to_dict(),), {"tied": "weight"}).to_json()
    )
    made = [
        ("recipe", "recipe.json", read_recipe, True),
        ("safetensors", "model.safetensors", opened, False),
        ("plain safetensors", "plain.safetensors", opened, False),
        ("torch archive", "model.pt", opened, False),
        ("ONNX metadata", "model.onnx", read_inserted, False),
        ("ONNX audit", "model.onnx", lambda path: cbs.audit(path).to_dict(), False),
        ("npz", "inputs.npz", read_arrays, False),
        ("insertion document", "report.json", shown, True),
        ("benchmark document", "bench.json", shown, True),
        ("metadata in ONNX", "in_onnx.json", in_onnx, True),
        ("metadata in safetensors", "in_safetensors.json", in_safetensors, True),
        ("manifest", "model.engine.json", lambda path: manifest.require_trusted(path.with_suffix("")), True),
    ]
    return [Reader(name, file, (folder / file).read_bytes(), read, text) for name, file, read, text in made]


def _text(path: Path) -> str:
    """A damaged document as text that a container can hold."""
    return path.read_bytes().decode("utf-8", "replace")


def mutated(reader: Reader, generator: random.Random) -> bytes:
    """The file with one to three changes."""
    content = reader.original
    for _ in range(generator.randint(1, 3)):
        content = _changed_document(content, generator) if reader.document else _changed(content, generator)
    return content


def _changed(content: bytes, generator: random.Random) -> bytes:
    place = generator.randrange(max(1, min(len(content), 4096 if generator.random() < 0.7 else len(content))))
    kind = generator.randrange(5)
    if kind == 0:
        return content[:place]
    if kind == 1:
        return content[:place] + bytes([generator.randrange(256)]) + content[place + 1 :]
    if kind == 2:
        return content[:place] + generator.randbytes(generator.randint(1, 8)) + content[place:]
    if kind == 3:
        return content[:place] + content[place + generator.randint(1, 64) :]
    return content[:place] + generator.choice((b"\xff" * 8, b"\x00" * 8, b"\x7f" * 8)) + content[place + 8 :]


def _changed_document(content: bytes, generator: random.Random) -> bytes:
    if generator.random() < 0.3:
        return _changed(content, generator)
    try:
        document = json.loads(content)
    except (ValueError, RecursionError):
        return content
    place = _place(document, generator)
    if place is None:
        return content
    holder, key = place
    if generator.random() < 0.2:
        holder[key] = "@@"
        return json.dumps(document).replace('"@@"', generator.choice(TEXTS)).encode()
    if generator.random() < 0.15:
        del holder[key]
    else:
        holder[key] = generator.choice(ODD)
    return json.dumps(document).encode()


def _place(document: Any, generator: random.Random) -> tuple[Any, Any] | None:
    places: list[tuple[Any, Any]] = []
    pending = [document]
    while pending:
        value = pending.pop()
        keys: Any = list(value) if isinstance(value, dict) else range(len(value)) if isinstance(value, list) else ()
        places += [(value, key) for key in keys]
        pending += [value[key] for key in keys]
    return generator.choice(places) if places else None


def fault(reader: Reader, content: bytes, folder: Path) -> str:
    """What a reader did wrong with a file; empty where it read it, or refused it with an error of ours."""
    path = folder / reader.file
    path.write_bytes(content)
    try:
        reader.read(path)
    except CBSurgeonError as error:
        return "" if error.code and error.what and error.exit_code in (1, 2) else f"incomplete error {error!r}"
    except Exception as error:
        return f"{type(error).__name__}: {str(error)[:200]}"
    return ""

"""The head of the page: the results as sentences, their origin, and the next steps."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from cbsurgeon.report.document import Document, listed, of_kind
from cbsurgeon.report.figures import COSTS, costs, counted, indices, percent, small


def sentences(documents: Sequence[Document]) -> list[tuple[str, str]]:
    """Return the results as sentences, each with its tone (``good``, ``bad``, ``warn`` or empty)."""
    found = []
    for part in of_kind(documents, "insert"):
        what = (
            f"{part['op']} is inserted at the {part['position']} of {counted(len(part['sites']), 'block')}: "
            f"{listed(part)}"
        )
        found.append((f"{what}.", ""))
    for part in of_kind(documents, "verify"):
        batches = indices(sorted({row["batch"] for row in part["rows"]}))
        word = "computes the same as" if part["ok"] else "does NOT compute the same as"
        b, a = part["sides"][1]["name"], part["sides"][0]["name"]
        found.append((f"{b} {word} {a} at batches {batches}: max |Δ| {small(part['max_abs'])}.", _tone(part["ok"])))
    for part in of_kind(documents, "audit"):
        if part.get("b"):
            found.append((f"Cost: {_costs(part)}.", ""))
    tones = {"negligible": "good", "faster": "good", "slower": "bad"}
    for part in of_kind(documents, "bench"):
        where = part["environment"].get("backend")
        words = str(part.get("sentence") or part["verdict"])
        found.append((f"Latency{f' in {where}' if where else ''}: {words}.", tones.get(part["verdict"], "warn")))
    return found


def _tone(ok: bool) -> str:
    return "good" if ok else "bad"


def _costs(part: Document) -> str:
    """Return every quantity by name with its relative difference."""
    known = [name for name in costs(part) if part[name]["relative"] is not None]
    return ", ".join(f"{COSTS[name]} {percent(part[name]['relative'])}" for name in known)


def made(documents: Sequence[Document], environment: Mapping[str, Any]) -> list[tuple[str, str]]:
    """Return the origin of the results: date, command, machine, versions and weights, those that the documents have."""
    rows = [("date", environment.get("date"))]
    rows += [("command", document["command"]) for document in documents if document.get("command")]
    rows.append(("machine", _machine(environment)))
    packages = environment.get("packages") or environment.get("versions")
    if isinstance(packages, Mapping):
        own = {"cbsurgeon": environment["cbsurgeon"]} if "cbsurgeon" in environment else {}
        rows.append(("versions", ", ".join(f"{name} {version}" for name, version in {**own, **packages}.items())))
    rows += [("weights", weights(document["weights"])) for document in documents if document.get("weights")]
    return [(label, str(value)) for label, value in rows if value]


def _machine(environment: Mapping[str, Any]) -> str:
    cores = environment.get("cores")
    parts = [
        environment.get("processor"),
        counted(cores, "core") if cores else None,
        environment.get("gpu"),
        environment.get("platform"),
    ]
    return ", ".join(str(part) for part in parts if part)


def weights(origin: Mapping[str, Any]) -> str:
    """Return the origin of the weights: ``timm:NAME (no weights file); as shipped, sha256 ab12...``."""
    source = f"sha256 {origin['sha256']}" if origin.get("sha256") else "no weights file"
    built = origin.get("architecture")
    of = f", architecture {built}" if built and built != origin["reference"] else ""
    return f"{origin['reference']}{of} ({source}); as shipped, sha256 {origin['shipped_sha256']}"


def _loading(document: Document) -> str:
    """Return the flags without which the weights of the user's own code cannot be loaded; empty for other models."""
    architecture = str((document.get("weights") or {}).get("architecture") or "")
    if not architecture.startswith("mod:"):
        return ""
    flags = f" --arch {architecture}"
    for part in of_kind(document["documents"], "export")[:1]:
        shapes = [port["dims"][1:] for port in part.get("inputs", ())]
        if all(port["dtype"] == "float32" for port in part.get("inputs", ())) and all(
            isinstance(size, int) for shape in shapes for size in shape
        ):
            flags += f" --input {','.join('x'.join(map(str, shape)) for shape in shapes)}"
    return flags


def next_steps(documents: Sequence[Document]) -> list[tuple[str, list[str]]]:
    """Return suggestions for the next steps with a shipment: each a sentence and the commands that do it."""
    steps: list[tuple[str, list[str]]] = []
    for document in documents:
        if "files" not in document:
            continue
        folder, names = document["directory"], document["files"]
        insertions = list(of_kind(document["documents"], "insert"))
        trained = any(part.get("trained") for part in insertions)
        if not trained and any(not part["identity_at_start"] for part in insertions):
            steps.append(("Train or fine-tune the model with the inserted operators, and ship the result.", []))
        loading = _loading(document)
        if "model.onnx" in names:
            plain, commands = document["title"], []
            if trained:
                plain = "plain.safetensors"
                commands.append(f"cbsurgeon remove {folder}/model.safetensors -o {plain}{loading}")
            commands.append(f"cbsurgeon bench {plain} {folder}/model.safetensors --on onnxruntime{loading}")
            steps.append(("Measure the latency on the target machine.", commands))
        if "model.engine" in names:
            here = (document.get("environment") or {}).get("gpu")
            why, trust = ("", "") if here else (" It was built on another machine, which takes --trust.", " --trust")
            command = f"cbsurgeon verify {folder}/model.safetensors {folder}/model.engine{trust}{loading}"
            steps.append((f"Check the engine on its GPU.{why}", [command]))
    return steps

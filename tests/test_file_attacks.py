"""Hostile files: every class gets its own answer, in bounded time and memory; mutations never get past it."""

from __future__ import annotations

import json
import random
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy
import pytest
import torch

from cbsurgeon import models
from cbsurgeon.errors import CBSurgeonError
from cbsurgeon.models import Model
from tests.attacks.corpus import ARCH, CANARY, CORPUS

ROOT = Path(__file__).parents[1]
pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="pipes, devices and memory peaks as Linux has them")

MOST_SECONDS = 20.0
"""The longest scan (a pickle of 16 MiB) takes some seconds alone; the machine may be busy with other tests."""
MOST_MEGABYTES = 300.0
"""A header or a pickle of 16 MiB as Python objects; what hostile files claim is a thousand times more."""
LEAST_CLASSES = 40


class Victim:
    """A process that opens files and reports the results."""

    def __init__(self) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-m", "tests.attacks.victim"],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            text=True,
            cwd=ROOT,
        )
        assert self.process.stdout is not None
        assert self.process.stdout.readline() == "ready\n"

    def open(self, path: Path, arch: str | None = None, inputs: bool = False) -> dict[str, Any]:
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(json.dumps({"path": str(path), "arch": arch, "inputs": inputs}) + "\n")
        self.process.stdin.flush()
        line = self.process.stdout.readline()
        assert line, f"the reader died on {path.name}"
        answer: dict[str, Any] = json.loads(line)
        return answer

    def close(self) -> None:
        self.process.kill()
        self.process.communicate()


@pytest.fixture(scope="module")
def victim() -> Iterator[Victim]:
    started = Victim()
    yield started
    started.close()


SUFFIXES = {"index_": ".safetensors.index.json", "inputs_": ".npz"}


def file_name(name: str) -> str:
    return next((f"model{suffix}" for prefix, suffix in SUFFIXES.items() if name.startswith(prefix)), "model.pt")


@pytest.mark.timeout(120)
@pytest.mark.parametrize("name", sorted(CORPUS))
def test_each_class_gets_its_answer(name: str, tmp_path: Path, victim: Victim) -> None:
    write, code = CORPUS[name]
    path = tmp_path / file_name(name)
    write(path)
    answer = victim.open(path, inputs=name.startswith("inputs_"))
    assert not answer["crash"], answer["crash"]
    assert answer["code"] == code, answer["text"]
    assert answer["exit"] == 2
    assert "\n  why " in answer["text"] or "\n  do " in answer["text"]
    assert answer["seconds"] < MOST_SECONDS
    assert answer["megabytes"] < MOST_MEGABYTES
    assert not (tmp_path / CANARY).exists(), "the file ran code"


def test_the_corpus_is_large_enough() -> None:
    assert len(CORPUS) >= LEAST_CLASSES


@pytest.mark.parametrize("name", ["runs_a_shell", "runs_a_shell_legacy", "evaluates"])
def test_the_canary_runs_when_a_file_is_trusted(name: str, tmp_path: Path) -> None:
    """Without this the test above would pass with payloads that never worked."""
    CORPUS[name][0](tmp_path / "model.pt")
    with pytest.raises(CBSurgeonError):
        models.load(str(tmp_path / "model.pt"), trust=True)
    assert (tmp_path / CANARY).exists()


# Mutations.
SEED = 20221019
PER_KIND = 1000
KINDS = ("safetensors", "archive", "program", "legacy", "document", "index", "inputs")


def originals(folder: Path) -> dict[str, tuple[Path, int, int]]:
    """Small valid files, and the part of each that is mutated: path, begin, end."""
    model = models.build(ARCH, input="3")
    assert model.module is not None
    ours = models.save(Model(model.module, (), model.provenance), folder / "ours.safetensors")
    size = 8 + int.from_bytes(ours.read_bytes()[:8], "little")
    document = ours.read_bytes().index(b"cbsurgeon.checkpoint") - 20
    torch.save(model.module.state_dict(), folder / "zip.pt")
    torch.save(model.module.state_dict(), folder / "old.pt", _use_new_zipfile_serialization=False)
    zipped = (folder / "zip.pt").read_bytes()
    program = zipped.index(b"\x80\x02")
    from safetensors.torch import save_file

    save_file(model.module.state_dict(), folder / "a.safetensors")
    index = folder / "m.safetensors.index.json"
    index.write_text(json.dumps({"weight_map": dict.fromkeys(model.module.state_dict(), "a.safetensors")}))
    numpy.savez_compressed(folder / "x.npz", x=numpy.ones((2, 3), numpy.float32))
    return {
        "inputs": (folder / "x.npz", 0, (folder / "x.npz").stat().st_size),
        "safetensors": (ours, 0, size),
        "archive": (folder / "zip.pt", zipped.index(b"PK\1\2"), len(zipped)),
        "program": (folder / "zip.pt", program, zipped.index(b"PK\7\x08", program)),
        "legacy": (folder / "old.pt", 0, (folder / "old.pt").stat().st_size),
        "document": (ours, document, document + 260),
        "index": (index, 0, index.stat().st_size),
    }


def mutate(raw: bytes, begin: int, end: int, dice: random.Random) -> bytes:
    """One to four small changes inside ``[begin, end)``: flips, numbers, cuts, repeats, swaps."""
    data = bytearray(raw)
    for _ in range(dice.randint(1, 4)):
        at = dice.randrange(begin, max(begin + 1, min(end, len(data))))
        length = dice.choice([1, 1, 2, 4, 8, 16])
        kind = dice.randrange(7)
        if kind == 0:
            data[at : at + 1] = bytes([data[at] ^ (1 << dice.randrange(8))]) if at < len(data) else b""
        elif kind == 1:
            data[at : at + length] = dice.randbytes(length)
        elif kind == 2:
            data[at : at + length] = dice.choice([b"\xff", b"\0", b"9", b"["]) * length
        elif kind == 3:
            del data[at : at + length]
        elif kind == 4:
            data[at:at] = data[max(begin, at - length) : at]
        elif kind == 5:
            other = dice.randrange(begin, max(begin + 1, min(end, len(data))))
            data[at : at + length], data[other : other + length] = data[other : other + length], data[at : at + length]
        else:
            del data[at:]
    return bytes(data)


@pytest.mark.timeout(300)
@pytest.mark.parametrize("kind", KINDS)
def test_mutations_are_refused_or_read(kind: str, tmp_path: Path, victim: Victim) -> None:
    path, begin, end = originals(tmp_path)[kind]
    raw, dice = path.read_bytes(), random.Random(f"{SEED} {kind}")
    refused = 0
    for turn in range(PER_KIND):
        mutant = mutate(raw, begin, end, dice)
        path.write_bytes(mutant)
        answer = victim.open(path, arch=None if kind == "document" else ARCH, inputs=kind == "inputs")
        assert not answer["crash"], f"mutation {turn} of {kind}: {answer['crash']}"
        assert answer["seconds"] < MOST_SECONDS, f"mutation {turn} of {kind}"
        assert answer["megabytes"] < MOST_MEGABYTES, f"mutation {turn} of {kind}"
        refused += answer["code"] is not None
    # Mutations that all read cleanly would mean that nothing was mutated.
    assert refused > PER_KIND // 10


def test_there_are_enough_mutations() -> None:
    assert PER_KIND * len(KINDS) >= 2000

"""Three hundred damaged files, the same in every run: each is read, or refused with an error of cbsurgeon.

``benchmarks/fuzz.py`` tries thousands.
"""

from __future__ import annotations

import random
from pathlib import Path

import pytest

from tests.attacks.mutation import Reader, fault, mutated, readers

EACH = 25
NAMES = 12


@pytest.fixture(scope="module")
def ways(tmp_path_factory: pytest.TempPathFactory) -> list[Reader]:
    return readers(tmp_path_factory.mktemp("originals"))


def test_the_originals_are_read(ways: list[Reader], tmp_path: Path) -> None:
    assert len(ways) == NAMES
    for reader in ways:
        if reader.name != "manifest":  # without the engine beside it, it is refused
            assert fault(reader, reader.original, tmp_path) == ""
            reader.read(tmp_path / reader.file)


@pytest.mark.parametrize("number", range(NAMES))
def test_damaged_files_are_refused_or_read(ways: list[Reader], tmp_path: Path, number: int) -> None:
    reader, faults = ways[number], []
    if reader.name == "manifest":
        (tmp_path / "model.engine").write_bytes(b"no engine")
    for seed in range(EACH):
        content = mutated(reader, random.Random(1000 * number + seed))
        if found := fault(reader, content, tmp_path):
            faults.append(f"seed {seed}: {found}")
    assert not faults, f"{reader.name}:\n" + "\n".join(faults)

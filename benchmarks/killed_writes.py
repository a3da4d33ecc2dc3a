"""Kill commands at random moments while they write: each output must be the old one or the new one, and complete.

    python benchmarks/killed_writes.py --kills 50

Each kind of output is written over an older one, by a command that is killed (``kill -9``) after a random part of the
time for which it writes. Afterwards the output is the old one, byte for byte, or a new one that can be read in full;
and no input has changed. An engine has a manifest beside it, and two files cannot be replaced at once: killed in
between, the command leaves a manifest of both engines, and the pair is read as the command reads it. ``none`` counts
kills after which there was no engine.

Then two processes of ``remove`` and of ``ship`` write one output at the same time: one of them succeeds, the other one
is refused. Kinds whose package is missing are left out and named; rows of kinds that were not asked for are kept.
"""

from __future__ import annotations

import argparse
import contextlib
import hashlib
import json
import os
import random
import shutil
import signal
import sys
import tempfile
import time
import zipfile
from collections.abc import Callable, Iterator
from pathlib import Path

ROOT = Path(__file__).parents[1]
RESULT = ROOT / "benchmarks" / "results" / "killed_writes.json"
FACTORY = """
import timm, torch
import cbsurgeon as cbs
def build():
    torch.manual_seed(0)
    module = timm.create_model("vit_tiny_patch16_224", img_size=32, patch_size=8, depth=2, embed_dim=64, num_heads=2)
    return cbs.Model(module.eval(), (torch.randn(2, 3, 32, 32),))
"""
ROUND = 2
"""Commands that run undisturbed to measure how long they write."""


def digest(path: Path) -> str:
    """Return the digest of a file, or of the names and contents of a folder."""
    found = hashlib.sha256()
    for each in sorted(path.rglob("*")) if path.is_dir() else [path]:
        if each.is_file():
            found.update(str(each.relative_to(path.parent)).encode() + b"\0" + each.read_bytes())
    return found.hexdigest()


def started(arguments: list[str], output: str = os.devnull) -> int:
    """Start a command in a fork of this process, which has imported everything; return its process id."""
    child = os.fork()
    if child == 0:
        os.setpgid(0, 0)
        nowhere, written = os.open(os.devnull, os.O_RDWR), os.open(output, os.O_RDWR | os.O_CREAT)
        for stream, target in enumerate((nowhere, written, nowhere)):
            os.dup2(target, stream)
        from cbsurgeon.cli import main

        try:
            code = main(arguments)
        except SystemExit as error:
            code = error.code
        except BaseException:
            code = 70
        os._exit(code if isinstance(code, int) else 0)
    return child


def ended(child: int) -> int:
    """Return the exit code of a process, when it has ended."""
    return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])


def read_weights(path: Path) -> None:
    """Read a weights file."""
    from safetensors.torch import load_file

    assert load_file(path)


def read_onnx(path: Path) -> None:
    """Read an ONNX file and check its graph."""
    import onnx

    onnx.checker.check_model(str(path))


def read_program(path: Path) -> None:
    """Read a program."""
    import torch

    assert zipfile.ZipFile(path).testzip() is None
    torch.export.load(path)


def read_engine(path: Path) -> None:
    """Read an engine's manifest, which must state the digest and the size of the engine."""
    from cbsurgeon.deploy.manifest import require_trusted

    described = require_trusted(path)["engine"]
    assert described["sha256"] == hashlib.sha256(path.read_bytes()).hexdigest()
    assert described["bytes"] == path.stat().st_size


def read_page(path: Path) -> None:
    """Read a page to its end."""
    assert path.read_text().rstrip().endswith("</html>")


def read_shipped(path: Path) -> None:
    """Read the files of a shipped folder."""
    assert list(path.glob("*.json")) and list(path.glob("*.onnx"))
    for each in path.glob("*.onnx"):
        read_onnx(each)
    for each in path.glob("*.json"):
        json.loads(each.read_text())


def commands(folder: Path) -> Iterator[tuple[str, Path, list[str], list[str], Callable[[Path], None]]]:
    """Yield kind, output, the command for the old output and for the new one, and what reads it."""
    reference = f"mod:{folder / 'net.py'}:build"
    shape = ["--trust"]
    weights, edited = folder / "out.safetensors", str(folder / "edited.safetensors")
    insert = ["insert", reference, *shape, "-o", str(weights), "--op"]
    yield "safetensors", weights, [*insert, "cb"], [*insert, "cb_s", "--force"], read_weights
    for kind, read in (("onnx", read_onnx), ("pt2", read_program), ("engine", read_engine)):
        path = folder / f"out.{kind}"
        export = ["export", edited, "--arch", reference, *shape, "-o", str(path)]
        other = ["--dtype", "float16"] if kind != "pt2" else []
        yield kind, path, export, [*export, *other, "--force"], read
    page = folder / "out.html"
    report = ["report", str(folder / "audit.json"), "-o", str(page)]
    yield "report", page, report, [*report, "--force"], read_page
    shipped = folder / "shipped"
    ship = ["ship", reference, *shape, "-o", str(shipped)]
    yield "ship", shipped, [*ship, "--layers", "upper"], [*ship, "--layers", "all", "--force"], read_shipped


def hidden(folder: Path) -> list[Path]:
    """Return the temporary files and folders of commands that write or were killed."""
    return [each for each in folder.iterdir() if each.name.startswith(".")]


def wait(child: int, done: Callable[[], bool]) -> bool:
    """Wait until something is the case; return whether it came to be before a process ended."""
    while not done():
        if os.waitid(os.P_PID, child, os.WEXITED | os.WNOHANG | os.WNOWAIT) is not None:
            return False
        time.sleep(0.0005)
    return True


def begun(folder: Path) -> bool:
    """Return whether a command has written something; an empty file only tests whether it can."""
    with contextlib.suppress(FileNotFoundError):
        return any(each.is_dir() or each.stat().st_size for each in hidden(folder))
    return False


def kill(kind: str, folder: Path, kills: int, dice: random.Random) -> dict[str, object]:
    """Kill one kind of command many times; return what was found."""
    _, path, old, new, read = next(one for one in commands(folder) if one[0] == kind)
    inputs = {each: digest(each) for each in (folder / "net.py", folder / "edited.safetensors", folder / "audit.json")}
    code = ended(started(old))
    if code:
        return {"kind": kind, "left_out": f"the command ended with {code}"}
    kept = folder / "kept"
    kept.mkdir()
    parts = [each for each in (path, path.with_name(f"{path.name}.json")) if each.exists()]
    for each in parts:
        each.rename(kept / each.name)
    first, lengths = _outputs(kept, parts), list[float]()
    found = {"old": 0, "new": 0, "none": 0, "wrong": 0, "interrupted": 0}
    for turn in range(kills + ROUND):
        _remove(path)
        for each in parts:
            source = kept / each.name
            shutil.copytree(source, each) if source.is_dir() else shutil.copy(source, each)
        child = started(new)
        seen, begin = wait(child, lambda: begun(folder)), time.perf_counter()
        if turn < ROUND:  # not killed: how long it writes
            assert wait(child, lambda: not hidden(folder)) or not seen
            lengths.append(time.perf_counter() - begin)
            assert ended(child) == 0, " ".join(new)
            read(path)
            continue
        time.sleep(dice.uniform(0.0, 2.0) * min(lengths))
        with contextlib.suppress(ProcessLookupError):
            os.killpg(child, signal.SIGKILL)
        ended(child)
        left = hidden(folder)
        found["interrupted"] += bool(left)
        for each in left:
            shutil.rmtree(each) if each.is_dir() else each.unlink()
        if not path.exists() and len(parts) > 1:
            found["none"] += 1
            continue
        try:
            same = _outputs(folder, parts[:1]) == first[:1]
            read(path)
            found["old" if same else "new"] += 1
        except Exception as error:  # whatever a reader says about half a file
            found["wrong"] += 1
            print(f"{kind}: {type(error).__name__}: {error}", file=sys.stderr)
    shutil.rmtree(kept)
    changed = [each.name for each, before in inputs.items() if digest(each) != before]
    return {"kind": kind, "kills": kills, "seconds_of_writing": round(min(lengths), 3), **found, "changed": changed}


def _outputs(folder: Path, parts: list[Path]) -> list[str]:
    return [digest(folder / each.name) for each in parts]


def _remove(path: Path) -> None:
    for each in (path, path.with_name(f"{path.name}.json")):
        if each.is_dir():
            shutil.rmtree(each)
        else:
            each.unlink(missing_ok=True)


def race(kind: str, folder: Path, rounds: int) -> dict[str, object]:
    """Run two processes with one output, several times; return how often one succeeded and one was refused."""
    reference, path = f"mod:{folder / 'net.py'}:build", folder / f"race-{kind}"
    if kind == "remove":
        path = path.with_suffix(".safetensors")
        command = ["remove", str(folder / "edited.safetensors"), "--arch", reference, "--trust", "-o", str(path)]
    else:
        command = ["ship", reference, "--trust", "-o", str(path)]
    right = 0
    for _ in range(rounds):
        _remove(path)
        codes = sorted(map(ended, [started(command), started(command)]))
        (read_weights if kind == "remove" else read_shipped)(path)
        right += codes == [0, 2]
    return {"kind": kind, "rounds": rounds, "one_wrote_and_one_was_refused": right}


def _write(
    rows: list[dict[str, object]], races: list[dict[str, object]], known: dict[str, list[dict[str, object]]]
) -> None:
    document = {"schema": "cbsurgeon.killed_writes/1"}
    for name, found in (("kills", rows), ("races", races)):
        done = {row["kind"] for row in found}
        document[name] = [row for row in known.get(name, []) if row["kind"] not in done] + found
    RESULT.write_text(json.dumps(document, indent=1) + "\n")


def main() -> int:
    """Kill, race, write the results; return 1 if an output was incomplete or an input changed."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--kills", type=int, default=50)
    parser.add_argument("--ships", type=int, default=50, help="kills of ship, which takes half a minute each")
    parser.add_argument("--rounds", type=int, default=5, help="races of each kind")
    parser.add_argument("--kinds", nargs="*", default=["safetensors", "onnx", "pt2", "engine", "report", "ship"])
    given = parser.parse_args()
    os.environ.setdefault("OMP_NUM_THREADS", "1")
    import onnx  # noqa: F401
    import onnxruntime  # noqa: F401
    import timm  # noqa: F401
    import torch.export  # noqa: F401

    import cbsurgeon.cli  # noqa: F401

    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        (folder / "net.py").write_text(FACTORY)
        reference = f"mod:{folder / 'net.py'}:build"
        edited, audit = folder / "edited.safetensors", folder / "audit.json"
        assert ended(started(["insert", reference, "--trust", "--op", "cb", "-o", str(edited)])) == 0
        assert ended(started(["audit", reference, "--trust", "--json"], str(audit))) == 0
        dice = random.Random(0)
        rows, races = list[dict[str, object]](), list[dict[str, object]]()
        known = json.loads(RESULT.read_text()) if RESULT.exists() else {}
        for kind in given.kinds:
            rows.append(kill(kind, folder, given.ships if kind == "ship" else given.kills, dice))
            print(json.dumps(rows[-1]), flush=True)
            _write(rows, races, known)
        for kind in ("remove", "ship") if given.rounds else ():
            races.append(race(kind, folder, given.rounds))
            print(json.dumps(races[-1]), flush=True)
            _write(rows, races, known)
    good = all(not row.get("wrong") and not row.get("changed") for row in rows)
    return 0 if good and all(one["one_wrote_and_one_was_refused"] == given.rounds for one in races) else 1


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    raise SystemExit(main())

"""What an error says to do, done: a command is run, a value is put in place of the wrong one, a flag is added.

Each case is a command line that fails. Where its ``do`` line holds a command or a flag, it is pasted; the exit code of
that must be the one written beside the case.
"""

from __future__ import annotations

import json
import re
import shlex
from pathlib import Path

import pytest
import torch

import cbsurgeon as cbs
from cbsurgeon.errors import did_you_mean
from tests.cli.running import CONVOLUTIONS, SMALL, VIT, Outcome, run

DONE, NOTHING, USAGE = 0, 1, 2


@pytest.fixture(scope="module")
def folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Files of every kind that the commands below name: ``{}`` in a case."""
    place = tmp_path_factory.mktemp("do")
    model = cbs.load("timm:deit_tiny_patch16_224", options=SMALL)
    cbs.save(model, place / "model.safetensors")
    torch.save(model.module.state_dict(), place / "plain.pt")
    recipe = cbs.plan(cbs.inspect(model), layers="0")
    edited = cbs.insert(model, recipe)
    cbs.save(edited, place / "edited.safetensors")
    torch.save(edited.module, place / "module.pt")
    (place / "recipe.json").write_text(json.dumps(recipe.to_dict()))
    cbs.export(model, place / "model.onnx")
    cbs.save(cbs.insert(model, recipe, on="program"), place / "edited.pt2")
    (place / "net.py").write_text(
        "from tests.cli.running import tiny_vit\n\n\ndef build(depth=2):\n    return tiny_vit()\n"
    )
    (place / "sub").mkdir()
    (place / "exists.safetensors").write_bytes(b"something")
    return place


CASES = [
    ("inspekt " + VIT, DONE),
    ("inspect --jsn " + VIT, DONE),
    (f"insert {VIT} --pos ende --dry-run", DONE),
    (f"insert {VIT} --at attn --dry-run", DONE),
    (f"insert {VIT} --at Both --dry-run", DONE),
    (f"insert {VIT} --layers uper --dry-run", DONE),
    (f"insert {VIT} --layers block --dry-run", DONE),
    (f"insert {VIT} --layers first1 --dry-run", NOTHING),  # first:3 of two blocks
    (f"insert {VIT} --op cbs --dry-run", DONE),
    (f"insert {VIT} --op cb_s --op-option inital=0.1 --dry-run", DONE),
    (f"insert {VIT} --kinds mpl --dry-run", DONE),
    (f"insert {VIT} --exclude first --dry-run", NOTHING),  # blocks 7 and 11 of two
    (f"insert {VIT} --op-option initial --dry-run", USAGE),  # num_classes is no option of cb
    (f"inspect {VIT} --input 3,64,64", DONE),
    (f"inspect {VIT} --input 3x64x64:fp32", DONE),
    ("inspect {}/net.py", DONE),
    ("inspect {}/net.py:build", DONE),
    ("inspect mod:{}/net.py:biuld", DONE),
    ("inspect timn:deit_tiny_patch16_224", None),
    ("inspect deit_tiny_patch16_224", DONE),
    ("inspect timm:deit_tinny_patch16_224", DONE),
    ("inspect {}/plain.pt --arch deit_tiny_patch16_224", USAGE),  # of another size than the weights
    ("export {}/edited.safetensors -o {}/half.onnx --dtype fp16 --no-verify", DONE),
    ("export {}/edited.safetensors -o {}/o.onnx --opset 24 --no-verify", None),
    ("insert {}/edited.safetensors --pos mid -o {}/exists.safetensors", DONE),
    ("export {}/edited.safetensors -o {}/none/m.onnx --no-verify", None),
    ("insert {}/edited.safetensors --layers all -o {}/twice.safetensors", DONE),
    ("verify {}/model.safetensors {}/model.onnx --batches 0", DONE),
    ("verify {}/model.safetensors {}/model.onnx --device gpu", USAGE),  # no GPU here: the next message says so
    ("bench {}/model.safetensors {}/model.onnx --backend ort --budget 1s --claim 900%", None),
    ("bench {}/model.safetensors {}/model.onnx --budget soon --claim 900%", None),
    (f"audit {VIT} --hardware h100", USAGE),  # there is no inserted operator yet
    ("audit {}/model.safetensors {}/edited.safetensors --roofline --hardware h20", DONE),
    ("audit {}/model.safetensors {}/edited.safetensors --roofline --dtype fp61", DONE),
    ("audit {}/model.safetensors {}/edited.safetensors --roofline --bandwidth fast --flops 989T", DONE),
    ("explain CB-LEEK-01", DONE),
    ("verify {}/model.safetensors {}/edited.safetensors", None),
    ("inspect {}/edited.pt2", DONE),
    ("inspect {}/edited.pt2 --trust --trained-with {}/recipe.json", DONE),
    ("inspect {}/module.pt --trust --input 3x64x64 --trained-with {}/recipe.json", DONE),
    (f"inspect {VIT} --arch {VIT}", DONE),
    (f"remove {VIT} -o {{}}/back.safetensors", None),
    (f"insert {CONVOLUTIONS} --dry-run", NOTHING),
]
"""A command that fails, and the exit code of what its ``do`` line leads to; ``None`` where it names nothing to run."""


PLACEHOLDER = re.compile(r"\b(REF|OUT|FILE|NAME|VERB|DIR|FUNCTION)\b")


def pasted(words: list[str], failed: Outcome) -> list[str] | None:
    """The command line that the ``do`` line of an error gives; ``None`` where it gives none."""
    do = next(line[9:] for line in failed.err.splitlines() if line.startswith("  do "))
    whole = re.search(r"cbsurgeon ([a-z]+ [^`;,()>]+)", do)
    meant = re.search(r"did you mean ([^?]+)\?", do)
    if meant is not None and meant[1].startswith("--"):
        return with_flag(words, meant[1].split())
    if meant is not None:
        typed = next(word for word in words if did_you_mean(word, [meant[1]]) or meant[1].endswith(word))
        return [meant[1] if word == typed else word for word in words]
    if whole is not None and not PLACEHOLDER.search(whole[1]) and "--help" not in whole[1]:
        return shlex.split(whole[1])
    if (added := re.search(r"add (--[a-z-]+)", do)) is not None:
        return [*words, added[1]]
    if (factory := re.search(r"mod:\S+:\w+", do)) is not None:
        return [factory[0] if word.endswith(".py") else word for word in words]
    if do.startswith("leave out "):
        flag = do.removeprefix("leave out ").split()[0]
        place = words.index(flag)
        return words[:place] + words[place + 2 :]
    flags = re.findall(r"--[a-z-]+(?: [^\s,;()]+)?", do)
    return with_flag(words, flags[0].split()) if flags else None


def with_flag(words: list[str], flag: list[str]) -> list[str]:
    """The words with a flag, and its value, in place of the one of that name or spelt alike; added where none is."""
    known = [word for word in words if word.startswith("--")]
    old = flag[0] if flag[0] in known else next((word for word in known if did_you_mean(word, flag[:1])), None)
    if old is None:
        return [*words, *(flag if len(flag) > 1 and not flag[1].islower() else flag[:1])]
    place = words.index(old)
    return words[:place] + flag + words[place + len(flag) :]


@pytest.mark.thin(4)
@pytest.mark.parametrize(("command", "code"), CASES, ids=lambda value: value if isinstance(value, str) else "")
def test_the_advice_of_an_error_can_be_followed(
    command: str, code: int | None, folder: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(folder)
    words = shlex.split(command.replace("{}", str(folder)))
    failed = run(*words)
    assert failed.code not in (DONE, 70), failed.out
    line = pasted(words, failed)
    if code is None:
        return
    assert line is not None, failed.err
    after = run(*line)
    assert after.code == code, f"{shlex.join(line)}\n{after.err}\nafter\n{failed.err}"


def test_at_least_thirty_errors_are_repaired_by_their_advice() -> None:
    assert sum(code is not None for _, code in CASES) >= 30

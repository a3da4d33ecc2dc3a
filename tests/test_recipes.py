"""The recipes in examples/recipes: the commands of their README, 20 steps each on images in the documented format."""

from __future__ import annotations

import os
import re
import shlex
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
README = ROOT / "examples/recipes/README.md"
SCRIPTS = os.environ.get("CBSURGEON_TIMM_SCRIPTS", "")
"""The folder of timm's repository, whose train.py is in no package."""


def commands(word: str, folder: Path) -> list[list[str]]:
    """The README's commands for one data set, with this folder in the place of /tmp."""
    text = re.search(r"```sh\n(.*?)```", README.read_text(), re.DOTALL)[1].replace("\\\n", " ")
    found = [shlex.split(line.replace("/tmp/", f"{folder}/")) for line in text.splitlines() if word in line]
    return [[sys.executable, "-W", "ignore", *words[1:]] for words in found]


def run(command: list[str], folder: Path) -> str:
    environment = {**os.environ, "PYTHONPATH": str(ROOT), "OMP_NUM_THREADS": "1"}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout + done.stderr


@pytest.mark.slow
def test_ade20k(tmp_path: Path) -> None:
    for package in ("transformers", "torchvision", "torchmetrics"):
        pytest.importorskip(package, reason="the recipe says it needs it")
    made, train = commands("ade20k", tmp_path)
    run(made, tmp_path)
    printed = run(train, tmp_path)
    assert "6 x cb" in printed and "step 20 of 20" in printed and "mean IoU on 4 images" in printed


@pytest.mark.slow
@pytest.mark.skipif(not SCRIPTS, reason="CBSURGEON_TIMM_SCRIPTS does not name a clone of pytorch-image-models")
@pytest.mark.parametrize("word", ["imagenet", "cifar100"])
def test_timms_train_py(word: str, tmp_path: Path) -> None:
    made, train = commands(word, tmp_path)
    run(made, tmp_path)
    train[train.index("train.py")] = str(Path(SCRIPTS) / "train.py")
    printed = run([*train, "--output", str(tmp_path / "out")], tmp_path)
    assert re.search(r"\[ *19/20 ", printed) and list((tmp_path / "out").rglob("last.pth.tar"))


def test_every_value_of_the_paper_has_its_source() -> None:
    """Values of appendix A.3 and of DeiT's table 9, and a source in brackets in every line that sets a number."""
    yaml = pytest.importorskip("yaml", reason="the recipes are YAML")
    file = ROOT / "examples/recipes/deit_small_imagenet.yaml"
    held = yaml.safe_load(file.read_text())
    assert held["model_kwargs"] == {"of": "deit_small_patch16_224", "op": "cb", "layers": "upper"}
    assert (held["epochs"], held["lr_base"] / held["lr_base_size"] * 512, held["weight_decay"]) == (300, 5e-4, 0.05)
    assert (held["mixup"], held["cutmix"], held["reprob"]) == (0.8, 1.0, 0.25)
    assert (held["aug_repeats"], held["drop_path"]) == (0, 0.1)
    body = file.read_text().split("num_classes")[1].splitlines()[1:]
    numbers = [line for line in body if re.match(r"\w+: [\d.]", line) and not line.startswith("lr_base_size")]
    assert len(numbers) > 15 and all(re.search(r"# \[(CB|DeiT)\]", line) for line in numbers)

"""Training as timm and transformers do it, a schedule for the retrofit, and the examples as a reader runs them."""

from __future__ import annotations

import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from tests.training.networks import CLASSES, build, edited, gradients, images, recipe, scales

ROOT = Path(__file__).parents[2]


def pictures(count: int) -> tuple[Tensor, Tensor]:
    """Noise with a bright square whose place is the class."""
    y = torch.arange(count) % CLASSES
    x = torch.randn(count, 3, 32, 32, generator=torch.Generator().manual_seed(4)) * 0.3
    for row, place in enumerate(y.tolist()):
        x[row, :, 6 * place : 6 * place + 6] += 2
    return x, y


@pytest.mark.parametrize("op", ["cb", "cb_s"])
def test_timms_loop_learns(op: str) -> None:
    """Mixup, drop path, timm's optimizer, schedule and averaging; the loss falls and ``scale`` moves."""
    pytest.importorskip("timm", reason="the loop is timm's")
    from timm.data import Mixup
    from timm.loss import SoftTargetCrossEntropy
    from timm.optim import create_optimizer_v2
    from timm.scheduler import CosineLRScheduler
    from timm.utils import ModelEmaV3

    module = edited("vit", op, drop_path_rate=0.1, proj_drop_rate=0.1).train()
    before = {key: value.detach().clone() for key, value in scales(module).items()}
    x, y = pictures(40)
    optimizer = create_optimizer_v2(module, opt="adamw", lr=3e-3, weight_decay=0.05)
    decayed = [group for group in optimizer.param_groups if group["weight_decay"] > 0]
    held = {id(parameter) for group in decayed for parameter in group["params"]}
    assert held
    assert not any(id(scale) in held for scale in scales(module).values())
    schedule = CosineLRScheduler(optimizer, t_initial=30, warmup_t=3, warmup_lr_init=1e-4)
    averaged = ModelEmaV3(module, decay=0.9)
    mixup = Mixup(mixup_alpha=0.2, cutmix_alpha=0.2, prob=0.5, label_smoothing=0.05, num_classes=CLASSES)
    criterion, losses = SoftTargetCrossEntropy(), []
    for step in range(30):
        mixed, targets = mixup(x.clone(), y)
        loss = criterion(module(mixed), targets)
        optimizer.zero_grad()
        loss.backward()
        optimizer.step()
        schedule.step(step + 1)
        averaged.update(module, step=step)
        losses.append(loss.item())
    assert sum(losses[-5:]) < 0.8 * sum(losses[:5])
    for key, scale in scales(module).items():
        assert not torch.equal(scale, before[key])
        assert not torch.equal(dict(averaged.module.named_parameters())[key], scale)


class Rows(torch.utils.data.Dataset):
    def __init__(self, name: str) -> None:
        self.x, self.y = pictures(40)
        self.name = name

    def __len__(self) -> int:
        return len(self.y)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {self.name: self.x[index], "labels": self.y[index]}


def test_the_trainer_of_transformers_learns(tmp_path: Path) -> None:
    transformers = pytest.importorskip("transformers", reason="the loop is that of transformers")
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs it")
    module = edited("hf vit", "cb_s")
    before = {key: value.detach().clone() for key, value in scales(module).items()}
    settings = transformers.TrainingArguments(
        output_dir=str(tmp_path),
        max_steps=16,
        per_device_train_batch_size=20,
        logging_steps=4,
        save_strategy="no",
        gradient_checkpointing=True,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
    )
    optimizer = torch.optim.AdamW(cbs.parameter_groups(module, 0.05), lr=5e-3)
    trainer = transformers.Trainer(
        module, settings, train_dataset=Rows("pixel_values"), optimizers=(optimizer, None), callbacks=[]
    )
    named = {id(scale) for scale in scales(module).values()}
    holding = [group for group in optimizer.param_groups if named & {id(p) for p in group["params"]}]
    assert [group["weight_decay"] for group in holding] == [0.0]
    trainer.train()
    losses = [entry["loss"] for entry in trainer.state.log_history if "loss" in entry]
    assert float(losses[-1]) < 0.8 * float(losses[0])
    assert not any(torch.equal(scale, before[key]) for key, scale in scales(module).items())


def test_the_trainer_by_default_would_decay_scales() -> None:
    """The reason for ``parameter_groups``: by names alone ``scale`` is decayed. If this fails, the advice can go."""
    transformers = pytest.importorskip("transformers", reason="the grouping is that of transformers")
    pytest.importorskip("accelerate", reason="the Trainer of transformers needs it")
    module = edited("hf vit", "cb_s")
    decayed = transformers.Trainer.get_decay_parameter_names(None, module)
    assert set(scales(module)) <= set(decayed)


def test_a_retrofit_schedule_ends_in_cb() -> None:
    """From the identity to CB while training: at both ends bit for bit, gradients included; nothing is decayed."""
    module, plain, context = edited("vit", "cb_retrofit").eval(), build("vit").eval(), edited("vit", "cb").eval()

    def same(one: dict[str, Tensor], other: dict[str, Tensor]) -> None:
        assert list(one) == list(other)
        for key, value in one.items():
            torch.testing.assert_close(value, other[key], rtol=1e-4, atol=1e-5)

    assert torch.equal(module(images()), plain(images()))
    same(gradients(module, images()), gradients(plain, images()))
    steps, strengths = 4, []
    optimizer = torch.optim.SGD(cbs.parameter_groups(module, 0.05), lr=0.0)
    for step in range(steps + 1):
        cbs.set_strength(module, 0.5 * step / steps)
        nn.functional.cross_entropy(module(images()), torch.tensor([0, 1])).backward()
        optimizer.step()
        strengths.append([float(value) for key, value in module.state_dict().items() if key.endswith("strength")])
    assert strengths == [[0.5 * step / steps] * 2 for step in range(steps + 1)]
    torch.testing.assert_close(module(images()), context(images()), rtol=1e-5, atol=1e-5)
    same(gradients(module, images()), gradients(context, images()))


def test_a_schedule_resumes_from_its_checkpoint() -> None:
    module = edited("vit", "cb_retrofit")
    cbs.set_strength(module, 0.3)
    again = edited("vit", "cb_retrofit")
    again.load_state_dict(module.state_dict(), strict=True)
    assert torch.equal(again.eval()(images()), module.eval()(images()))
    assert cbs.set_strength(again, 0.0) == len(recipe("vit", "cb_retrofit")) == 2


def run(example: str, out: Path, *options: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / example), "--out", str(out), *options]
    done = subprocess.run(command, capture_output=True, text=True, cwd=out.parent, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    return done


def written(out: Path) -> set[str]:
    return {path.name for path in out.parent.iterdir()} | {path.name for path in out.iterdir()}


@pytest.mark.slow
@pytest.mark.parametrize("options", [(), ("--amp",)], ids=["float32", "bfloat16"])
def test_the_timm_example(options: tuple[str, ...], tmp_path: Path) -> None:
    for package in ("timm", "sklearn", "onnxruntime"):
        pytest.importorskip(package, reason="the example says it needs it")
    out = tmp_path / "run"
    done = run("03_train_timm.py", out, "--steps", "12", *options)
    assert "test accuracy" in done.stdout
    assert written(out) == {"run", "recipe.json", "last.pth.tar", "model.safetensors", "model.onnx"}
    # timm's own checkpoint names its architecture; with the recipe it is a model again, averaged weights too.
    made = cbs.Recipe.from_json((out / "recipe.json").read_text())
    options_of_build: dict[str, Any] = cbs.load(str(out / "model.safetensors")).provenance.architecture_options
    averaged = cbs.load(str(out / "last.pth.tar"), options=options_of_build, entry="state_dict_ema", recipe=made).module
    saved = cbs.load(str(out / "model.safetensors")).module
    assert all(torch.equal(value, saved.state_dict()[key]) for key, value in averaged.state_dict().items())
    # A recipe written by hand or by another run is taken as it is.
    (tmp_path / "upper.json").write_text(made.without(2).to_json())
    run("03_train_timm.py", out, "--steps", "2", "--recipe", str(tmp_path / "upper.json"))
    again = cbs.load(str(out / "model.safetensors"))
    assert again.recipes == (made.without(2).to_dict(),)


@pytest.mark.slow
def test_the_transformers_example(tmp_path: Path) -> None:
    for package in ("transformers", "accelerate", "sklearn", "onnxruntime"):
        pytest.importorskip(package, reason="the example says it needs it")
    out = tmp_path / "run"
    done = run("04_train_hf.py", out, "--steps", "12")
    assert "test accuracy" in done.stdout
    assert written(out) == {"run", "recipe.json", "checkpoint-12", "last", "model.safetensors", "model.onnx"}


@pytest.mark.slow
def test_the_digits_example() -> None:
    for package in ("timm", "sklearn", "onnxruntime"):
        pytest.importorskip(package, reason="the example says it needs it")
    command = [sys.executable, "-W", "ignore", str(ROOT / "examples" / "02_train_digits.py")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=280)
    assert done.returncode == 0, done.stderr[-3000:]
    assert "same" in done.stdout

"""transformers' Trainer on edited models: save, resume, read again, the retrofit schedule, another recipe."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import torch
from torch import Tensor, nn

import cbsurgeon as cbs
from tests.training.networks import hf_vit

pytest.importorskip("transformers", reason="the Trainer is that of transformers")
pytest.importorskip("accelerate", reason="the Trainer of transformers needs it")

IMAGES = torch.randn(12, 3, 32, 32, generator=torch.Generator().manual_seed(2))
STEPS = 6


class Rows(torch.utils.data.Dataset):
    def __len__(self) -> int:
        return len(IMAGES)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {"pixel_values": IMAGES[index], "labels": torch.tensor(index % 5)}


def edited(op: str, **keywords: Any) -> nn.Module:
    torch.manual_seed(0)
    return cbs.insert_(hf_vit(), op=op, layers="all", **keywords)


def trainer(module: nn.Module, out: Path, callbacks: Any = (), *, steps: int = STEPS, every: int = 3) -> Any:
    import transformers

    settings = transformers.TrainingArguments(
        output_dir=str(out),
        max_steps=steps,
        per_device_train_batch_size=4,
        save_steps=every,
        use_cpu=True,
        report_to=[],
        disable_tqdm=True,
        seed=0,
    )
    optimizer = torch.optim.AdamW(cbs.parameter_groups(module, 0.05), lr=1e-3)
    return transformers.Trainer(
        module, settings, train_dataset=Rows(), optimizers=(optimizer, None), callbacks=list(callbacks)
    )


def outcome(module: nn.Module) -> Tensor:
    with torch.no_grad():
        return module.eval()(IMAGES[:2]).logits


@pytest.mark.thin(2)
@pytest.mark.parametrize("op", ["cb", "cb_s"])
def test_resumed_equals_unbroken_and_one_line_reads_the_folder(op: str, tmp_path: Path) -> None:
    from cbsurgeon.integrations.transformers import same_recipe

    whole = trainer(edited(op), tmp_path / "whole")
    whole.train()
    checkpoint = tmp_path / "whole" / f"checkpoint-{STEPS // 2}"
    resumed = trainer(cbs.load(f"hf:{checkpoint}").module.train(), tmp_path / "whole", [same_recipe()])
    resumed.train(resume_from_checkpoint=str(checkpoint))
    assert torch.equal(outcome(resumed.model), outcome(whole.model))
    whole.save_model(str(tmp_path / "last"))
    assert torch.equal(outcome(cbs.load(f"hf:{tmp_path / 'last'}").module), outcome(whole.model))


@pytest.mark.wide
def test_the_strength_follows_the_steps_and_a_resumed_run_goes_on(tmp_path: Path) -> None:
    from transformers import TrainerCallback

    from cbsurgeon.integrations.transformers import retrofit

    seen: list[float] = []

    class Watch(TrainerCallback):
        def on_step_end(self, args: Any, state: Any, control: Any, model: nn.Module, **_: Any) -> None:
            seen.append(round(float(next(v for k, v in model.state_dict().items() if k.endswith("strength"))), 4))

    module = edited("cb_retrofit")
    trainer(module, tmp_path, [retrofit(over=2 / 3), Watch()]).train()
    assert seen == [0.0, 0.125, 0.25, 0.375, 0.5, 0.5]
    checkpoint = tmp_path / "checkpoint-3"
    again = cbs.load(f"hf:{checkpoint}").module
    trainer(again, tmp_path, [retrofit(over=2 / 3), Watch()]).train(resume_from_checkpoint=str(checkpoint))
    assert seen[STEPS:] == [0.375, 0.5, 0.5]
    plain = edited("cb")  # at its end the operator is CB, with the same weights
    plain.load_state_dict({k: v for k, v in again.state_dict().items() if not k.endswith("strength")})
    torch.testing.assert_close(outcome(again), outcome(plain), rtol=1e-5, atol=1e-6)


@pytest.mark.wide
def test_a_checkpoint_of_another_recipe_is_not_resumed(tmp_path: Path) -> None:
    from cbsurgeon.integrations.transformers import same_recipe

    trainer(edited("cb"), tmp_path, steps=3).train()
    for module, named in ((edited("cb", pos="front"), "front"), (hf_vit(), "no operator")):
        with pytest.raises(cbs.CBSurgeonError, match="CB-RECIPE-04") as refused:
            trainer(module, tmp_path, [same_recipe()]).train(resume_from_checkpoint=str(tmp_path / "checkpoint-3"))
        assert named in refused.value.why


def test_a_schedule_needs_its_operator_and_a_share(tmp_path: Path) -> None:
    from cbsurgeon.integrations.transformers import retrofit

    with pytest.raises(cbs.CBSurgeonError, match="CB-OP-05"):
        retrofit(over=0.0)
    with pytest.raises(cbs.CBSurgeonError, match="CB-OP-06"):
        trainer(edited("cb"), tmp_path, [retrofit()]).train()

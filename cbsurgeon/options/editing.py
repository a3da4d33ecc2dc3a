"""Options of loading a model, and of choosing an operator and the blocks it goes into."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, ClassVar, Literal

from cbsurgeon.options.flags import option
from cbsurgeon.options.texts import axes, exclusions, memory, pairs, words
from cbsurgeon.vocabulary import BRANCHES, KINDS, OPERATORS, POSITIONS


@dataclass(frozen=True)
class Loading:
    """How :func:`cbsurgeon.load` reads a reference."""

    arch: str | None = option(
        None,
        "Architecture of a file that does not name its own, such as timm:vit_base_patch16_224.",
        "--arch",
        metavar="REF",
    )
    input: str | None = option(
        None, "Shape of one example input without the batch, such as 3x224x224.", "--input", metavar="CxHxW"
    )
    inputs: Path | None = option(None, "Example inputs by input name.", "--inputs", metavar="FILE.npz", read=Path)
    batch_axis: int | Mapping[str, int] | None = option(
        None,
        "Batch axis of the inputs: one for all, or by name (x=1,mask=0). The shapes of --input do not include it.",
        "--batch-axis",
        metavar="N|NAME=N,...",
        read=axes,
        shown="0",
    )
    entry: str | None = option(
        None, "Entry of a training checkpoint to read, such as state_dict_ema.", "--entry", metavar="NAME"
    )
    recipe: Any = option(
        None,
        "Recipe that the weights were trained with, for a file that does not contain it. State dicts saved by "
        "torch.save and transformers folders contain it.",
        "--trained-with",
        metavar="RECIPE.json",
        read=Path,
    )
    options: Mapping[str, Any] = option(
        {},
        "Keyword of the model's constructor, such as num_classes=10 (JSON values; repeatable).",
        "--model-option",
        metavar="KEY=VALUE",
        read=pairs,
        repeatable=True,
    )
    pretrained: bool = option(
        False, "Download the pretrained weights that timm or torchvision provides for the architecture.", "--pretrained"
    )
    random_weights: bool = option(
        False,
        "Use random weights although timm:NAME.TAG names pretrained weights.",
        "--random-weights",
    )
    trust: bool = option(
        False,
        "Read files that can run code (pickled modules, .pt2, engines). Only for files you made yourself: opening one "
        "runs whatever it contains, with your permissions.",
        "--trust",
    )
    max_memory: int | None = option(
        None,
        "Limit for the memory of parameters, buffers and example inputs, and of each run of verify, bench, evaluate "
        "and analyze, such as 16GB.",
        "--max-memory",
        metavar="SIZE",
        read=memory,
        shown="0.8 of the machine's memory; for a file at most 0.5 GiB plus 8 times its size, because a small file can "
        "describe a huge model",
    )
    batch: int = option(2, "Samples in the example inputs.")
    mapped: bool = option(
        False,
        "Leave the weights memory-mapped in the file, for a model that is only read and saved again. Neither the "
        "weights nor the file may be changed meanwhile.",
    )

    def for_side(self, reference: str) -> Loading:
        """Return the options that apply to one of two compared models.

        ``arch`` applies to files, ``recipe`` to files and transformers folders, ``pretrained`` and ``random_weights``
        to references that are not files. Exported programs take none of these.
        """
        if Path(reference).suffix.lower() == ".pt2":
            return replace(
                self, arch=None, recipe=None, entry=None, input=None, inputs=None, batch_axis=None, options={}
            )
        if Path(reference).exists():
            return replace(self, pretrained=False, random_weights=False)
        is_folder = reference.startswith("hf:") and Path(reference.removeprefix("hf:")).is_dir()
        return replace(self, arch=None, recipe=self.recipe if is_folder else None)


@dataclass(frozen=True)
class Choice:
    """The operator, and the blocks and position where it is inserted (:func:`cbsurgeon.plan`)."""

    TAKES_MORE: ClassVar[bool] = True
    """A keyword that is not a field is an option of the operator, such as ``initial=0.1``."""

    op: str = option(
        "cb", f"Operator: {', '.join(OPERATORS)}; or mod:package.module:Class.", "--op", metavar="NAME", shown="cb"
    )
    layers: str = option(
        "upper",
        "Blocks: all; upper (the last half of each stack) or lower; first:3 or last:3; 6-11 or 0,2,4; a stack's name; "
        "or STACK:SELECTOR for one stack.",
        "--layers",
        metavar="SELECTOR",
        shown="upper",
    )
    pos: str = option(
        "end",
        "Position: before the up projection (front), before the down projection (mid), or after the down projection "
        "and its dropout (end).",
        "--pos",
        choices=POSITIONS,
        shown="end",
    )
    at: str = option(
        "mlp",
        "Branches: the MLPs (as in the paper), the multi-head self-attention (msa), or both.",
        "--at",
        choices=BRANCHES,
        shown="mlp",
    )
    exclude: str | Iterable[int | str] = option(
        (),
        "Blocks to leave out: indices such as 7,11, and taps (all blocks whose residual stream is also an output of "
        "the model, as for a feature pyramid).",
        "--exclude",
        metavar="LIST",
        read=exclusions,
    )
    kinds: Iterable[str] | None = option(
        None,
        f"Block kinds to choose from: {', '.join(KINDS)}.",
        "--kinds",
        metavar="LIST",
        read=words,
        shown="channel MLPs",
    )
    allow_partial: bool = option(
        False, "Leave out blocks that do not have the position, instead of failing.", "--allow-partial"
    )
    tokens: str | None = option(
        None,
        "Average over these tokens only, such as 1: or :40, and leave the others as they are (cb, cb_s, cb_retrofit).",
        "--tokens",
        metavar="SLICE",
    )
    masked: bool = option(
        False,
        "Average over the tokens that are not padding; for models with a padding mask (cb, cb_s, cb_retrofit).",
        "--masked",
    )
    causal: bool = option(
        False,
        "Average, for each token, over the tokens up to it; for causal models (cb, cb_s, cb_retrofit).",
        "--causal",
    )
    options: Mapping[str, Any] = option(
        {},
        "Option of the operator, such as initial=0.1 for cb_s (repeatable).",
        "--op-option",
        metavar="KEY=VALUE",
        read=pairs,
        repeatable=True,
    )

    @property
    def operator_options(self) -> dict[str, Any]:
        """Arguments of the operator's constructor: ``options``, and ``tokens``, ``masked`` and ``causal`` if given."""
        forms = {"tokens": self.tokens, "masked": self.masked, "causal": self.causal}
        return {**(self.options or {}), **{name: value for name, value in forms.items() if value}}


@dataclass(frozen=True)
class InsertOptions:
    """How :func:`cbsurgeon.insert` edits a model."""

    on: Literal["module", "program"] | None = option(
        None,
        "Edit the nn.Module (to train it) or the exported program (written as .pt2).",
        "--on",
        choices=("module", "program"),
        shown="the module, if there is one",
    )
    share: bool = option(
        False, "Share the weights between both models instead of copying them: training one then trains both."
    )

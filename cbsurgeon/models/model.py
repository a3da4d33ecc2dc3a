"""``Model``, which all packages pass on: a module or program, its example inputs, and where its weights came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.export import ExportedProgram

from cbsurgeon.models.preprocessing import Preprocessing
from cbsurgeon.operators import Operator, recipes_of

if TYPE_CHECKING:
    from cbsurgeon.models.files.checkpoint import Checkpoint

BatchAxis = int | Mapping[str, int] | tuple[int | None, ...] | None
"""The batch axis of the inputs: one for all, one by the name of the input, or one per leaf of the inputs."""


@dataclass(frozen=True)
class Provenance:
    """Where a model came from, and how to build its architecture again.

    Attributes:
        reference: what the user asked for, such as ``timm:deit_small_patch16_224`` or a file path.
        architecture: a reference that rebuilds the architecture, or ``None`` if nothing but this object can.
        architecture_options: JSON keyword arguments for that build (``num_classes``, ``img_size`` ...).
        sha256: digest of the input file, if there was one (for a folder: of its only file of weights).
        source: where the weights come from: ``file``, ``pretrained`` (downloaded, or from the library's cache),
            ``random``, ``factory`` (the user's own function), or ``object`` (the caller's own module).
        entry: the entry of a training checkpoint that the weights were read from; empty for its top level.
        other_entries: other entries with weights in that checkpoint.
        note: anything else that a user should know about the weights.
    """

    reference: str = "object"
    architecture: str | None = None
    architecture_options: Mapping[str, Any] = field(default_factory=dict)
    sha256: str | None = None
    source: str = "object"
    entry: str = ""
    other_entries: tuple[str, ...] = ()
    note: str = ""

    @property
    def flags(self) -> str:
        """The flags of the command line without which a file of this model is not loaded: ``--arch`` for code of the
        user's own, which a file may not name. They begin with a space."""
        return f" --arch {self.architecture}" if (self.architecture or "").startswith("mod:") else ""

    @property
    def weights(self) -> str:
        """One line that says where the weights come from."""
        what = {
            "random": "random",
            "pretrained": f"pretrained, as {self.reference.partition(':')[0]} provides them",
            "factory": "as the factory makes them",
        }.get(self.source, "of the module itself")
        if self.source == "file":
            what = f"file {self.reference}"
            if self.entry or self.other_entries:
                what += f", entry {self.entry or '(top level)'}"
            if self.other_entries:
                what += f" (also there: {', '.join(self.other_entries)}; --entry chooses)"
        return f"{what}; {self.note}" if self.note else what

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {
            "reference": self.reference,
            "architecture": self.architecture,
            "architecture_options": dict(self.architecture_options),
            "sha256": self.sha256,
            "source": self.source,
            "entry": self.entry,
            "other_entries": list(self.other_entries),
            "note": self.note,
        }


@dataclass(frozen=True)
class Model:
    """A model and everything needed to run it once.

    Attributes:
        module: the ``nn.Module`` in evaluation mode, or ``None`` for a model that exists as a program only.
        example_inputs: positional inputs of ``module.forward``; the batch is axis 0 of every tensor, unless
            ``batch_axis`` says otherwise.
        provenance: where it came from.
        example_kwargs: keyword inputs of ``module.forward``.
        program: an ``ExportedProgram``, for a model that was edited or loaded as one.
        recipes: the insertions so far, oldest first, as recipe documents (JSON values). Recipes of operators that
            ``insert_`` put into the module before are added.
        preprocessing: how images become its input, if that is known.
        batch_axis: which axis of the inputs is the batch, where it is stated: one for all inputs, or by input name.
        weights: the file in which the weights are memory-mapped, for a model that is only saved again and not run.
    """

    module: nn.Module | None
    example_inputs: tuple[Any, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)
    example_kwargs: Mapping[str, Any] = field(default_factory=dict)
    program: ExportedProgram | None = None
    recipes: tuple[Mapping[str, Any], ...] = ()
    preprocessing: Preprocessing | None = None
    weights: Checkpoint | None = field(default=None, repr=False, compare=False)
    batch_axis: BatchAxis = None

    def __post_init__(self) -> None:
        """Add the recipes of operators in the module that are not listed, as after ``insert_`` in a training script."""
        parts = self.module.modules() if self.module is not None else ()
        listed = recipes_of((part for part in parts if isinstance(part, Operator)), self.recipes)
        if len(listed) > len(self.recipes):
            object.__setattr__(self, "recipes", tuple(listed))

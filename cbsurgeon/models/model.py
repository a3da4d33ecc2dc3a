"""The model as it travels through the rooms: the module, its example inputs, and where it came from."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from torch import nn
from torch.export import ExportedProgram

from cbsurgeon.models.preprocessing import Preprocessing
from cbsurgeon.operators import Operator

if TYPE_CHECKING:
    from cbsurgeon.models.files.checkpoint import Checkpoint


@dataclass(frozen=True)
class Provenance:
    """Where a model came from, and how to build its architecture again.

    Attributes:
        reference: what the user asked for, such as ``timm:deit_small_patch16_224`` or a file path.
        architecture: a reference that rebuilds the architecture, or ``None`` when only this object has it.
        architecture_options: JSON keyword arguments for that build (``num_classes``, ``img_size`` ...).
        sha256: digest of the input file, where there was one (of a folder: where it has one file of weights).
        source: where the weights come from: ``file``, ``pretrained`` (downloaded, or from the library's cache),
            ``random``, ``factory`` (whatever the user's own function made), or ``object`` (the caller's own module).
        entry: the entry of a training checkpoint that they were taken from, empty for its top level.
        other_entries: entries of that checkpoint with weights that were not taken.
        note: what else a user should know of them.
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
    def weights(self) -> str:
        """Where the weights come from, in one line."""
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
        example_inputs: positional inputs of ``module.forward``; the batch is axis 0 of every tensor.
        provenance: where it came from.
        example_kwargs: keyword inputs of ``module.forward``.
        program: an ``ExportedProgram``, for a model that was edited or loaded as one.
        recipes: the insertions made so far, oldest first, as recipe documents (JSON values). Those of operators that
            ``insert_`` put into the module before are added here.
        preprocessing: how images become its input, where that is known.
        weights: the file the weights still lie in, for a model that was loaded to be written again and not to be run.
    """

    module: nn.Module | None
    example_inputs: tuple[Any, ...] = ()
    provenance: Provenance = field(default_factory=Provenance)
    example_kwargs: Mapping[str, Any] = field(default_factory=dict)
    program: ExportedProgram | None = None
    recipes: tuple[Mapping[str, Any], ...] = ()
    preprocessing: Preprocessing | None = None
    weights: Checkpoint | None = field(default=None, repr=False, compare=False)

    def __post_init__(self) -> None:
        """Add the recipes of operators the module carries and nobody listed: it was edited in a training script."""
        listed = list(self.recipes)
        for part in self.module.modules() if self.module is not None else ():
            document = part.inserted_by if isinstance(part, Operator) else None
            if document is not None and document not in listed:
                listed.append(document)
        if len(listed) > len(self.recipes):
            object.__setattr__(self, "recipes", tuple(listed))

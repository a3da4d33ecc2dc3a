"""A model that is evaluated, with its preprocessing and the output that is evaluated."""

from __future__ import annotations

import hashlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.data import Batch
from cbsurgeon.deploy.onnx.file import external_files
from cbsurgeon.deploy.runtimes import Runtime, RuntimeSpec, open_spec
from cbsurgeon.deploy.runtimes.torch_runtimes import EagerRuntime
from cbsurgeon.deploy.stated import preprocessing_in
from cbsurgeon.errors import UsageError
from cbsurgeon.models import Model, Preprocessing, preprocessing_of

Target = Model | str | Path


@dataclass
class Side:
    """One of the models that are evaluated.

    Attributes:
        letter: ``a`` or ``b``.
        runtime: the runtime that computes it.
        stated: its own preprocessing; ``None`` if it has none.
        view: index of its preprocessing in a batch.
        output: name of the output that is evaluated; empty until it is known.
        model: the model; ``None`` for a file.
    """

    letter: str
    runtime: Runtime
    stated: Preprocessing | None
    view: int = 0
    output: str = ""
    model: Model | None = None

    @property
    def name(self) -> str:
        """Its file or reference."""
        return self.runtime.name

    def run(self, batch: Batch) -> Tensor:
        """Return the evaluated output for a batch, on the CPU, float32, ``[batch, ...]``."""
        return self.run_inputs(batch.named([port.name for port in self.runtime.inputs], self.view, where=self.name))

    def run_inputs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        """Return the evaluated output for inputs by name; with a fixed batch size, the last part is padded and cut."""
        parts = [self._outputs(part)[:count] for part, count in self._parts(inputs)]
        return torch.cat(parts) if len(parts) > 1 else parts[0]

    def all_outputs(self, batch: Batch) -> dict[str, Tensor]:
        """Return every output for a batch by name, on the CPU."""
        found: dict[str, list[Tensor]] = {}
        for part, count in self._parts(
            batch.named([port.name for port in self.runtime.inputs], self.view, where=self.name)
        ):
            for name, tensor in self.runtime.run(part).items():
                rows = tensor if tensor.dim() else tensor[None]
                found.setdefault(name, []).append(rows[:count].cpu())
        return {name: torch.cat(parts) if len(parts) > 1 else parts[0] for name, parts in found.items()}

    def fingerprint(self) -> str:
        """Return a text that changes with the model: size and time of its files, or a digest of its weights."""
        if self.model is None:
            path = Path(self.name)
            more = external_files(path) if path.suffix.lower() == ".onnx" else []
            found = [one.stat() for one in (path, *more)]
            return " ".join(f"{one.st_size} {one.st_mtime_ns}" for one in found)
        module, program = self.model.module, self.model.program
        state = module.state_dict() if module is not None else program.state_dict if program is not None else {}
        digest = hashlib.sha256()
        for name, value in state.items():
            digest.update(f"{name} {list(value.shape)} {value.dtype} ".encode())
            digest.update(value.detach().cpu().contiguous().reshape(-1).view(torch.uint8).numpy())
        return digest.hexdigest()

    @property
    def differentiable(self) -> bool:
        """Whether its outputs have gradients."""
        return isinstance(self.runtime, EagerRuntime)

    def differentiate(self, images: Tensor) -> Tensor:
        """Return the evaluated output for images, differentiable, float32."""
        assert isinstance(self.runtime, EagerRuntime)
        return self.runtime.differentiate({self.runtime.inputs[0].name: images})[self.output].float()

    def _parts(self, inputs: Mapping[str, Tensor]) -> Iterator[tuple[Mapping[str, Tensor], int]]:
        """Yield the inputs in batches of the runtime's size, each with its number of rows before padding."""
        count, only = len(next(iter(inputs.values()))), self.runtime.only_batch
        if only is None or only == count:
            yield inputs, count
            return
        for start in range(0, count, only):
            part = {name: tensor[start : start + only] for name, tensor in inputs.items()}
            yield {name: _filled(tensor, only) for name, tensor in part.items()}, min(only, count - start)

    def _outputs(self, inputs: Mapping[str, Tensor]) -> Tensor:
        return self.runtime.run(inputs)[self.output].cpu().float()

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return {"name": self.name, "backend": self.runtime.backend, "dtype": self.runtime.dtype, "output": self.output}


def open_side(target: Target, letter: str, *, device: str, trust: bool) -> Side:
    """Open a model or a file.

    Raises:
        CBSurgeonError: it cannot be opened.
    """
    stated = preprocessing_of(target) if isinstance(target, Model) else preprocessing_in(target)
    model = target if isinstance(target, Model) else None
    return Side(letter, open_spec(RuntimeSpec(target, device=device, trust=trust)), stated, model=model)


def choose_output(side: Side, outputs: Mapping[str, Tensor], named: str | None, dims: tuple[int, ...]) -> str:
    """Return the name of the output to evaluate: the one named, the one called logits, or the only suitable one.

    Args:
        side: the model.
        outputs: all its outputs.
        named: the name given by the user.
        dims: the numbers of dimensions that it may have.

    Raises:
        UsageError: there is no such output, no suitable one, or several (``CB-EVAL-01``).
    """
    fitting = [name for name, value in outputs.items() if value.is_floating_point() and value.dim() in dims]
    if named is not None and named in outputs:
        return named
    likely = [name for name in fitting if "logits" in name] or fitting
    if named is None and len(likely) == 1:
        return likely[0]
    shapes = ", ".join(f"{name} {list(value.shape)}" for name, value in outputs.items())
    what = (
        f"there is no output {named!r}"
        if named
        else "it is unclear which output to evaluate"
        if likely
        else "no output can be evaluated"
    )
    raise UsageError(
        what,
        code="CB-EVAL-01",
        where=side.name,
        why=f"its outputs are {shapes}; one with {' or '.join(map(str, dims))} dimensions is needed",
        do=f"--output-name {(likely or list(outputs))[0]}",
    )


def _filled(tensor: Tensor, size: int) -> Tensor:
    """Return the tensor padded to a size by repeating its last row."""
    short = size - len(tensor)
    return tensor if short <= 0 else torch.cat([tensor, tensor[-1:].expand(short, *tensor.shape[1:])])

"""One model in all its forms: edited, captured, exported, built."""

from __future__ import annotations

import copy
from pathlib import Path

import torch
from torch import Tensor

from benchmarks.gpu_rows.plan import MODELS
from cbsurgeon import deploy, graph, models, surgery
from cbsurgeon.deploy.casting import cast
from cbsurgeon.errors import MissingPackage
from cbsurgeon.graph.capture import capture
from cbsurgeon.models.model import Model

PROFILE = (1, 8, 64)
RTX_LACKS = ((8, 0), (9, 0), (10, 0))
"""Compute capabilities of data-centre GPUs, which TensorRT-RTX's documentation does not list."""


class Subject:
    """One model with random weights; its edited forms and files are created when they are needed."""

    def __init__(self, name: str, folder: Path) -> None:
        self.name, self.folder = name, folder
        self.model = models.load(MODELS[name])
        program = capture(self.model, check=False)
        self.found = graph.inspect(Model(None, provenance=self.model.provenance, program=program.exported))
        self._edited: dict[str, Model] = {"base": self.model}
        self._programs: dict[str, graph.Program] = {"base": program}
        self._files: dict[tuple[str, ...], Path] = {}

    def edited(self, variant: str) -> Model:
        """Return the model with an operator; ``folded`` and ``line`` are the same model."""
        op = {"folded": "cb", "line": "cb"}.get(variant, variant)
        if op not in self._edited:
            options = {"initial": 0.1} if op == "cb_s" else {}
            recipe = surgery.plan(self.found, op=op, layers="upper", pos="end", **options)
            self._edited[op] = surgery.insert_module(self.model, recipe)
        return self._edited[op]

    def program(self, variant: str) -> graph.Program:
        """Return its captured program."""
        op = {"folded": "cb", "line": "cb"}.get(variant, variant)
        if op not in self._programs:
            self._programs[op] = capture(self.edited(variant), check=False)
        return self._programs[op]

    def onnx(self, variant: str, dtype: str, *, for_tensorrt: bool = False) -> Path:
        """Return the exported file."""
        key = (variant, dtype, "tensorrt" if for_tensorrt else "")
        if key not in self._files:
            path = self.folder / f"{'-'.join(filter(None, (self.name.replace('/', ''), *key)))}.onnx"
            self._files[key] = deploy.export_onnx(
                self.edited(variant),
                path,
                dtype=None if dtype == "float32" else dtype,
                fold=variant == "folded",
                for_tensorrt=for_tensorrt,
                program=self.program(variant),
                force=True,
            ).path
        return self._files[key]

    def engine(self, variant: str, dtype: str, package: str) -> Path:
        """Return the built engine."""
        key = ("engine", variant, dtype, package)
        if key not in self._files:
            if package == "tensorrt_rtx" and torch.cuda.get_device_capability() in RTX_LACKS:
                raise MissingPackage(
                    f"TensorRT-RTX has no kernels for {torch.cuda.get_device_name()}", code="CB-MISSING-01"
                )
            source = self.onnx(variant, dtype, for_tensorrt=True)
            options = deploy.BuildOptions(batch=PROFILE, package=package)
            target = source.with_name(f"{source.stem}-{package}.engine")
            self._files[key] = deploy.build_engine(source, target, options=options, force=True).path
        return self._files[key]

    def typed(self, variant: str, dtype: str) -> Model:
        """Return a copy of the model cast to a dtype."""
        if dtype == "float32":
            return self.edited(variant)
        model, kind = self.edited(variant), getattr(torch, dtype)
        assert model.module is not None
        inputs = tuple(
            value.to(kind) if isinstance(value, Tensor) and value.is_floating_point() else value
            for value in model.example_inputs
        )
        return Model(copy.deepcopy(model.module).to(kind), inputs, model.provenance, recipes=model.recipes)

    def typed_program(self, variant: str, dtype: str) -> Model:
        """Return the captured program cast to a dtype; folded if the variant is ``folded``."""
        program = self.program(variant)
        if variant == "folded":
            program, _ = deploy.fold(program, plainly=True)
        if dtype != "float32":
            program = cast(program, getattr(torch, dtype))
        return Model(None, provenance=self.model.provenance, program=program.exported)

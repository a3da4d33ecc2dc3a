"""How much two correct sides may differ: measured where that is possible, estimated with a stated reason elsewhere.

Two computations of one function in one type differ by their roundings. How far roundings carry depends on the model and
on the input, so it is measured: the model's own program runs in float64 and in each side's type, on the inputs in
question, and the distance between the two is that type's *noise floor*. A side's own output plays no part in it: a
fault must not widen its own tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from cbsurgeon.checks.parity.result import Tolerance
from cbsurgeon.deploy.casting import DTYPES, cast, in_float64
from cbsurgeon.errors import ExportError
from cbsurgeon.graph import Program

# Another backend groups its sums differently and fuses other operators, so its roundings are other draws of the same
# kind. On ViT-Ti, DeiT-III-S, Mixer-S and Swin-T, in all three types, ONNX Runtime's largest distance from float64 was
# 0.5 to 2.2 times PyTorch's. With both sides' floors added and times 4, two correct sides stay well inside.
SAFETY = 4.0

# One sample more than a batch of one: noise is a property of samples, not of how many are stacked.
NOISE_BATCH = 2

# Without a float64 run: each contraction rounds its result, and roundings add like a random walk. On those models
# the factor in front of eps * sqrt(depth) was 0.1 to 0.9, and 8 where float16 weights were subnormal.
ESTIMATED_GROWTH = 16.0

# Weights beyond this take more than 4 GB in float64, and minutes.
LARGEST_REFERENCE = 500_000_000

_EPS = {
    "float64": torch.finfo(torch.float64).eps,
    "float32": torch.finfo(torch.float32).eps,
    "float16": torch.finfo(torch.float16).eps,
    "bfloat16": torch.finfo(torch.bfloat16).eps,
}

Named = Mapping[str, Tensor]
Run = Callable[[Named], dict[str, Tensor]]


def eps(dtype: str) -> float:
    """Distance from 1 to the next number of a type; float32's for types without one."""
    return _EPS.get(dtype, _EPS["float32"])


@dataclass(frozen=True)
class Floor:
    """Rounding noise of one type at one output.

    Attributes:
        max_abs: largest distance from float64.
        rel_l2: relative L2 distance.
        rms: root mean square of the output it was measured on.
    """

    max_abs: float
    rel_l2: float
    rms: float = 0.0

    def __add__(self, other: Floor) -> Floor:
        return Floor(self.max_abs + other.max_abs, self.rel_l2 + other.rel_l2, max(self.rms, other.rms))


class Reference:
    """The model in float64, and what each type's roundings do to it.

    Attributes:
        reason: empty when a float64 reference runs, else why there is none.
    """

    def __init__(self, program: Program | None) -> None:
        self.program = program
        self.reason = "" if program is not None else "neither side is a model that can be captured"
        self._programs: dict[str, Run] = {}
        if program is None:
            return
        weights = sum(tensor.numel() for tensor in program.exported.state_dict.values())
        if weights > LARGEST_REFERENCE:
            self.reason = f"{weights:,} weights in float64 would take {weights * 8 / 1e9:.0f} GB"

    def __str__(self) -> str:
        return f"none: {self.reason}" if self.reason else "float64 program"

    def floors(self, inputs: Named, dtypes: tuple[str, str]) -> dict[str, Floor]:
        """The two sides' noise floors on some inputs, added, by output; empty when there is no reference."""
        if self.reason or self.program is None:
            return {}
        try:
            exact = self._in("float64")(inputs)
            found = {dtype: self._in(dtype)(inputs) for dtype in dict.fromkeys(dtypes)}
        except (RuntimeError, NotImplementedError, ExportError) as error:
            self.reason = f"the program does not run in float64 or {dtypes[1]}: {' '.join(str(error).split())[:120]}"
            return {}
        return {
            name: floor_of(found[dtypes[0]][name], value, dtypes[0])
            + floor_of(found[dtypes[1]][name], value, dtypes[1])
            for name, value in exact.items()
            if value.is_floating_point()
        }

    def _in(self, dtype: str) -> Run:
        if dtype not in self._programs:
            self._programs[dtype] = run_in(self.program, dtype)  # type: ignore[arg-type]
        return self._programs[dtype]


def run_in(program: Program, dtype: str) -> Run:
    """A program as a function of named inputs that computes in one type."""
    if dtype == "float64":
        module: Any = in_float64(program)
        kind: torch.dtype | None = torch.float64
    elif dtype in DTYPES:
        program = cast(program, DTYPES[dtype])
        module, kind = program.module(), DTYPES[dtype]
    else:
        module, kind = program.module(), None

    def run(inputs: Named) -> dict[str, Tensor]:
        fitted = {
            name: value.to(kind or program.example[name].dtype) if value.is_floating_point() else value
            for name, value in inputs.items()
        }
        args, kwargs = program.arguments(fitted)
        with torch.no_grad():
            return program.name_outputs(module(*args, **kwargs))

    return run


def floor_of(value: Tensor, exact: Tensor, dtype: str) -> Floor:
    """Noise of one output, never less than one rounding of it."""
    exact = exact.double()
    difference = (value.double() - exact).abs()
    known = difference[torch.isfinite(difference)]
    scale = exact[torch.isfinite(exact)].abs()
    largest = float(scale.max()) if scale.numel() else 0.0
    norm = float(torch.linalg.vector_norm(scale)) if scale.numel() else 0.0
    distance = float(known.max()) if known.numel() else 0.0
    relative = float(torch.linalg.vector_norm(known)) / norm if norm and known.numel() else 0.0
    rms = norm / math.sqrt(scale.numel()) if scale.numel() else 0.0
    return Floor(max(distance, eps(dtype) * largest), max(relative, eps(dtype)), rms)


def measured(floor: Floor, dtype: str, batches: str, rms: float) -> Tolerance:
    """The tolerance a measured noise floor allows.

    Args:
        floor: the noise.
        dtype: the coarser of the two sides' types.
        batches: what it was measured on.
        rms: root mean square of the output to judge. Where it is smaller than what the noise was measured on (a single
            logit near zero), the same noise is a larger share of it.
    """
    share = max(1.0, floor.rms / rms) if rms else 1.0
    return Tolerance(
        atol=SAFETY * floor.max_abs,
        rtol=eps(dtype),
        rel_l2=SAFETY * floor.rel_l2 * share,
        source="measured",
        reason=f"{SAFETY:g} times both sides' rounding noise against float64 on {batches} inputs",
    )


def estimated(dtypes: tuple[str, str], depth: int, largest: float, why: str) -> Tolerance:
    """A tolerance from types and depth alone.

    Args:
        dtypes: floating types of the two sides.
        depth: matrix products and convolutions in the model.
        largest: largest magnitude of the output.
        why: why nothing was measured.
    """
    relative = ESTIMATED_GROWTH * math.sqrt(max(depth, 1)) * (eps(dtypes[0]) + eps(dtypes[1])) / 2
    return Tolerance(
        atol=relative * largest,
        rtol=max(eps(dtype) for dtype in dtypes),
        rel_l2=relative,
        source="estimated",
        reason=f"{ESTIMATED_GROWTH:g} roundings, growing with the root of {depth} contractions; {why}",
    )


def given(atol: float | None, rtol: float | None) -> Tolerance | None:
    """The user's own tolerance, where they gave one."""
    if atol is None and rtol is None:
        return None
    return Tolerance(atol or 0.0, rtol or 0.0, None, "given", "asked for")

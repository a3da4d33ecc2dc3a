"""Tolerances: how much the outputs of two correct models may differ; measured if possible, else estimated.

Two computations of one function in one dtype differ by rounding. The size of that difference depends on the model and
on its inputs, so it is measured. The captured program runs in float64 and in the dtype of each model, on the same
inputs. The distance between the outputs is the *noise floor* of that dtype. The outputs that are judged are not used
for it, so a fault cannot widen its own tolerance. A ceiling per dtype limits every measured tolerance.
"""

from __future__ import annotations

import math
from collections.abc import Collection, Mapping
from dataclasses import dataclass, field

import torch
from torch import Tensor

from cbsurgeon.checks.parity.row import Tolerance
from cbsurgeon.vocabulary import inputs_called

# Another back end sums in another order and fuses other operators, so its rounding errors differ but are of similar
# size. On ViT-Ti, DeiT-III-S, Mixer-S and Swin-T, in all three types, ONNX Runtime's largest distance from float64 was
# 0.5 to 2.2 times PyTorch's. The sum of both models' floors times 4 leaves two correct models well inside the
# tolerance.
SAFETY = 4.0

# Samples used to measure noise, which does not depend on the batch size.
NOISE_BATCH = 2

# The most samples of the user's own whose noise is measured one by one; of more, only the first ones are measured.
MOST_SAMPLES = 32

# Used without a float64 run: each matrix product rounds its result, and roundings add like a random walk. On the models
# above, the factor of eps * sqrt(depth) was 0.1 to 0.9, and 8 with subnormal float16 weights.
ESTIMATED_GROWTH = 16.0

# Upper limits of the relative L2 distance and lower limits of the cosine, whatever the measured noise. Correct float32,
# float16 and bfloat16 forms of ViT-Ti, DeiT-S, Swin-T, Mixer-S and ConvNeXt-T were at most 1e-6, 1.6e-3 and 1.3e-2 away
# from float64.
CEILING = {"float64": 1e-3, "float32": 1e-3, "float16": 5e-2, "bfloat16": 0.15}
LEAST_COSINE = {"float64": 0.9999, "float32": 0.9999, "float16": 0.998, "bfloat16": 0.985}

# A group of elements (one channel, one token) has a tolerance of at least this many times the median noise of its axis,
# because with few samples the noise of a single group can be small by chance.
MEDIAN_SHARE = 4.0

_EPS = {
    "float64": torch.finfo(torch.float64).eps,
    "float32": torch.finfo(torch.float32).eps,
    "float16": torch.finfo(torch.float16).eps,
    "bfloat16": torch.finfo(torch.bfloat16).eps,
}


def eps(dtype: str) -> float:
    """Return the machine epsilon of a dtype; that of float32 for unknown types."""
    return _EPS.get(dtype, _EPS["float32"])


@dataclass(frozen=True)
class Floor:
    """Rounding noise of one output in one dtype.

    Attributes:
        max_abs: largest distance from float64.
        rel_l2: relative L2 distance.
        rms: root mean square of the output it was measured on.
        groups: axis → noise per index (per channel, per token), for all axes except the batch.
        exact_finite: whether the float64 output is finite.
        finite: whether the output in this dtype is finite.
        noisy: whether any element differs from float64. Rounding changes almost every output, but not whole numbers,
            such as the index of the top class, or values at the end of their range, such as a saturated softmax.
    """

    max_abs: float
    rel_l2: float
    rms: float = 0.0
    groups: Mapping[int, Tensor] = field(default_factory=dict)
    exact_finite: bool = True
    finite: bool = True
    noisy: bool = True

    def __add__(self, other: Floor) -> Floor:
        return Floor(
            self.max_abs + other.max_abs,
            self.rel_l2 + other.rel_l2,
            max(self.rms, other.rms),
            {axis: noise + other.groups[axis] for axis, noise in self.groups.items() if axis in other.groups},
            self.exact_finite and other.exact_finite,
            self.finite and other.finite,
            self.noisy or other.noisy,
        )


def floor_of(value: Tensor, exact: Tensor, dtype: str, batch_axes: Collection[int] = (0,)) -> Floor:
    """Return the noise of one output; at least one rounding."""
    exact = exact.double()
    difference = (value.double() - exact).abs()
    known = difference[torch.isfinite(difference)]
    scale = exact[torch.isfinite(exact)].abs()
    largest = float(scale.max()) if scale.numel() else 0.0
    norm = float(torch.linalg.vector_norm(scale)) if scale.numel() else 0.0
    distance = float(known.max()) if known.numel() else 0.0
    relative = float(torch.linalg.vector_norm(known)) / norm if norm and known.numel() else 0.0
    rms = norm / math.sqrt(scale.numel()) if scale.numel() else 0.0
    noise = torch.maximum(
        torch.nan_to_num(difference, nan=0.0, posinf=0.0),
        eps(dtype) * torch.nan_to_num(exact, nan=0.0, posinf=0.0, neginf=0.0).abs(),
    )
    return Floor(
        max(distance, eps(dtype) * largest),
        max(relative, eps(dtype)),
        rms,
        _groups(noise, batch_axes),
        bool(torch.isfinite(exact).all()),
        bool(torch.isfinite(value).all()),
        dtype == "float64" or distance > 0.0,
    )


def _groups(values: Tensor, batch_axes: Collection[int]) -> dict[int, Tensor]:
    """Return axis → largest value per index, for all axes except the batch."""
    if not values.numel():
        return {}
    return {
        axis: values.amax(dim=[other for other in range(values.dim()) if other != axis]) if values.dim() > 1 else values
        for axis in range(values.dim())
        if axis not in batch_axes
    }


def allowed(tolerance: Tolerance, groups: Mapping[int, Tensor], like: Tensor) -> Tensor:
    """Return the absolute tolerance of each element of an output.

    The tolerance of each group of elements (one channel, one token) is proportional to the group's own noise, so that
    one large channel does not widen the tolerance of the others.

    Args:
        tolerance: the tolerance of the whole output; its ``atol`` is that of the largest group.
        groups: axis → noise (or magnitude) of each group along it.
        like: the output, shape ``[...]``.

    Returns:
        A float64 tensor that broadcasts to the shape of ``like``.
    """
    limit = torch.full([1] * like.dim(), tolerance.atol, dtype=torch.float64)
    for axis, sizes in groups.items():
        top = float(sizes.max()) if sizes.numel() else 0.0
        if axis >= like.dim() or sizes.shape[0] != like.shape[axis] or sizes.numel() < 2 or top == 0.0:
            continue
        sizes = sizes.detach().cpu().double()
        known = sizes[sizes > 0.0]
        own = sizes.clamp(min=MEDIAN_SHARE * float(known.median())).clamp(max=top)
        shape = [-1 if other == axis else 1 for other in range(like.dim())]
        limit = torch.minimum(limit, tolerance.atol * (own / top).reshape(shape))
    return limit


def magnitudes(a: Tensor, batch_axes: Collection[int] = (0,)) -> dict[int, Tensor]:
    """Return axis → largest magnitude per index, to be used in place of noise if none was measured."""
    return _groups(torch.nan_to_num(a.detach().cpu().double(), nan=0.0, posinf=0.0, neginf=0.0).abs(), batch_axes)


def ceiling(dtype: str) -> float:
    """Return the largest relative L2 distance that is ever allowed in a dtype."""
    return CEILING.get(dtype, CEILING["float32"])


def least_cosine(dtype: str) -> float:
    """Return the smallest cosine that is ever allowed in a dtype."""
    return LEAST_COSINE.get(dtype, LEAST_COSINE["float32"])


def measured(floor: Floor, dtype: str, batches: str, rms: float) -> Tolerance:
    """Return the tolerance for a measured noise floor.

    Args:
        floor: the noise.
        dtype: the coarser dtype of the two models.
        batches: name of the inputs it was measured on.
        rms: root mean square of the output to judge. If it is smaller than that of the measured output (a single logit
            near zero), the same noise is a larger fraction of it.
    """
    share = max(1.0, floor.rms / rms) if rms else 1.0
    return Tolerance(
        atol=SAFETY * floor.max_abs,
        rtol=eps(dtype),
        rel_l2=min(SAFETY * floor.rel_l2, ceiling(dtype)) * share,
        source="measured",
        reason=f"{SAFETY:g} times both models' rounding noise against float64 on {inputs_called(batches)}",
    )


def estimated(dtypes: tuple[str, str], depth: int, largest: float, why: str) -> Tolerance:
    """Return a tolerance estimated from dtypes and depth alone.

    Args:
        dtypes: floating types of the two models.
        depth: number of matrix products and convolutions in the model.
        largest: largest magnitude of the output.
        why: why nothing was measured.
    """
    relative = ESTIMATED_GROWTH * math.sqrt(max(depth, 1)) * (eps(dtypes[0]) + eps(dtypes[1])) / 2
    coarser = max(dtypes, key=eps)
    return Tolerance(
        atol=relative * largest,
        rtol=eps(coarser),
        rel_l2=min(relative, ceiling(coarser)),
        source="estimated",
        reason=f"{ESTIMATED_GROWTH:g} roundings times the square root of {depth} matrix products; {why}",
    )


def given(atol: float | None, rtol: float | None) -> Tolerance | None:
    """Return the user's own tolerance; ``None`` if they gave none."""
    if atol is None and rtol is None:
        return None
    return Tolerance(atol or 0.0, rtol or 0.0, None, "given", "given by the user")

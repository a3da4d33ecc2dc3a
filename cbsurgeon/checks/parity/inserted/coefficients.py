"""The coefficients of the inserted operators, estimated from a model's outputs.

A model whose operators compute ``(1 + a) op(x) + b x`` instead of ``op(x)`` differs from the right one, to first order,
by ``a`` times one known direction plus ``b`` times another. A least-squares fit of the difference gives ``a`` and
``b``. Rounding errors are spread over many other directions, so the fit shows changes that are far smaller than the
rounding errors themselves.
"""

from __future__ import annotations

from dataclasses import dataclass

import torch
from torch import Tensor

from cbsurgeon.checks.parity.inserted.effect import Effect
from cbsurgeon.checks.parity.tolerance import SAFETY

# The rounding error of a sample counts as this many independent numbers, or as many as the output has if these are
# fewer. On ViT-Ti, Mixer-S and Swin-T, in all three types, with PyTorch and ONNX Runtime, it was 34 to 530, mostly 100
# to 300; where it was less than 128, the noise of the coefficients measured directly was larger and decided.
INDEPENDENT = 128

# A coefficient above this fraction of its limit is estimated again from more samples, if there are any. Of correct
# exports of ViT-Ti, DeiT-S, Mixer-S and Swin-T in 16-bit types, the largest fraction was 0.35.
UNCLEAR = 0.5

# Changes below this are never reported: other checks show them in float32, and rounding hides them in 16-bit types.
LEAST = 0.01


@dataclass(frozen=True)
class Estimate:
    """The estimated coefficients ``a`` and ``b`` of one output, and the largest values that rounding explains."""

    found: tuple[float, float]
    limits: tuple[float, float]

    @property
    def ok(self) -> bool:
        """Whether rounding explains both."""
        return all(abs(value) <= limit for value, limit in zip(self.found, self.limits, strict=True))

    @property
    def clear(self) -> bool:
        """Whether more samples are not needed: rounding explains neither, or half of it explains both."""
        shares = [abs(value) / limit for value, limit in zip(self.found, self.limits, strict=True)]
        return not UNCLEAR <= max(shares) <= 1.0

    def __str__(self) -> str:
        (a, b), limits = self.found, " and ".join(f"{limit:.3f}" for limit in self.limits)
        return (
            f"the inserted operators compute {1.0 + a:.3f} times their result and {b:+.3f} times their input "
            f"(rounding explains changes up to {limits})"
        )


def estimate(output: Tensor, effect: Effect, rounded: Tensor) -> Estimate:
    """Return the coefficients of the operators in an output.

    Args:
        output: the output that is judged.
        effect: what the operators do to it.
        rounded: the same output of the right program in the type of the model that is judged.
    """
    away, noise = (one.detach().cpu().double() - effect.full for one in (output, rounded))
    variances = []
    for sample in zip(
        *(_samples(one, effect.axis) for one in (away, noise, effect.result, effect.source)), strict=True
    ):
        gap, error, result, source = sample
        own, typical = _fit(gap, result, source), _fit(error, result, source)
        energy = max(own.left, float(error @ error)) / max(min(INDEPENDENT, gap.numel() - 2), 1)
        variances.append(torch.maximum(typical.found.square(), energy * own.inverse.diagonal()))
    whole = (effect.result.flatten(), effect.source.flatten())
    found = _fit(away.flatten(), *whole).found
    common = _fit(noise.flatten(), *whole).found  # what rounding adds to all samples alike, as rounded weights do
    spread = common.square() + torch.stack(variances).mean(0) / len(variances)
    limits = (SAFETY * spread.sqrt()).clamp(min=LEAST)
    return Estimate((float(found[0]), float(found[1])), (float(limits[0]), float(limits[1])))


@dataclass(frozen=True)
class _Fit:
    """Least-squares coefficients of two directions in a difference.

    Attributes:
        found: the two coefficients.
        inverse: the inverse of the directions' products with each other.
        left: squared norm of what the two directions do not explain.
    """

    found: Tensor
    inverse: Tensor
    left: float


def _fit(gap: Tensor, result: Tensor, source: Tensor) -> _Fit:
    mixed = result @ source
    inverse = torch.linalg.pinv(torch.stack([result @ result, mixed, mixed, source @ source]).reshape(2, 2))
    along = torch.stack([result @ gap, source @ gap])
    found = inverse @ along
    return _Fit(found, inverse, max(float(gap @ gap - found @ along), 0.0))


def _samples(tensor: Tensor, axis: int | None) -> list[Tensor]:
    """Return one flat tensor per sample."""
    return [tensor.flatten()] if axis is None else [sample.flatten() for sample in tensor.unbind(axis)]

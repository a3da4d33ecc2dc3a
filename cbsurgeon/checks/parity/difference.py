"""Measures of the difference between two tensors."""

from __future__ import annotations

import torch
from torch import Tensor


def kind(a: Tensor) -> str:
    """Return what a tensor holds: ``real``, ``complex`` or ``whole`` numbers (integers and truth values)."""
    return "real" if a.is_floating_point() else "complex" if a.is_complex() else "whole"


def as_real(a: Tensor) -> Tensor:
    """Return complex numbers as real ones, with a last axis for the real and the imaginary part."""
    return torch.view_as_real(a.resolve_conj()) if a.is_complex() else a


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Return the elementwise distance in float64: infinite where only one is finite, 0 where equal or both NaN.

    Whole numbers that float64 rounds to the same number have a distance of 1.
    """
    first, second = a.detach().cpu().double(), b.detach().cpu().double()
    alike = (first == second) | (first.isnan() & second.isnan())
    gap = (first - second).abs()
    if kind(a) == kind(b) == "whole" and a.dtype == b.dtype:
        alike = a.detach().cpu() == b.detach().cpu()
        gap = gap.clamp(min=1.0)
    return torch.where(alike, torch.zeros_like(gap), torch.nan_to_num(gap, nan=float("inf"), posinf=float("inf")))


def largest(gap: Tensor) -> float:
    """Return the largest element; 0 for an empty tensor."""
    return float(gap.max()) if gap.numel() else 0.0


def excess(gap: Tensor, b: Tensor, rtol: float) -> Tensor:
    """Return ``gap - rtol * |b|`` elementwise, at least 0: the distance beyond the relative tolerance."""
    scale = torch.nan_to_num(b.detach().cpu().double().abs(), nan=0.0, posinf=0.0)
    return (gap - rtol * scale).clamp(min=0.0)


def passing_atol(gap: Tensor, b: Tensor, rtol: float) -> float:
    """Return the smallest absolute tolerance for which ``gap <= atol + rtol * |b|`` everywhere."""
    return largest(excess(gap, b, rtol))


def share_used(extra: Tensor, allowed: Tensor) -> float:
    """Return the largest ratio of ``extra`` (see :func:`excess`) to ``allowed``; infinite if nothing is allowed."""
    if not extra.numel():
        return 0.0
    ratio = torch.where(extra > 0.0, extra / allowed, torch.zeros_like(extra))
    return float(torch.nan_to_num(ratio, nan=float("inf"), posinf=float("inf")).max())


def relative_l2(gap: Tensor, b: Tensor) -> float:
    """Return the L2 norm of ``gap`` divided by that of ``b``."""
    norm = float(torch.linalg.vector_norm(torch.nan_to_num(b.detach().cpu().double(), posinf=0.0, neginf=0.0)))
    distance = float(torch.linalg.vector_norm(gap))
    return distance / norm if norm else (0.0 if distance == 0.0 else float("inf"))


def root_mean_square(a: Tensor) -> float:
    """Return the root mean square of the finite elements; 0 if there are none."""
    values = a.detach().cpu().double()
    finite = values[torch.isfinite(values)]
    return float(finite.square().mean().sqrt()) if finite.numel() else 0.0


def cosine(a: Tensor, b: Tensor) -> float:
    """Return the cosine of the flattened tensors; 1 if both are zero."""
    first = torch.nan_to_num(a.detach().cpu().double().flatten())
    second = torch.nan_to_num(b.detach().cpu().double().flatten())
    norms = float(torch.linalg.vector_norm(first) * torch.linalg.vector_norm(second))
    if norms == 0.0:
        return 1.0 if torch.equal(first, second) else 0.0
    return float(first @ second) / norms


def is_classes(a: Tensor) -> bool:
    """Return whether a tensor has the shape and type of class scores, ``[batch, classes]``."""
    return a.dim() == 2 and a.shape[1] > 1 and a.is_floating_point() and bool(a.shape[0])


def top1(a: Tensor, b: Tensor) -> float | None:
    """Return the fraction of samples with the same top class, for ``[batch, classes]``, else ``None``."""
    if not is_classes(a):
        return None
    return float((a.detach().cpu().argmax(1) == b.detach().cpu().argmax(1)).double().mean())


def clear_disagreements(a: Tensor, b: Tensor, margin: float) -> int:
    """Return the number of samples whose top class differs although it leads by more than ``margin`` in ``a``."""
    if not is_classes(a):
        return 0
    first = a.detach().cpu().double()
    leading = first.topk(2, dim=1).values
    clear = leading[:, 0] - leading[:, 1] > margin
    return int((clear & (first.argmax(1) != b.detach().cpu().argmax(1))).sum())

"""The numbers of one comparison."""

from __future__ import annotations

import torch
from torch import Tensor


def difference(a: Tensor, b: Tensor) -> Tensor:
    """Elementwise distance in float64; infinite where the two disagree about being finite, 0 where both are alike."""
    first, second = a.detach().cpu().double(), b.detach().cpu().double()
    alike = (first == second) | (first.isnan() & second.isnan())
    gap = (first - second).abs()
    return torch.where(alike, torch.zeros_like(gap), torch.nan_to_num(gap, nan=float("inf"), posinf=float("inf")))


def largest(gap: Tensor) -> float:
    """Largest element, 0 of nothing."""
    return float(gap.max()) if gap.numel() else 0.0


def passing_atol(gap: Tensor, b: Tensor, rtol: float) -> float:
    """Smallest absolute tolerance under which ``gap <= atol + rtol * |b|`` everywhere."""
    scale = torch.nan_to_num(b.detach().cpu().double().abs(), nan=0.0, posinf=0.0)
    return max(0.0, largest(gap - rtol * scale))


def relative_l2(gap: Tensor, b: Tensor) -> float:
    """L2 norm of the distance over that of ``b``."""
    norm = float(torch.linalg.vector_norm(torch.nan_to_num(b.detach().cpu().double(), posinf=0.0, neginf=0.0)))
    distance = float(torch.linalg.vector_norm(gap))
    return distance / norm if norm else (0.0 if distance == 0.0 else float("inf"))


def root_mean_square(a: Tensor) -> float:
    """Root mean square of the finite elements, 0 of none."""
    values = a.detach().cpu().double()
    finite = values[torch.isfinite(values)]
    return float(finite.square().mean().sqrt()) if finite.numel() else 0.0


def cosine(a: Tensor, b: Tensor) -> float:
    """Cosine of the flattened tensors; 1 for two zeros."""
    first = torch.nan_to_num(a.detach().cpu().double().flatten())
    second = torch.nan_to_num(b.detach().cpu().double().flatten())
    norms = float(torch.linalg.vector_norm(first) * torch.linalg.vector_norm(second))
    if norms == 0.0:
        return 1.0 if torch.equal(first, second) else 0.0
    return float(first @ second) / norms


def top1(a: Tensor, b: Tensor) -> float | None:
    """Share of samples with the same largest class, for ``[batch, classes]`` outputs, else ``None``."""
    if a.dim() != 2 or a.shape[1] < 2 or not a.is_floating_point() or not a.shape[0]:
        return None
    return float((a.detach().cpu().argmax(1) == b.detach().cpu().argmax(1)).double().mean())

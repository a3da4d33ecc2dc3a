"""The quantities of Figures 4, 5 and 7, computed from an attention map (sections 3.1 and 5.2 of the paper).

The functions take maps ``[..., queries, keys]`` whose rows are weights, and return one number per row.
"""

from __future__ import annotations

import math

import torch
from torch import Tensor


def entropy(weights: Tensor) -> Tensor:
    """Return ``-sum_j a_j ln a_j`` in nats for every row, with ``0 ln 0 = 0``; ``[..., queries]``.

    The largest value for N keys is ``ln N``, for a uniform row (Figures 4 and 7a).
    """
    terms: Tensor = torch.special.entr(weights)
    return terms.sum(-1)


def nuclear_norm(weights: Tensor, scale: float) -> Tensor:
    """Return the nuclear norm of softmax's Jacobian at every row, ``scale * (1 - sum_j a_j^2)``; ``[..., queries]``.

    The Jacobian ``scale * (diag(a) - a a^T)`` is positive semi-definite, so its nuclear norm is its trace
    (section 3.1, Figure 5).

    Args:
        weights: rows that sum to 1.
        scale: factor between the product of queries and keys and the logits, usually ``1 / sqrt(channels of a head)``.
    """
    return scale * (1 - (weights * weights).sum(-1))


def grid_distances(grid: tuple[int, ...]) -> Tensor:
    """Return the distances ``||p_i - p_j||_1`` of all positions of a grid, each axis from 0 to 1; ``[N, N]``, float32.

    Args:
        grid: sizes of its axes, such as ``(14, 14)``.
    """
    axes = [torch.arange(size, dtype=torch.float64) / max(size - 1, 1) for size in grid]
    points = torch.stack([axis.flatten() for axis in torch.meshgrid(*axes, indexing="ij")], dim=1)
    return torch.cdist(points, points, p=1).float()


def distances(weights: Tensor, between: Tensor) -> tuple[Tensor, Tensor]:
    """Return ``sum_{j != i} a_ij d_ij`` and ``sum_{j != i} a_ij`` for every row ``i``.

    Args:
        weights: ``[..., N, N]`` over the positions of a grid.
        between: :func:`grid_distances`, ``[N, N]``; its diagonal is 0.

    Returns:
        two tensors ``[..., N]``.
    """
    far = torch.einsum("...ij,ij->...i", weights, between)
    return far, weights.sum(-1) - weights.diagonal(dim1=-2, dim2=-1)


def bound(keys: int) -> float:
    """Return the largest entropy of a row over this many keys: ``ln keys``."""
    return math.log(keys)

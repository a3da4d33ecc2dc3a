"""Attacks that follow the gradient of a model: FGSM and PGD, by captum."""

from __future__ import annotations

import warnings
from collections.abc import Callable
from typing import Any

import torch
from torch import Tensor
from torch.nn.functional import cross_entropy

from cbsurgeon.errors import missing

ATTACKS = {
    "fgsm": "FGSM, epsilon {}/255",
    "pgd": "PGD, epsilon {}/255, 10 steps of a quarter of it",
}
"""Attack → what a strength means. It is the largest change of a pixel, in levels of 255, in the maximum norm."""
STEPS, STEP = 10, 0.25
"""Steps of PGD, and their size as a share of epsilon."""


def attacked(name: str, strength: float, pixels: Tensor, labels: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
    """Pixels changed by at most ``strength / 255`` each, within 0 to 1, so that the loss of their labels grows.

    Args:
        name: ``fgsm`` (``x + eps sign(grad)``) or ``pgd`` (from the image itself, projected after each step).
        strength: epsilon in levels of 255.
        pixels: ``[batch, channels, height, width]`` from 0 to 1.
        labels: class indices ``[batch]``.
        logits: pixels → differentiable outputs ``[batch, classes]``; the normalisation is inside.

    Raises:
        MissingPackage: captum is not installed.
    """
    library, epsilon = _library(), strength / 255
    bounds = {"lower_bound": 0.0, "upper_bound": 1.0}
    images = pixels.detach().clone().requires_grad_()
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # captum says at each step that it follows the gradient
        if name == "fgsm":
            attack = library.FGSM(logits, _loss, **bounds)
            attack.zero_thresh = 0.0  # captum leaves a pixel alone below 1e-6, which in deep networks is most of them
            found = attack.perturb(images, epsilon, labels)
        else:
            attack = library.PGD(logits, _loss, **bounds)
            attack.fgsm.zero_thresh = 0.0
            found = attack.perturb(images, epsilon, STEP * epsilon, STEPS, labels)
    result: Tensor = found.detach()
    return result


def _loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """The sum over images: the gradient of an image does not depend on the others."""
    return cross_entropy(outputs, labels, reduction="sum").reshape(1)


def _library() -> Any:
    try:
        import captum.robust
    except ImportError as error:
        raise missing("captum", "eval", "an attack") from error
    return captum.robust

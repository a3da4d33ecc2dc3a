"""Attacks that use the gradient of a model: FGSM and PGD, from captum."""

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
"""Attack → description of a strength, which is the largest change of a pixel value, in units of 1/255."""
STEPS, STEP = 10, 0.25
"""Number of steps of PGD, and their size as a fraction of epsilon."""


def attacked(name: str, strength: float, pixels: Tensor, labels: Tensor, logits: Callable[[Tensor], Tensor]) -> Tensor:
    """Return pixels changed by at most ``strength / 255`` each, within 0 to 1, to increase the loss.

    Args:
        name: ``fgsm`` (``x + eps sign(grad)``) or ``pgd`` (starting at the image, projected after each step).
        strength: epsilon in units of 1/255.
        pixels: ``[batch, channels, height, width]`` from 0 to 1.
        labels: class indices ``[batch]``.
        logits: function from pixels to differentiable outputs ``[batch, classes]``; it includes the normalisation.

    Raises:
        MissingPackage: captum is not installed.
    """
    library, epsilon = _library(), strength / 255
    bounds = {"lower_bound": 0.0, "upper_bound": 1.0}
    images = pixels.detach().clone().requires_grad_()
    with torch.enable_grad(), warnings.catch_warnings():
        warnings.simplefilter("ignore", UserWarning)  # captum warns at each step that it sets requires_grad
        if name == "fgsm":
            attack = library.FGSM(logits, _loss, **bounds)
            attack.zero_thresh = 0.0  # captum's default ignores gradients below 1e-6, which are most of them
            found = attack.perturb(images, epsilon, labels)
        else:
            attack = library.PGD(logits, _loss, **bounds)
            attack.fgsm.zero_thresh = 0.0
            found = attack.perturb(images, epsilon, STEP * epsilon, STEPS, labels)
    result: Tensor = found.detach()
    return result


def _loss(outputs: Tensor, labels: Tensor) -> Tensor:
    """Return the loss summed over images, so that an image's gradient does not depend on the others."""
    return cross_entropy(outputs, labels, reduction="sum").reshape(1)


def _library() -> Any:
    try:
        import captum.robust
    except ImportError as error:
        raise missing("captum", "eval", "an attack") from error
    return captum.robust

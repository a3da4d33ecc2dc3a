"""Top-5 accuracy."""

from __future__ import annotations

from cbsurgeon.evaluation.metrics.top1 import Top1


class Top5(Top1):
    """Fraction of images whose class is among the five largest outputs."""

    name, title, among, least = "top5", "top-5", 5, 6

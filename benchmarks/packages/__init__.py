"""Models of public packages, with random weights and small sizes, and the modules that are their MLPs."""

from benchmarks.packages import diffusion, images, sequences  # noqa: F401
from benchmarks.packages.listing import MODELS, Sample

__all__ = ["MODELS", "Sample"]

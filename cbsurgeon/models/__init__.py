"""References → models, and models → files."""

from cbsurgeon.models import atomic
from cbsurgeon.models.builders import build
from cbsurgeon.models.fitting import fit
from cbsurgeon.models.loading import load
from cbsurgeon.models.model import Model, Provenance
from cbsurgeon.models.saving import save

__all__ = ["Model", "Provenance", "atomic", "build", "fit", "load", "save"]

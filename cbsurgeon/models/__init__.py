"""Load models from references and files, and save them to files.

``load`` takes any reference or file. It never runs code from a file without ``trust=True``, and never ignores what a
file states.

Weights may have been trained with insertions; their *recipes* are in the file. Inserting is not part of this package.
Loading therefore has two steps, and the caller inserts in between::

    with models.opened(path) as content:                 # nothing is built yet
        bare = content.architecture()                    # Model without insertions
        edited = ...                                     # insert content.recipes, oldest first
        model = content.finish(edited)                   # strict load; CB-FIT-01 says what does not fit

``load`` does both steps for a file without recipes, and refuses one that has them (``CB-LOAD-22``).
``fit(module, state_dict, where)`` is the strict load alone.

Not here: reading a graph (``graph``), inserting operators (``surgery``).
"""

from cbsurgeon.models.builders import build
from cbsurgeon.models.builders.image_processing import preprocessing_of
from cbsurgeon.models.checkpoints.architecture import architecture, finish
from cbsurgeon.models.checkpoints.fitting import fit
from cbsurgeon.models.files import atomic
from cbsurgeon.models.files.checkpoint import Checkpoint, open_checkpoint
from cbsurgeon.models.inputs import with_batch_axis
from cbsurgeon.models.loading import Opened, load, opened
from cbsurgeon.models.model import Model, Provenance
from cbsurgeon.models.preprocessing import Preprocessing
from cbsurgeon.models.saving import save

__all__ = [
    "Checkpoint",
    "Model",
    "Opened",
    "Preprocessing",
    "Provenance",
    "architecture",
    "atomic",
    "build",
    "finish",
    "fit",
    "load",
    "open_checkpoint",
    "opened",
    "preprocessing_of",
    "save",
    "with_batch_axis",
]

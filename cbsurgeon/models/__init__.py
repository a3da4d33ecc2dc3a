"""Load models from references and files, and save them to files.

``load`` takes any reference or file. It never runs code from a file without ``trust=True``, and never ignores what a
file states.

A checkpoint written by cbsurgeon may contain *recipes* (insertions). Inserting is not part of this package, so the
caller passes a function for it::

    model = models.load(path, replay=lambda model, recipes: ...)   # Model with the insertions made

``replay`` gets the architecture without insertions (random weights, ``model.recipes == ()``) and the recipe documents,
oldest first. It returns the model with these insertions in its module, and ``model.recipes`` set. It is called only for
checkpoints that have recipes; without it such a checkpoint is refused (``CB-LOAD-22``). The same in steps::

    checkpoint = models.open_checkpoint(path)            # tensors mapped, nothing built
    bare = models.architecture(checkpoint, arch=arch)    # Model with random weights
    edited = ...                                         # replay checkpoint.recipes on it
    model = models.finish(edited, checkpoint)            # strict load; CB-FIT-01 says what does not fit

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
from cbsurgeon.models.loading import Replay, load
from cbsurgeon.models.model import Model, Provenance
from cbsurgeon.models.preprocessing import Preprocessing
from cbsurgeon.models.saving import save

__all__ = [
    "Checkpoint",
    "Model",
    "Preprocessing",
    "Provenance",
    "Replay",
    "architecture",
    "atomic",
    "build",
    "finish",
    "fit",
    "load",
    "open_checkpoint",
    "preprocessing_of",
    "save",
    "with_batch_axis",
]

"""Reading datasets as batches, with each model's own preprocessing.

``open_data(spec, preprocessing)`` opens a folder of images, an ``.npz`` file, a folder saved by ``datasets``,
WebDataset shards or a torchvision dataset. Iterating the result yields :class:`Batch` objects. Images that cannot be
read are counted and listed by name; conversions (such as grey to RGB) are counted as notes. Several processes can share
a dataset: each sample is read exactly once. A new kind of dataset needs one file and one line in
:mod:`cbsurgeon.data.sources.registry`.

Not here: how an image becomes an input (``models.preprocessing``), what is measured on the batches (``evaluation``).
"""

from cbsurgeon.data.loading import Data, open_data
from cbsurgeon.data.sample import Batch, Problem, Sample
from cbsurgeon.data.sources.registry import open_source
from cbsurgeon.data.sources.source import Indexed, Source

__all__ = ["Batch", "Data", "Indexed", "Problem", "Sample", "Source", "open_data", "open_source"]

"""Datasets → batches in a model's own preprocessing.

``open_data(spec, preprocessing)`` opens a folder of images, an ``.npz`` file, a folder that ``datasets`` saved,
WebDataset shards or a torchvision dataset; iterating the result gives
:class:`Batch` objects. Images that cannot be read are counted and named, conversions are counted as notes. Several
processes share a dataset without counting a sample twice or losing one. A new kind of dataset is one file and one line
in :mod:`cbsurgeon.data.sources.registry`.

Not here: how an image becomes an input (``models.preprocessing``), and what is measured on the batches
(``evaluation``).
"""

from cbsurgeon.data.loading import Data, open_data
from cbsurgeon.data.sample import Batch, Problem, Sample
from cbsurgeon.data.sources.registry import open_source
from cbsurgeon.data.sources.source import Indexed, Source

__all__ = ["Batch", "Data", "Indexed", "Problem", "Sample", "Source", "open_data", "open_source"]

"""``file.npz``: a dataset of named arrays.

An array ``images``, uint8 ``[samples, height, width]`` or ``[samples, height, width, 3]``, is preprocessed like image
files. All other arrays are model inputs, used without preprocessing and named as the model names its inputs. ``labels``
are class indices ``[samples]``, one number per class ``[samples, classes]`` (for several labels per sample), or maps
``[samples, height, width]``.
"""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path

from cbsurgeon.data.sample import Array, Sample
from cbsurgeon.data.sources.refusals import class_index
from cbsurgeon.data.sources.source import Indexed
from cbsurgeon.errors import InputFileError
from cbsurgeon.models.files.arrays import read_arrays
from cbsurgeon.options import DataOptions

IMAGES, LABELS = "images", "labels"


class Arrays(Indexed):
    """The arrays of an ``.npz`` file; see the module's docstring."""

    def __init__(self, path: Path, images: Array | None, inputs: Mapping[str, Array], labels: Array | None) -> None:
        self._images, self._inputs, self._labels = images, inputs, labels
        count = len(images) if images is not None else len(next(iter(inputs.values())))
        super().__init__(str(path), pictures=images is not None, labelled=labels is not None, count=count)

    def fingerprint(self) -> str:
        """See :meth:`Source.fingerprint`; it is the file's size and modification time."""
        found = Path(self.spec).stat()
        return f"{found.st_size} {found.st_mtime_ns}"

    def sample(self, index: int) -> Sample:
        """See :meth:`Indexed.sample`."""
        label = None if self._labels is None else self._labels[index]
        if label is not None and label.ndim == 0:
            label = class_index(label, self.spec)
        name = f"{Path(self.spec).name}[{index}]"
        if self._images is not None:
            return Sample(index, name, image=self._images[index], label=label)
        return Sample(index, name, arrays={key: array[index] for key, array in self._inputs.items()}, label=label)


def open_source(reference: str, how: DataOptions) -> Arrays:
    """Read the arrays.

    Raises:
        InputFileError: the file cannot be read safely (``CB-INPUT-03``), or its arrays do not form a dataset
            (``CB-DATA-09``).
    """
    path = Path(reference)
    arrays = read_arrays(path)
    labels, images = arrays.pop(LABELS, None), arrays.pop(IMAGES, None)
    if images is not None and arrays:
        raise _wrong(path, f"it has images and also {', '.join(sorted(arrays))}", "leave the other arrays out")
    if images is None and not arrays:
        raise _wrong(path, "it has neither images nor inputs", "numpy.savez(file, images=..., labels=...)")
    parts = {
        **arrays,
        **({IMAGES: images} if images is not None else {}),
        **({LABELS: labels} if labels is not None else {}),
    }
    scalars = [name for name, array in parts.items() if array.ndim == 0]
    if scalars:
        raise _wrong(path, f"{scalars[0]} is one number, not one entry per sample", "add a first axis over samples")
    lengths = {name: len(array) for name, array in parts.items()}
    if len(set(lengths.values())) != 1:
        said = ", ".join(f"{name} {length}" for name, length in lengths.items())
        raise _wrong(path, f"the arrays have different numbers of samples: {said}", "give each one row per sample")
    if not next(iter(lengths.values())):
        raise _wrong(path, "it has no samples", "give at least one")
    if images is not None and (images.dtype.kind != "u" or images.itemsize != 1 or images.ndim not in (3, 4)):
        raise _wrong(
            path,
            f"images are {images.dtype} {list(images.shape)}, not uint8 [samples, height, width, 3]",
            "name an array that is already preprocessed as the model names its input, such as x",
        )
    if labels is not None and labels.dtype.kind not in ("iubf" if labels.ndim == 2 else "iub"):
        raise _wrong(path, f"labels are {labels.dtype}; class indices must be integers", "labels.astype('int64')")
    return Arrays(path, images, arrays, labels)


def _wrong(path: Path, why: str, do: str) -> InputFileError:
    return InputFileError("the arrays do not form a dataset", code="CB-DATA-09", where=str(path), why=why, do=do)

"""A folder of images: one sub-folder per class, or flat; or ``images/`` and ``labels/`` with one map per image.

Classes are numbered in the order of their names, as in torchvision's ``ImageFolder``.
"""

from __future__ import annotations

import hashlib
import itertools
import os
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from cbsurgeon.data.decoding import SUFFIXES
from cbsurgeon.data.sample import Sample
from cbsurgeon.data.sources.refusals import unreadable
from cbsurgeon.data.sources.source import Indexed
from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.options import DataOptions

MAPS = ("labels", "masks", "annotations")
"""Names that the folder of label maps next to ``images`` may have."""
_DEEPEST = 32
_MOST_FOLDERS = 200_000
"""Largest number of folders that are listed; links among a few folders can make any number of paths."""
_SHOWN = 3


@dataclass(frozen=True, slots=True)
class _Entry:
    path: str
    label: int | str | None


class Folder(Indexed):
    """A folder of image files; see the module's docstring."""

    def __init__(self, root: Path, entries: list[_Entry], classes: tuple[str, ...], remarks: tuple[str, ...]) -> None:
        self.root, self._entries = root, entries
        labelled = entries[0].label is not None
        super().__init__(
            str(root), pictures=True, labelled=labelled, classes=classes, count=len(entries), remarks=remarks
        )

    def fingerprint(self) -> str:
        """See :meth:`Source.fingerprint`; computed from names and labels."""
        listed = "\0".join(f"{entry.path} {entry.label}" for entry in self._entries)
        return hashlib.sha256(listed.encode(errors="surrogateescape")).hexdigest()

    def sample(self, index: int) -> Sample:
        """See :meth:`Indexed.sample`."""
        entry = self._entries[index]
        path, label = Path(entry.path), entry.label
        name = str(path.relative_to(self.root))
        return Sample(index, name, image=path, label=Path(label) if isinstance(label, str) else label)


def open_source(reference: str, how: DataOptions) -> Folder:
    """Open a folder and list its images.

    Raises:
        InputFileError: the folder does not exist (``CB-DATA-03``), has no images (``CB-DATA-04``), has both images and
            folders of images (``CB-DATA-05``), lacks label maps (``CB-DATA-06``), or contains itself through a link
            (``CB-DATA-07``).
        UsageError: the class names are numbers and no order was given (``CB-DATA-08``).
    """
    root = Path(reference)
    if not root.is_dir():
        raise InputFileError(
            "the dataset does not exist" if not root.exists() else "the dataset is not a folder",
            code="CB-DATA-03",
            where=str(root),
            why="without a kind such as wds:, the dataset is read as a folder or an .npz file",
            do="give a folder of images, file.npz, hf:DIRECTORY, wds:PATTERN or torchvision:NAME:ROOT",
        )
    listed = _listed(root)
    folders = [entry for entry in listed if _leads_to_folder(entry)]
    names = {folder.name for folder in folders}
    maps = next((name for name in MAPS if names == {"images", name}), None)
    if maps is not None:
        return _with_maps(root, root / "images", root / maps)
    number = itertools.count(1)
    found = {folder.name: list(_images(Path(folder.path), number)) for folder in folders}
    loose = [entry.path for entry in listed if _is_image(entry)]
    filled = {name: images for name, images in found.items() if images}
    if loose and filled:
        raise InputFileError(
            "the folder has both images and folders of images",
            code="CB-DATA-05",
            where=str(root),
            why=f"{len(loose)} images such as {Path(loose[0]).name}, {len(filled)} folders such as {min(filled)}",
            do="put each image into the folder of its class, or all images into one flat folder",
        )
    if not loose and not filled:
        raise _empty(root)
    if loose:
        return Folder(root, [_Entry(path, None) for path in loose], (), ())
    classes = _ordered([folder.name for folder in folders], how, root)
    entries = [_Entry(path, label) for label, name in enumerate(classes) for path in found[name]]
    empty = [name for name in classes if not found[name]]
    remarks = (f"classes without images: {', '.join(empty[:_SHOWN])}",) if empty else ()
    return Folder(root, entries, classes, remarks)


def _with_maps(root: Path, images: Path, maps: Path) -> Folder:
    number = itertools.count(1)
    by_stem = {_stem(path, maps): path for path in _images(maps, number)}
    entries, absent = [], []
    for path in _images(images, number):
        label = by_stem.get(_stem(path, images))
        if label is None:
            absent.append(Path(path).name)
        else:
            entries.append(_Entry(path, label))
    if absent:
        raise InputFileError(
            f"{len(absent)} images have no label map",
            code="CB-DATA-06",
            where=str(maps),
            why=f"there is none for {', '.join(absent[:_SHOWN])}",
            do="give each map the name of its image, with the suffix .png",
        )
    if not entries:
        raise _empty(images)
    return Folder(root, entries, (), ())


def _ordered(names: list[str], how: DataOptions, root: Path) -> tuple[str, ...]:
    alphabetic = tuple(sorted(names))
    if not all(name.isdecimal() for name in names) or how.order == "alphabetic":
        return alphabetic
    numeric = tuple(sorted(names, key=lambda name: (int(name), name)))
    if numeric == alphabetic or how.order == "numeric":
        return numeric
    first = next(name for name, other in zip(alphabetic, numeric, strict=True) if name != other)
    raise UsageError(
        "the class names are numbers, and their order is ambiguous",
        code="CB-DATA-08",
        where=str(root),
        why=f"class {alphabetic.index(first)} is {first!r} in alphabetic order (torchvision's ImageFolder) and "
        f"{numeric[alphabetic.index(first)]!r} in numeric order (timm)",
        do="--class-order alphabetic or --class-order numeric, whichever the model was trained with",
    )


def _stem(path: str, root: Path) -> str:
    return os.path.splitext(os.path.relpath(path, root))[0]  # noqa: PTH122 - a million of them


def _listed(folder: Path) -> list[os.DirEntry[str]]:
    """Return the entries of a folder by name; whether an entry is a file needs no further system call."""
    try:
        with os.scandir(folder) as entries:
            return sorted((entry for entry in entries if not entry.name.startswith(".")), key=lambda entry: entry.name)
    except OSError as error:
        raise unreadable(str(folder), error.strerror or str(error)) from error


def _images(folder: Path, number: Iterator[int]) -> Iterator[str]:
    """Yield every image below a folder, in the order of the names; links are followed.

    ``number`` counts the folders of the whole dataset.
    """
    pending: list[tuple[str, tuple[str, ...]]] = [(str(folder), (os.path.realpath(folder),))]
    while pending:
        here, above = pending.pop()
        entries = _listed(Path(here))
        yield from (entry.path for entry in entries if _is_image(entry))
        for entry in reversed([entry for entry in entries if _leads_to_folder(entry)]):
            real = os.path.realpath(entry.path)
            if real in above:
                raise _loops(entry.path, f"it links to {real}, which contains it")
            if len(above) > _DEEPEST:
                raise _loops(entry.path, f"it is nested more than {_DEEPEST} folders deep, links included")
            if next(number) > _MOST_FOLDERS:
                raise _loops(entry.path, f"there are more than {_MOST_FOLDERS} folders, links included")
            pending.append((entry.path, (*above, real)))


def _loops(where: str, why: str) -> InputFileError:
    return InputFileError(
        "the folder contains itself, or too many folders",
        code="CB-DATA-07",
        where=where,
        why=why,
        do="remove the link, or give a folder with fewer levels",
    )


def _is_image(entry: os.DirEntry[str]) -> bool:
    """Return whether an entry has the suffix of an image and is a file or a broken link.

    A broken link is counted as an image that cannot be read. Pipes and devices are not images.
    """
    if os.path.splitext(entry.name)[1].lower() not in SUFFIXES:  # noqa: PTH122 - a million of them
        return False
    try:
        return entry.is_file() or (entry.is_symlink() and not Path(entry.path).exists())
    except OSError:
        return entry.is_symlink()  # a link to itself


def _leads_to_folder(entry: os.DirEntry[str]) -> bool:
    try:
        return entry.is_dir()
    except OSError:
        return False


def _empty(root: Path) -> InputFileError:
    held = [entry.name for entry in _listed(root)]
    return InputFileError(
        "the folder has no images",
        code="CB-DATA-04",
        where=str(root),
        why=f"it contains {', '.join(held[:_SHOWN])}{' ...' if len(held) > _SHOWN else ''}" if held else "it is empty",
        do=f"add images ({', '.join(SUFFIXES[:4])} ...), in one sub-folder per class or directly",
    )

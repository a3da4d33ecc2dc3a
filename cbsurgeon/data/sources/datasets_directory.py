"""``hf:DIRECTORY``: a dataset saved by ``save_to_disk`` of ``datasets``; ``hf:DIRECTORY:SPLIT`` chooses a split.

Only the tables in the folder are read; no loading script is run and nothing is downloaded.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

from cbsurgeon.data.decoding import Unreadable
from cbsurgeon.data.sample import Sample
from cbsurgeon.data.sources.refusals import class_index, unreadable
from cbsurgeon.data.sources.source import Indexed
from cbsurgeon.errors import missing
from cbsurgeon.models.files import strict_json
from cbsurgeon.options import DataOptions

SPLITS = ("validation", "val", "test")
"""Splits that are tried in this order if the user names none."""
LABELS = ("label", "labels", "fine_label", "class")


class Rows(Indexed):
    """The rows of a table: an image column and, if there is one, a column of class indices."""

    def __init__(self, where: str, table: Any, image: str, label: str | None, classes: tuple[str, ...]) -> None:
        self._table, self._image, self._label = table, image, label
        super().__init__(where, pictures=True, labelled=label is not None, classes=classes, count=len(table))

    def fingerprint(self) -> str:
        """See :meth:`Source.fingerprint`; it is the table's own fingerprint."""
        return str(self._table._fingerprint)

    def sample(self, index: int) -> Sample:
        """See :meth:`Indexed.sample`."""
        row = self._table[index]
        held = row[self._image] or {}
        file = held.get("path")
        name = f"row {index}" + (f" ({Path(file).name})" if file else "")
        image = held.get("bytes") or (Path(file) if file else Unreadable("the row has no image"))
        label = None if self._label is None else class_index(row[self._label], f"{self.spec}: {name}")
        return Sample(index, name, image=image, label=label)


def open_source(reference: str, how: DataOptions) -> Rows:
    """Open the folder.

    Raises:
        InputFileError: it is not such a folder, or does not have one image column (``CB-DATA-09``).
        MissingPackage: datasets is not installed.
    """
    try:
        import datasets
    except ImportError as error:
        raise missing("datasets", "data", "an hf: dataset") from error
    folder, split = (reference, "") if Path(reference).is_dir() else reference.rpartition(":")[::2]
    _check(Path(folder), f"hf:{reference}")
    try:
        table: Any = datasets.load_from_disk(folder)
    except Exception as error:
        # datasets and pyarrow raise any error for a file that is damaged.
        why = f"{type(error).__name__}: {str(error)[:160]}"
        raise unreadable(f"hf:{reference}", why, "write it with dataset.save_to_disk(DIRECTORY)") from error
    if isinstance(table, datasets.DatasetDict):
        chosen = split or next(
            (name for name in (*SPLITS, *table) if name in table and (name in SPLITS or len(table) == 1)), ""
        )
        if chosen not in table:
            why = f"its splits are {', '.join(table)}"
            raise unreadable(f"hf:{reference}", why, f"hf:{folder}:{next(iter(table))}")
        table = table[chosen]
    images = [name for name, kind in table.features.items() if isinstance(kind, datasets.Image)]
    if len(images) != 1:
        columns = ", ".join(f"{name} ({type(kind).__name__})" for name, kind in table.features.items())
        raise unreadable(f"hf:{reference}", f"it has {len(images)} image columns; its columns are {columns}")
    table = table.cast_column(images[0], datasets.Image(decode=False))
    label = next((name for name in LABELS if name in table.features), None)
    kind = table.features[label] if label else None
    classes = tuple(kind.names) if isinstance(kind, datasets.ClassLabel) else ()
    return Rows(f"hf:{reference}", table, images[0], label, classes)


def _check(folder: Path, where: str) -> None:
    """Refuse a folder whose tables are no regular files, or whose descriptions name files outside it.

    Opening a pipe would wait for ever. Splits are folders in the folder.

    Raises:
        InputFileError: it has such an entry (``CB-DATA-09``).
    """
    parts = [folder, *(part for part in folder.glob("*") if part.is_dir())]
    for path in (path for part in parts for path in part.glob("*")):
        if not path.is_file() and not path.is_dir():
            raise unreadable(where, f"{path} is a pipe, a socket, a device or a link to a missing file")
    named: list[tuple[Path, object]] = []
    for part in parts:
        state, splits = (_described(part / name, where) for name in ("state.json", "dataset_dict.json"))
        files, names = state.get("_data_files"), splits.get("splits")
        for entry in files if isinstance(files, list) else ():
            named.append((part, entry.get("filename") if isinstance(entry, dict) else entry))
        named += [(part, name) for name in (names if isinstance(names, list) else ())]
    for part, name in named:
        if not isinstance(name, str) or name != Path(name).name or name in ("", ".."):
            raise unreadable(where, f"{part} names {str(name)[:80]!r}, which is not a plain name in the same folder")


def _described(path: Path, where: str) -> dict[str, Any]:
    if not path.is_file():
        return {}
    try:
        found = strict_json.load(path)
    except (OSError, strict_json.NotStrictJSON) as error:
        raise unreadable(where, f"{path.name}: {error}") from error
    return found if isinstance(found, dict) else {}

"""The preprocessing stored in a deployed file."""

from __future__ import annotations

from pathlib import Path

from cbsurgeon.deploy import manifest
from cbsurgeon.deploy.onnx import file as onnx_file
from cbsurgeon.models import Preprocessing
from cbsurgeon.models.preprocessing import from_dict
from cbsurgeon.vocabulary import ENGINE_SUFFIXES


def preprocessing_in(path: str | Path) -> Preprocessing | None:
    """Return the preprocessing in an ``.onnx`` file's metadata or an engine's manifest; ``None`` if there is none.

    Raises:
        InputFileError: the file cannot be read, or its preprocessing is not valid (``CB-DATA-02``).
        MissingPackage: onnx is not installed.
    """
    file = Path(path)
    if file.suffix.lower() in ENGINE_SUFFIXES:
        document = (manifest.read(file) or {}).get("model") or {}
    else:
        document = onnx_file.read_metadata(file) or {}
    stated = document.get("preprocessing")
    return None if stated is None else from_dict(stated, str(file))

"""``export``, and the comparison of an exported file with its model before the file gets its name."""

from __future__ import annotations

import importlib.util
from dataclasses import replace
from pathlib import Path
from typing import Any

from torch.utils._pytree import tree_leaves

from cbsurgeon import checks, deploy
from cbsurgeon.checks.parity.result import Verification
from cbsurgeon.deploy import Export, export
from cbsurgeon.errors import UsageError
from cbsurgeon.graph import Program
from cbsurgeon.graph.capture import capture
from cbsurgeon.graph.capture.image_size import is_image, resized
from cbsurgeon.models import Model
from cbsurgeon.models.files import atomic
from cbsurgeon.options import CheckOptions, ExportOptions, documented, resolve
from cbsurgeon.report import notebook
from cbsurgeon.vocabulary import Progress

__all__ = ["export", "export_checked", "unverified", "why_unchecked"]

notebook.install(Export, Verification)


@documented(ExportOptions)
def export_checked(
    model: Model | str | Path,
    path: str | Path,
    how: ExportOptions | None = None,
    /,
    *,
    checking: CheckOptions | None = None,
    force: bool = False,
    program: Program | None = None,
    progress: Progress | None = None,
    **keywords: Any,
) -> tuple[Export, Verification | None]:
    """Export a model, and compare an ONNX file with the model before moving it to its path.

    A file that differs from the model is saved as ``<stem>.unverified.onnx`` instead.

    Args:
        model: the model to export.
        path: the file.
        how: how to export; or its fields as keywords.
        checking: whether the file is compared with the model, and on which images as well. Engines and programs are not
            compared here.
        force: replace an existing file.
        program: the captured model, if the caller has it already.
        progress: called with a message at each step.

    Returns:
        The export, and the comparison; ``None`` if there was none (:func:`why_unchecked` returns the reason).

    Raises:
        UsageError: images were given, and the file is not compared (``CB-VERIFY-07``).
    """
    how = resolve(ExportOptions, how, keywords, "export_checked")
    final, checking = Path(path), checking or CheckOptions()
    unchecked = why_unchecked(final, checking.verify) or ("" if isinstance(model, Model) else "REF is an ONNX file")
    if unchecked and checking.data is not None:
        raise UsageError(
            "real images were given, but the exported file is not compared with the model",
            code="CB-VERIFY-07",
            where=f"--data {checking.data}",
            why=unchecked,
            do=f"leave out --data, or compare afterwards: cbsurgeon verify REF {final} --data {checking.data}",
        )
    if not isinstance(model, Model) or unchecked:
        return deploy.export(model, final, how, force=force, program=program, progress=progress), None
    if program is None:
        if progress is not None:
            progress("capturing the model")
        program = capture(model)
    again: dict[str, Any] = {"program": program, "force": True, "progress": progress}
    try:
        with atomic.bundle(final, force=force, companions=(f"{final.name}.data",)) as staged:
            made = deploy.export(model, staged, how, **again)
            found = checks.verify(model, staged, data=checking.data, program=program, progress=progress)
            verdict = _named(found, model, final)
            if how.dynamic_size and verdict:
                verdict = _named(_at_another_size(verdict, model, staged, progress), model, final)
            if not verdict:
                raise _Differs(verdict)
    except _Differs as difference:
        kept = unverified(final)
        return deploy.export(model, kept, how, **again), _named(difference.verdict, model, kept)
    data = final.with_name(made.external_data.name) if made.external_data else None
    return replace(made, path=final, external_data=data), verdict


def _at_another_size(found: Verification, model: Model, file: Path, progress: Progress | None) -> Verification:
    """Verify on images of another size; return that result if the models differ there, else ``found`` with a note."""
    other = replace(model, example_inputs=resized(model.example_inputs), example_kwargs=resized(model.example_kwargs))
    second = checks.verify(other, file, progress=progress)
    leaves = [leaf for leaf in tree_leaves((other.example_inputs, dict(other.example_kwargs))) if is_image(leaf)]
    size = "x".join(map(str, leaves[0].shape[2:]))
    chosen = found if second else second
    return replace(chosen, notes=(*chosen.notes, f"{'also compared' if second else 'they differ'} at {size}"))


class _Differs(Exception):
    """Raised to discard the temporary file, so that a file that differs from the model never gets its final name."""

    def __init__(self, verdict: Verification) -> None:
        super().__init__()
        self.verdict = verdict


def why_unchecked(path: str | Path, check: bool = True) -> str:
    """Return why :func:`export_checked` does not compare a file with its model; empty if it does."""
    if not check:
        return "--no-verify was given"
    if Path(path).suffix.lower() != ".onnx":
        return "only ONNX files are compared during export; run `cbsurgeon verify`"
    if importlib.util.find_spec("onnxruntime") is None:
        return "onnxruntime is not installed (pip install 'cbsurgeon[onnx]')"
    return ""


def unverified(path: Path) -> Path:
    """Return the path for a file that failed the check: ``m.onnx`` → ``m.unverified.onnx``."""
    return path.with_name(f"{path.stem}.unverified{path.suffix}")


def _named(verdict: Verification, model: Model, file: Path) -> Verification:
    """Return the verification with the reference and the path that the user gave as names."""
    return replace(verdict, a=replace(verdict.a, name=model.provenance.reference), b=replace(verdict.b, name=str(file)))

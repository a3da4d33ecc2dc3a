"""``ship``: insert, export, verify, audit, bench and report in one step, into one folder."""

from __future__ import annotations

import importlib.util
import shlex
import tempfile
from collections.abc import Mapping
from contextlib import suppress
from dataclasses import dataclass, field, replace
from pathlib import Path
from typing import Any

import torch

from cbsurgeon import checks, deploy, evaluation
from cbsurgeon.checks import Verification
from cbsurgeon.checks.environment import environment
from cbsurgeon.data import open_data
from cbsurgeon.deploy import Export
from cbsurgeon.deploy.onnx.file import sha256
from cbsurgeon.errors import CaptureError, ExportError, MissingPackage, missing
from cbsurgeon.evaluation import Evaluation
from cbsurgeon.graph import Program, inspect
from cbsurgeon.graph.capture import capture
from cbsurgeon.models import Model, preprocessing_of, save
from cbsurgeon.models.files import strict_json
from cbsurgeon.models.preprocessing import changed
from cbsurgeon.models.saving import sources
from cbsurgeon.options import Choice, DataOptions, EvaluateOptions, ShipOptions, documented, fields_of, resolve
from cbsurgeon.report import notebook, plots, render_html
from cbsurgeon.surgery import Recipe, plan, remove
from cbsurgeon.verbs.editing import insert
from cbsurgeon.verbs.exporting import export_checked
from cbsurgeon.verbs.folder import MARK, results_folder
from cbsurgeon.verbs.results import cautions, insertion
from cbsurgeon.vocabulary import Progress

SCHEMA = "cbsurgeon.ship/1"
WEIGHTS, PROGRAM, RECIPE = "model.safetensors", "model.pt2", "recipe.json"
ONNX, ENGINE, PAGE = "model.onnx", "model.engine", "report.html"


@dataclass(frozen=True)
class Shipment:
    """The result of ``ship``.

    Attributes:
        directory: the folder with all files.
        document: the JSON document, schema ``cbsurgeon.ship/1``.
        verification: comparison of the ONNX file with the edited model.
        warnings: warnings to show to the user.
        evaluation: comparison of the edited model and the ONNX file on a dataset; ``None`` if none was given.
    """

    directory: Path
    document: Mapping[str, Any] = field(repr=False)
    verification: Verification
    warnings: tuple[str, ...] = ()
    evaluation: Evaluation | None = None

    def __bool__(self) -> bool:
        """True if the ONNX file equals the edited model, also on the dataset if one was given."""
        return bool(self.verification) and (self.evaluation is None or bool(self.evaluation))

    def to_dict(self) -> dict[str, Any]:
        """JSON form."""
        return dict(self.document)

    def raise_if_failed(self) -> Shipment:
        """Return the shipment itself, or raise an error.

        Raises:
            CheckFailed: parity or the evaluation failed.
        """
        self.verification.raise_if_failed()
        if self.evaluation is not None:
            self.evaluation.raise_if_failed()
        return self


notebook.install(Shipment)


@documented(Choice, ShipOptions, DataOptions)
def ship(
    model: Model,
    directory: str | Path,
    choice: Choice | None = None,
    how: ShipOptions | None = None,
    reading: DataOptions | None = None,
    /,
    *,
    force: bool = False,
    command: str = "",
    progress: Progress | None = None,
    **keywords: Any,
) -> Shipment:
    """Insert, export to ONNX (and to an engine if a TensorRT builder is installed), verify, audit, bench and report.

    If no choice is given and the model already has operators from one recipe (such as a checkpoint trained with them),
    it is shipped as it is, and compared with the same weights without the operators.

    Args:
        model: the model to edit; it is not modified.
        directory: folder for the results; written atomically.
        choice: which operator goes where, see :func:`cbsurgeon.plan`; or its fields as keywords.
        how: the other options; or its fields as keywords.
        reading: how to read the dataset, if one is given; or its fields as keywords. Preprocessing that is given here
            is stored in all files.
        force: replace a folder written by an earlier ``ship``.
        command: the command line, for the report.
        progress: called with a message at each step.

    Raises:
        CBSurgeonError: any error of the verbs it calls; nothing is written then. If the parity check fails, no error is
            raised: the :class:`Shipment` is false, and its ONNX file is called ``model.unverified.onnx``.
    """
    own = {name: keywords.pop(name) for name in fields_of(ShipOptions) if name in keywords}
    how = resolve(ShipOptions, how, own, "ship")
    data = {name: keywords.pop(name) for name in fields_of(DataOptions) if name in keywords}
    reading = resolve(DataOptions, reading, data, "ship")
    as_it_is = choice is None and not keywords
    choice = resolve(Choice, choice, keywords, "ship")
    _require_packages()
    if any(value is not None for value in reading.preprocessing.values()):
        stated = changed(preprocessing_of(model), where=model.provenance.reference, **reading.preprocessing)
        model = replace(model, preprocessing=stated)
    if how.data is not None:
        open_data(how.data, preprocessing_of(model), reading)  # raises any error before the long work starts
    tell = progress or (lambda step: None)
    with results_folder(directory, force=force, inputs=sources(model)) as folder:
        job = _Job(model, Path(directory), folder, tell)
        job.edit(None if as_it_is else choice)
        job.export(how.opset)
        if how.engine:
            job.build_engine()
        else:
            job.left_out["engine"] = "--no-engine was given"
        job.evaluate(how.data, reading)
        job.audit()
        job.bench(how.bench_budget, how.opset)
        tell("writing the report")
        document = job.finish(command)
    return Shipment(Path(directory), document, job.verdict, tuple(job.warnings), job.evaluated)


class _Job:
    """The state of one call of :func:`ship`."""

    edited: Model
    recipe: Recipe
    captured: Program
    """The edited model, captured."""
    original: Program | None = None
    """The original model, captured."""
    verdict: Verification

    def __init__(self, model: Model, final: Path, folder: Path, tell: Progress) -> None:
        self.model, self.final, self.folder, self.tell = model, final, folder, tell
        self.reference = model.provenance.reference
        self.documents: list[dict[str, Any]] = []
        self.left_out: dict[str, str] = {}
        self.warnings: list[str] = []
        self.evaluated: Evaluation | None = None

    def edit(self, choice: Choice | None) -> None:
        """Inspect, plan and insert; write weights and recipe. Without a choice, operators already inserted are kept."""
        given = self.model
        before = len(given.recipes) == 1 and choice is None
        if before:
            plain = remove(given)
            named = replace(plain.provenance, reference=f"{self.reference} without its operators")
            self.model = replace(plain, provenance=named)
        self.tell("reading the graph")
        with suppress(CaptureError):  # inspect() refuses with the remedy, or captures the model in parts
            self.original = capture(self.model, check=False)
        found = inspect(self.model, check=False, program=self.original)
        self.recipe = Recipe.from_dict(given.recipes[0]) if before else plan(found, choice or Choice())
        self.tell("inserting")
        edited = given if before else insert(self.model, self.recipe)
        leaks = checks.leaks_of(self.model, edited, self.recipe)
        for leak in leaks:
            leak.raise_if_failed()
        name = WEIGHTS if edited.module is not None else PROGRAM
        save(edited, self.folder / name)
        # From here on the edited model is named after its file, so that commands in messages can be run.
        origin = replace(edited.provenance, reference=str(self.final / name))
        self.edited = replace(edited, provenance=origin)
        (self.folder / RECIPE).write_text(self.recipe.to_json(), encoding="utf-8")
        done = insertion(
            self.model, edited, self.recipe, blocks=len(found), output=self.final / name, leaks=leaks, trained=before
        )
        self.documents += [found.to_dict(), done]
        if not before:
            self.warnings += cautions(self.recipe, found)

    def export(self, opset: int) -> None:
        """Export to ONNX and compare the file with the edited model."""
        self.tell("capturing the edited model")
        program = self.captured = capture(self.edited, check=False)  # the file is compared with the module below
        made, verdict = export_checked(
            self.edited, self.folder / ONNX, opset=opset, program=program, progress=self.tell
        )
        assert verdict is not None, "_require_packages asks for onnxruntime"
        self.made = made
        named = replace(verdict, b=replace(verdict.b, name=str(self.final / made.path.name)))
        self.verdict = named.with_bisection(checks.bisect(program, made.path, progress=self.tell))
        self.documents += [self._placed(made), self.verdict.to_dict()]

    def build_engine(self) -> None:
        """Build an engine from the ONNX file, if the file was verified and a builder is installed."""
        if not self.verdict:
            self.left_out["engine"] = "the ONNX file differs from the model"
            return
        try:
            built = deploy.build_engine(self.made.path, self.folder / ENGINE, progress=self.tell)
        except MissingPackage as error:
            self.left_out["engine"] = f"{error.what}; {error.do}"
        except ExportError as error:
            self.left_out["engine"] = f"{error.what}: {error.why} [{error.code}]"
            self.warnings.append(f"no engine was built: {error.what}: {error.why}")
        else:
            self.documents.append(self._placed(built))
            here = torch.cuda.is_available()
            files = " ".join(shlex.quote(str(self.final / name)) for name in (WEIGHTS, ENGINE))
            where = "" if here else ": this machine has no NVIDIA GPU. On a machine with the GPU it was built for"
            self.left_out["engine run"] = (
                f"the engine was built but not run{where}{'; run' if here else ', run'}: "
                f"cbsurgeon verify {files}{'' if here else ' --trust'}{self.model.provenance.flags}"
            )

    def evaluate(self, data: Any, reading: DataOptions) -> None:
        """Evaluate the edited model and the ONNX file on the dataset."""
        if data is None:
            self.left_out["accuracy"] = "no --data was given, so accuracy was not measured"
            return
        sides = (self.edited, self.made.path)
        found = evaluation.evaluate(sides, data, EvaluateOptions(), reading, progress=self.tell)
        names = {**found.sides, "b": {**found.sides["b"], "name": str(self.final / self.made.path.name)}}
        self.evaluated = replace(found, sides=names)
        self.documents.append(self.evaluated.to_dict())

    def audit(self) -> None:
        """Count parameters, FLOPs and bytes of the original and the edited model."""
        self.tell("counting parameters, FLOPs and bytes")
        counted = checks.audit(self.model, self.edited, programs=(self.original, self.captured))
        self.documents.append(counted.to_dict())

    def bench(self, budget: float, opset: int) -> None:
        """Compare the latency of the original and the edited model, both as ONNX files on the CPU."""
        if budget <= 0 or not self.verdict:
            self.left_out["benchmark"] = "its budget is 0" if self.verdict else "the ONNX file differs from the model"
            return
        with tempfile.TemporaryDirectory(prefix="cbsurgeon-") as folder:
            self.tell("exporting the original model for comparison")
            plain = Path(folder) / "original.onnx"
            deploy.export_onnx(self.model, plain, opset=opset, program=self.original)
            self.tell(f"timing original and edited model for {budget:.0f} s")
            result = checks.bench(plain, self.made.path, on="onnxruntime", budget=budget, progress=self.tell)
        named = replace(result, a=self.model.provenance.reference, b=str(self.final / ONNX))
        self.documents.append(named.to_dict())

    def finish(self, command: str) -> dict[str, Any]:
        """Write the report as JSON and as HTML."""
        document = {
            "schema": SCHEMA,
            "title": self.reference,
            "ok": bool(self.verdict) and (self.evaluated is None or bool(self.evaluated)),
            "directory": str(self.final),
            "command": command or None,
            "weights": self._weights(),
            "files": self._files(),
            "left_out": dict(self.left_out),
            "environment": environment(),
            "documents": self.documents,
        }
        (self.folder / PAGE).write_text(render_html([document]), encoding="utf-8")
        (self.folder / MARK).write_text(strict_json.dumps(document) + "\n", encoding="utf-8")
        return document

    def _weights(self) -> dict[str, Any]:
        """Return where the weights come from: reference, digest of its file, and digest of the weights shipped."""
        origin = self.model.provenance
        name = WEIGHTS if self.edited.module is not None else PROGRAM
        return {
            "reference": self.reference,
            "architecture": origin.architecture,
            "options": dict(origin.architecture_options),
            "sha256": origin.sha256,
            "source": origin.source,
            "entry": origin.entry,
            "other_entries": list(origin.other_entries),
            "shipped_sha256": sha256(self.folder / name),
        }

    def _placed(self, made: Export) -> dict[str, Any]:
        """Return an export's document with the final paths of its files."""
        beside = [self.final / file.name if file else None for file in (made.external_data, made.manifest)]
        moved = replace(made, path=self.final / made.path.name, external_data=beside[0], manifest=beside[1])
        return moved.to_dict()

    def _files(self) -> dict[str, Any]:
        return {
            file.name: {"bytes": file.stat().st_size, "sha256": sha256(file)} for file in sorted(self.folder.iterdir())
        }


def _require_packages() -> None:
    """Check before the work that all packages are installed.

    Raises:
        MissingPackage: onnx, onnxscript, onnxruntime, or a package for the report is not installed.
    """
    plots.require()
    for package in ("onnx", "onnxscript", "onnxruntime"):
        if importlib.util.find_spec(package) is None:
            raise missing(package, "onnx", "exporting to ONNX and verifying the file")

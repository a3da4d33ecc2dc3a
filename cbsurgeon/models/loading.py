"""``opened`` and ``load``: load a model from any reference or file."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager, nullcontext
from dataclasses import replace
from pathlib import Path
from typing import Any, Literal

from torch import nn

from cbsurgeon.errors import InputFileError, UsageError
from cbsurgeon.models import builders, spelling
from cbsurgeon.models import exported as program
from cbsurgeon.models import inputs as example
from cbsurgeon.models.builders import hf_directory
from cbsurgeon.models.builders.pretrained import is_tagged
from cbsurgeon.models.checkpoints.architecture import architecture, finish, left_mapped
from cbsurgeon.models.files import notes
from cbsurgeon.models.files import reading as files
from cbsurgeon.models.files import torch_archive as torch_file
from cbsurgeon.models.files.checkpoint import Checkpoint, open_file
from cbsurgeon.models.model import Model, Provenance
from cbsurgeon.models.reference import Reference
from cbsurgeon.options import Loading, resolve


class Opened:
    """A reference or file that was opened. Its recipes, if it has any, are inserted between the two steps.

    Attributes:
        recipes: insertions that the weights were trained with, oldest first.
    """

    recipes: notes.Recipes = ()

    def architecture(self) -> Model:
        """Return the model without insertions. Its weights are arbitrary if there are recipes."""
        raise NotImplementedError

    def finish(self, model: Model) -> Model:
        """Return the model with its weights, after the recipes were inserted into :meth:`architecture`."""
        return model


@contextmanager
def opened(
    reference: str | Path,
    loading: Loading | None = None,
    /,
    *,
    recipes: tuple[Mapping[str, Any], ...] = (),
    **keywords: Any,
) -> Iterator[Opened]:
    """Open a builder reference or a file, in a ``with`` statement; nothing is built before it is asked for.

    Args:
        reference: ``timm:NAME``, ``torchvision:NAME``, ``hf:CLASS``, ``hf:DIRECTORY``,
            ``mod:package.module:factory``, or a file.
        loading: how to read it; or its fields as keywords. Its ``recipe`` is ignored in favour of ``recipes``.
        recipes: insertions that the weights were trained with, for a checkpoint or a folder without recipes.

    Raises:
        UsageError: a bad reference or option (``CB-REF-*``, ``CB-INPUT-*``), a file that names no architecture
            (``CB-LOAD-20``) or one that needs code (``CB-LOAD-21``).
        InputFileError: the file cannot be read safely, or its weights do not fit (``CB-FIT-01``).
        MissingPackage: a library the reference needs is absent.
    """
    given = resolve(Loading, loading, keywords, "load")
    found = spelling.reference(str(reference))
    if isinstance(found, Reference):
        yield _named(found, given, recipes)
        return
    if given.pretrained or given.random_weights:
        raise UsageError(
            "a file has its own weights",
            code="CB-WEIGHTS-02",
            where=str(reference),
            why="the two flags choose weights for a reference such as timm:NAME",
            do=f"leave out {'--pretrained' if given.pretrained else '--random-weights'}",
        )
    files.readable(found)
    unused: dict[str, object] = {"--arch": given.arch, "--trained-with": recipes, "--model-option": given.options}
    if files.sniff(found) == "zip" and torch_file.is_program(found):
        program.require_trust(found, given.trust)
        unused |= {"--input": given.input, "--inputs": given.inputs, "--entry": given.entry}
        _refuse_unused(found, unused, "an exported program")
        yield _Complete(lambda: program.read(found, trust=given.trust))
        return
    content = open_file(found, trust=given.trust, entry=given.entry, digest=False)
    if isinstance(content, nn.Module):
        _refuse_unused(found, unused, "a pickled module")
        yield _Complete(functools.partial(_whole, found, content, given))
        return
    with nullcontext() if given.mapped else files.Digest(found) as digest:
        yield _Weights(content, given, recipes, digest)


def load(reference: str | Path, loading: Loading | None = None, /, **keywords: Any) -> Model:
    """Load a model that has no recipes; the arguments and errors are those of :func:`opened`.

    Raises:
        UsageError: it has recipes (``CB-LOAD-22``).
    """
    with opened(reference, loading, **keywords) as content:
        if content.recipes:
            raise UsageError(
                "the weights were saved with insertions",
                code="CB-LOAD-22",
                where=str(reference),
                why=f"{len(content.recipes)} recipes must be inserted before the weights are loaded",
                do="load it with cbsurgeon.load, which inserts them",
            )
        return content.finish(content.architecture())


class _Complete(Opened):
    """A model with all its weights."""

    def __init__(self, build: Callable[[], Model]) -> None:
        self._build = build

    def architecture(self) -> Model:
        return self._build()


class _Folder(Opened):
    """A transformers folder whose weights were trained with operators."""

    def __init__(self, path: Path, build: Callable[..., Model], recipes: notes.Recipes) -> None:
        self.recipes = recipes
        self._path, self._build = path, build

    def architecture(self) -> Model:
        return self._build(operators_follow=True)

    def finish(self, model: Model) -> Model:
        return hf_directory.fill(self._path, model)


class _Weights(Opened):
    """A file of weights, whose architecture is built from its name."""

    def __init__(
        self,
        content: Checkpoint,
        given: Loading,
        recipes: Sequence[Mapping[str, Any]],
        digest: files.Digest | None,
    ) -> None:
        if content.edited_beside and not recipes:
            raise InputFileError(
                "it is unknown whether these weights were trained with operators",
                code="CB-META-05",
                where=f"{content.path}, entry {content.entry}",
                why=f"entry {content.edited_beside} notes its operators, and this one was copied into a plain "
                "dictionary, which holds no notes",
                do="give the recipe (--trained-with, or cbs.load(file, recipe=...)), or --entry "
                f"{content.edited_beside}",
            )
        self.recipes = notes.joined(content.recipes, recipes, str(content.path))
        self._content = replace(content, recipes=self.recipes)
        self._given, self._digest = given, digest

    def architecture(self) -> Model:
        given = self._given
        return architecture(
            self._content,
            arch=given.arch,
            options=given.options,
            input=given.input,
            inputs=given.inputs,
            batch=given.batch,
            most_memory=given.max_memory,
        )

    def finish(self, model: Model) -> Model:
        mapped = left_mapped(model, self._content) if self._given.mapped else None
        filled = mapped or finish(model, self._content)
        if self._digest is None:
            return filled
        return replace(filled, provenance=replace(filled.provenance, sha256=self._digest.result()))


def _named(reference: Reference, given: Loading, recipes: tuple[Mapping[str, Any], ...]) -> Opened:
    """A model that a builder makes, or a folder."""
    if given.arch is not None:
        raise UsageError(
            "--arch is for files",
            code="CB-REF-01",
            where=str(reference),
            why="this reference names its architecture itself",
            do="leave out --arch",
        )
    folder = Path(reference.name) if builders.is_folder(reference) else None
    if recipes and folder is None:
        raise UsageError(
            "a recipe is for a file of weights",
            code="CB-REF-01",
            where=str(reference),
            why="it says what the weights in a file were trained with",
            do="insert it: cbs.insert(cbs.load(reference), recipe)",
        )
    build = functools.partial(
        builders.build,
        reference,
        options=given.options,
        input=given.input,
        inputs=given.inputs,
        batch=given.batch,
        weights=_which_weights(reference, given),
        most_memory=given.max_memory,
    )
    if folder is not None:
        trained_with = notes.joined(hf_directory.recipes(folder), recipes, str(folder / "config.json"))
        if trained_with:
            return _Folder(folder, build, trained_with)
    return _Complete(build)


def _which_weights(reference: Reference, given: Loading) -> Literal["random", "cached", "downloaded"]:
    """Which weights a reference gets; ``timm:NAME.TAG`` gets random ones only if the user asks for them."""
    if given.pretrained and given.random_weights:
        raise UsageError(
            "--pretrained and --random-weights exclude each other",
            code="CB-WEIGHTS-02",
            where=str(reference),
            why="a model has one set of weights",
            do="give one of the two",
        )
    if given.pretrained:
        return "downloaded"
    return "cached" if is_tagged(reference) and not given.random_weights else "random"


def _refuse_unused(path: Path, options: Mapping[str, object], what: str) -> None:
    """Refuse options that do not apply to a file that holds a whole model."""
    given = [name for name, value in options.items() if value]
    if given:
        raise UsageError(
            f"{given[0]} has no meaning for {what}",
            code="CB-LOAD-23",
            where=str(path),
            why="it contains its architecture and insertions"
            + (" and example inputs" if what == "an exported program" else ""),
            do=f"leave out {' and '.join(given)}",
        )


def _whole(path: Path, module: nn.Module, given: Loading) -> Model:
    """Return a trusted pickled module as a model."""
    origin = Provenance(str(path), sha256=files.digest(path), source="file")
    model = replace(builders.guess(module.eval(), given.batch), provenance=origin)
    if given.input is not None or given.inputs is not None:
        return example.override(model, input=given.input, inputs=given.inputs, batch=given.batch)
    return example.require(model)

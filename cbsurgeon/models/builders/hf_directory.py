"""``hf:DIRECTORY``: a transformers folder with ``config.json`` and safetensors; never its code, never its pickles."""

from __future__ import annotations

import warnings
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from cbsurgeon.errors import InputFileError, UsageError, missing
from cbsurgeon.models.builders import transformers
from cbsurgeon.models.builders.options import checked, reason
from cbsurgeon.models.files import metadata, notes
from cbsurgeon.models.files import reading as files
from cbsurgeon.models.files.safetensors import reading as safetensors_file
from cbsurgeon.models.model import Model, Provenance
from cbsurgeon.models.reference import Reference

LARGEST_CONFIG = 8 << 20
"""Largest size in bytes of config.json."""
_DROPPED = ("_name_or_path", "architectures", "model_type", "transformers_version", "torch_dtype", "dtype")
_SHOWN = 3
_RECIPES = "cbsurgeon"
"""Entry of config.json with the recipes that an insertion wrote into the configuration."""
_UNKNOWN_OPERATORS = "the operators it was trained with, if any: --trained-with recipe.json"


def recipes(folder: Path) -> notes.Recipes:
    """Return the recipes in a folder's ``config.json``: the insertions that its weights were trained with.

    Raises:
        UsageError: there is no such folder (``CB-REF-02``).
        InputFileError: config.json is missing or asks for code (``CB-HF-01``, ``CB-HF-02``).
    """
    _require(folder)
    return notes.of_configuration(_config(folder).get(_RECIPES), str(folder / "config.json"))


def read(folder: Path, options: dict[str, Any], batch: int, *, operators_follow: bool = False) -> Model:
    """Read a folder with transformers, which knows the keys of older checkpoints.

    The configuration and every weight file are checked first. Afterwards, every parameter must have come from the
    files.

    Args:
        folder: what ``save_pretrained`` or a ``Trainer`` wrote.
        options: options of the configuration; they override those of the folder.
        batch: samples in the example inputs.
        operators_follow: the caller inserts the folder's :func:`recipes` into the result and then calls :func:`fill`,
            which reads the weights again and compares the keys.

    Raises:
        UsageError: there is no such folder (``CB-REF-02``).
        InputFileError: config.json is missing or asks for code (``CB-HF-01``, ``CB-HF-02``); no safetensors, or
            weights that do not fit (``CB-HF-03``, ``CB-FIT-01``).
        MissingPackage: transformers is not installed.
    """
    _require(folder)
    try:
        import transformers as library
    except ImportError as error:
        raise missing("transformers", "hf", "an hf: reference") from error

    config = _config(folder)
    _check_weights(folder)
    name = _class_name(folder, config)
    model_class = transformers.find_class(library, Reference("hf", name))
    given = {key: value for key, value in config.items() if key not in (*_DROPPED, _RECIPES)}
    module, report = _from_pretrained(folder, model_class, model_class.config_class(**{**given, **options}))
    if not operators_follow:
        _refuse_misfits(folder, report)
    model = transformers.with_inputs(module, batch)
    single = folder / "model.safetensors"
    digest = files.digest(single) if single.exists() else None
    origin = Provenance(f"hf:{folder}", f"hf:{name}", {**given, **options}, digest, source="file")
    return Model(module, model.example_inputs, origin, model.example_kwargs)


def fill(folder: Path, model: Model) -> Model:
    """Load a folder's weights into the model that :func:`read` returned, after its operators were inserted.

    The module is changed in place. transformers renames keys of its files, and renames those of the operators in the
    same way.

    Raises:
        InputFileError: the weights do not fit the architecture and its operators (``CB-FIT-01``).
    """
    module: Any = model.module

    def existing(*_: object, **__: object) -> Any:
        return module

    # `from_pretrained` calls the class to build the model. This class returns the edited one.
    own = type(module)
    filled = type(own.__name__, (own,), {"__new__": existing, "__module__": own.__module__})
    _, report = _from_pretrained(folder, filled, module.config)
    _refuse_misfits(folder, report, "the recipe")
    module.eval()
    return model


def _require(folder: Path) -> None:
    if not folder.is_dir():
        raise UsageError(
            "there is no such transformers class or folder",
            code="CB-REF-02",
            where=f"hf:{folder}",
            why="cbsurgeon does not download models",
            do=f"hf download {folder} --local-dir DIR, then hf:DIR; or name a class: hf:ViTForImageClassification",
        )


def _config(folder: Path) -> dict[str, Any]:
    path = files.readable(folder / "config.json")
    if files.size(path) > LARGEST_CONFIG:
        raise _refusal(path, "CB-HF-01", f"it has more than {LARGEST_CONFIG >> 20} MiB")
    try:
        config = metadata.parse_json(path.read_bytes(), str(path), LARGEST_CONFIG)
    except InputFileError as error:
        raise _refusal(path, "CB-HF-01", error.why) from error
    if not isinstance(config, dict):
        raise _refusal(path, "CB-HF-01", "it is not an object")
    if "auto_map" in config:
        raise _refusal(path, "CB-HF-02", "auto_map asks to run Python files from the folder, which is never done")
    try:
        checked({key: value for key, value in config.items() if key not in _DROPPED}, Reference("hf", str(folder)))
    except UsageError as error:
        raise _refusal(path, "CB-HF-02", f"{error.what}: {error.why}") from error
    if (folder / "adapter_config.json").exists():
        raise _refusal(path, "CB-HF-02", "the folder holds an adapter, which would fetch its base model")
    return config


def _check_weights(folder: Path) -> None:
    index = folder / "model.safetensors.index.json"
    single = folder / "model.safetensors"
    if index.exists():
        safetensors_file.read_index(files.readable(index))
    elif single.exists():
        safetensors_file.read_header(files.readable(single))
    else:
        pickles = [path.name for path in folder.glob("*.bin")]
        why = "it has no model.safetensors" + (f"; {pickles[0]} is a pickle and is not read here" if pickles else "")
        raise _refusal(folder, "CB-HF-03", why, do="convert it: model.save_pretrained(folder, safe_serialization=True)")


def _class_name(folder: Path, config: dict[str, Any]) -> str:
    named = config.get("architectures")
    if isinstance(named, list) and len(named) == 1 and isinstance(named[0], str) and named[0].isidentifier():
        return named[0]
    raise _refusal(folder / "config.json", "CB-HF-01", "architectures does not name one model class")


def _from_pretrained(folder: Path, model_class: Any, config: Any) -> tuple[Any, Mapping[str, Any]]:
    """The module with the folder's weights, and what transformers reports about keys that do not fit."""
    transformers.prepare(config)
    try:
        with transformers.offline(), _quiet():
            module, report = model_class.from_pretrained(
                folder,
                config=config,
                local_files_only=True,
                use_safetensors=True,
                ignore_mismatched_sizes=True,  # reported by `_refuse_misfits`, in our own words
                trust_remote_code=False,
                output_loading_info=True,
            )
    except (OSError, ValueError, RuntimeError, KeyError, TypeError) as error:
        raise _refusal(folder, "CB-HF-03", reason(error)) from error
    return module.eval(), report


def _refuse_misfits(folder: Path, report: Mapping[str, Any], operators: str = _UNKNOWN_OPERATORS) -> None:
    """Refuse unless every parameter came from the files and every tensor in the files was used."""
    problems = [
        f"{len(keys)} keys are {word}, first {', '.join(sorted(map(str, keys))[:_SHOWN])}"
        for word, keys in (
            ("missing from the file", report["missing_keys"]),
            ("not in the architecture", report["unexpected_keys"]),
            ("of another shape", report["mismatched_keys"]),
        )
        if keys
    ]
    if not problems:
        return
    raise InputFileError(
        "the weights do not fit the architecture",
        code="CB-FIT-01",
        where=str(folder),
        why="; ".join(problems),
        do=f"check config.json and {operators}",
    )


@contextmanager
def _quiet() -> Iterator[None]:
    """Keep the library's progress bar and report off the terminal; its findings are checked afterwards."""
    from transformers.utils import logging

    level, bar = logging.get_verbosity(), logging.is_progress_bar_enabled()
    logging.set_verbosity_error()
    logging.disable_progress_bar()
    try:
        with warnings.catch_warnings():
            warnings.simplefilter("ignore")
            yield
    finally:
        logging.set_verbosity(level)
        if bar:
            logging.enable_progress_bar()


def _refusal(path: Path, code: str, why: str, do: str = "") -> InputFileError:
    return InputFileError(
        "the model folder cannot be read", code=code, where=str(path), why=why, do=do or "use a folder you know"
    )

"""``mod:package.module:factory`` and ``mod:path/to/file.py:factory``: a user's own function that returns a model.

The user's code runs, as it would under ``python -c``; a *file* that names such a factory is not enough to run it
(see :func:`cbsurgeon.models.files.checkpoint.Checkpoint.trusted_architecture`).
"""

from __future__ import annotations

import hashlib
import importlib
import importlib.util
import inspect
import sys
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch
from torch import nn

from cbsurgeon.errors import CBSurgeonError, UsageError, nearest
from cbsurgeon.models.builders.options import reason
from cbsurgeon.models.model import Model
from cbsurgeon.models.reference import Reference


def build(reference: Reference, options: dict[str, Any], batch: int) -> Model:
    """Call the factory with ``options`` as keyword arguments.

    It returns an ``nn.Module``, ``(module, example_inputs)`` with a tensor, a tuple of positional inputs or a mapping
    of keyword inputs, or a :class:`~cbsurgeon.models.model.Model`, which is returned unchanged. ``batch`` applies only
    to inputs that come from the module's configuration.

    Raises:
        UsageError: the module or the factory does not exist, the call fails, or it returns something else
            (``CB-REF-04``).
    """
    produced = _call(reference, _find(reference), options)
    if isinstance(produced, Model):
        return produced
    if isinstance(produced, nn.Module):
        return with_inputs(produced.eval(), options, batch)
    if isinstance(produced, tuple) and len(produced) == 2 and isinstance(produced[0], nn.Module):
        module, given = produced
        if isinstance(given, torch.Tensor):
            return Model(module.eval(), (given,))
        if isinstance(given, Mapping):
            return Model(module.eval(), (), example_kwargs=dict(given))
        if isinstance(given, tuple | list):
            return Model(module.eval(), tuple(given))
    raise _failure(
        reference,
        f"the factory returned {type(produced).__name__}",
        "it returns an nn.Module, (module, example_inputs), or a cbsurgeon Model",
    )


def _find(reference: Reference) -> Any:
    package, colon, path = reference.name.partition(":")
    if not colon or not package or not path:
        raise _failure(
            reference, "the reference has no factory", "write mod:package.module:factory or mod:path/to/file.py:factory"
        )
    try:
        found: Any = _from_file(Path(package)) if package.endswith(".py") else _from_module(package)
    except FileNotFoundError as error:
        raise _failure(reference, f"there is no file {package}", "check the path") from error
    except ModuleNotFoundError as error:
        raise _failure(reference, reason(error), "check the spelling, or run from the folder that holds it") from error
    except (Exception, SystemExit) as error:
        # Importing runs the user's module, which may raise anything, and end the program where it is a script.
        raise _failure(reference, f"importing {package} failed: {reason(error)}", "fix the module") from error
    for name in path.split("."):
        if not hasattr(found, name):
            near = nearest(name, (other for other in dir(found) if not other.startswith("_")), 1)
            raise _failure(
                reference,
                f"{package} has no {name!r}",
                f"did you mean mod:{package}:{near[0]}?" if near else "check the spelling",
            )
        found = getattr(found, name)
    return found


def _from_module(name: str) -> Any:
    here = str(Path.cwd())
    if here not in sys.path:
        # A user's own model file is usually in the current folder; it comes last, so that it shadows no library.
        sys.path.append(here)
    return importlib.import_module(name)


def _from_file(path: Path) -> Any:
    """Import a Python file, which may import files beside it. The same file is imported only once."""
    where = path.resolve(strict=True)
    for module in list(sys.modules.values()):
        if getattr(module, "__file__", None) == str(where):
            return module
    if str(where.parent) not in sys.path:
        sys.path.append(str(where.parent))
    plain = None if "." in where.stem else importlib.util.find_spec(where.stem)
    if plain is not None and plain.origin == str(where):
        return importlib.import_module(where.stem)
    name = f"{where.stem}_{hashlib.sha256(str(where).encode()).hexdigest()[:8]}"  # another module has the plain name
    spec = importlib.util.spec_from_file_location(name, where)
    assert spec is not None and spec.loader is not None  # the suffix is .py
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module
    try:
        spec.loader.exec_module(module)
    except BaseException:
        del sys.modules[name]
        raise
    return module


def _call(reference: Reference, factory: Any, options: dict[str, Any]) -> Any:
    if isinstance(factory, nn.Module | Model) and not options:
        return factory
    if not callable(factory):
        raise _failure(reference, f"it is a {type(factory).__name__}, not a function", "name a function or a class")
    try:
        signature = inspect.signature(factory)
        signature.bind(**options)
    except ValueError as error:  # a class of C code has no signature
        raise _failure(reference, reason(error), "write a function that builds the model") from error
    except TypeError as error:
        taken, advice = list(signature.parameters), "leave the options out"
        if taken:
            advice = f"give what it takes ({', '.join(taken)}), such as --model-option {taken[0]}=VALUE"
        raise _failure(reference, reason(error), advice) from error
    try:
        return factory(**options)
    except CBSurgeonError:
        raise
    except (Exception, SystemExit) as error:
        raise _failure(reference, f"the call failed: {reason(error)}", "fix the factory") from error


def with_inputs(module: nn.Module, options: dict[str, Any], batch: int) -> Model:
    """Return the module as a model, with inputs from its timm or transformers configuration, if it has one."""
    from cbsurgeon.models import inputs
    from cbsurgeon.models.builders import timm, transformers

    if hasattr(module, "main_input_name") and hasattr(module, "config"):
        return transformers.with_inputs(module, batch)
    shape = timm.input_size(module, options)
    return Model(module, () if shape is None else (inputs.image(batch, *shape),))


def _failure(reference: Reference, why: str, do: str) -> UsageError:
    return UsageError("the factory gave no model", code="CB-REF-04", where=str(reference), why=why, do=do)

"""Copy modules: keep what ``copy.deepcopy`` loses, and unwrap submodules that ``torch.compile`` wrapped."""

from __future__ import annotations

import copy
import sys
from collections.abc import Iterator
from dataclasses import replace
from typing import Any

from torch import Tensor, nn
from torch.utils import _pytree as pytree

from cbsurgeon.models.model import Model

_WRAPPED = "_orig_mod"
"""Name under which ``torch.compile`` keeps the module it wraps."""

_HOOKS = (
    "_forward_hooks",
    "_forward_hooks_with_kwargs",
    "_forward_hooks_always_called",
    "_forward_pre_hooks",
    "_forward_pre_hooks_with_kwargs",
    "_backward_hooks",
    "_backward_pre_hooks",
    "_state_dict_hooks",
    "_state_dict_pre_hooks",
    "_load_state_dict_pre_hooks",
    "_load_state_dict_post_hooks",
)


def is_compiled(module: nn.Module) -> bool:
    """Whether a module is the wrapper ``torch.compile`` returns."""
    dynamo = sys.modules.get("torch._dynamo.eval_frame")  # imported by the first call of torch.compile
    return dynamo is not None and isinstance(module, dynamo.OptimizedModule)


def has_compiled(module: nn.Module) -> bool:
    """Whether a module is, or contains, a wrapper of ``torch.compile``."""
    return any(is_compiled(part) for part in module.modules())


def named_parts(module: nn.Module) -> Iterator[tuple[str, nn.Module]]:
    """Yield every module once with its path, like ``named_modules``, but without the wrappers of ``torch.compile``.

    ``_orig_mod`` is left out of the paths.
    """
    for path, part in module.named_modules():
        if not is_compiled(part):
            yield _unwrapped(path), part


def parts_by_path(module: nn.Module) -> dict[str, nn.Module]:
    """Return every module by its path, like :func:`named_parts`; a module with several paths is under each of them."""
    named = module.named_modules(remove_duplicate=False)
    return {_unwrapped(path): part for path, part in named if not is_compiled(part)}


def _unwrapped(path: str) -> str:
    return ".".join(name for name in path.split(".") if name != _WRAPPED)


def duplicate(module: nn.Module, *, share: bool = False) -> nn.Module:
    """Return an independent copy of a module, in which nothing is wrapped by ``torch.compile``.

    Beyond ``copy.deepcopy`` it copies modules that hold computed tensors (pruning, ``weight_norm`` and
    ``spectral_norm`` leave the effective weight there, with its gradient's history), and it restores the training
    mode and hooks of modules whose ``__setstate__`` calls ``__init__`` again.

    Args:
        module: what to copy; unchanged.
        share: the copy holds the same parameters and buffers instead of copies of them.
    """
    memo: dict[int, Any] = {}
    if share:
        memo |= {id(tensor): tensor for tensor in (*module.parameters(), *module.buffers())}
    parts = list(module.modules())
    for part in parts:
        for leaf in pytree.tree_leaves({**vars(part), "_parameters": None, "_modules": None, "_buffers": None}):
            if isinstance(leaf, Tensor) and not leaf.is_leaf and id(leaf) not in memo:
                memo[id(leaf)] = leaf.detach().clone()
    for part in reversed(parts):  # inner wrappers first
        if is_compiled(part):
            memo[id(part)] = copy.deepcopy(part._modules[_WRAPPED], memo)
    result: nn.Module = copy.deepcopy(module, memo)
    for (_, before), (_, after) in zip(named_parts(module), named_parts(result), strict=True):
        _restore(before, after, memo)
    return result


def _restore(before: nn.Module, after: nn.Module, memo: dict[int, Any]) -> None:
    """Restore the training mode and hooks of the original that a copy has lost."""
    after.training = before.training
    for name in _HOOKS:
        mine, theirs = getattr(before, name, None), getattr(after, name, None)
        if mine and theirs is not None and list(mine) != list(theirs):
            theirs.clear()
            theirs.update(copy.deepcopy(mine, memo))


def without_compiled(model: Model) -> Model:
    """Return the same model with submodules unwrapped from ``torch.compile``; it shares all tensors."""
    if model.module is None or not has_compiled(model.module):
        return model
    return replace(model, module=duplicate(model.module, share=True))

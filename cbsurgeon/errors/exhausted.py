"""Recognising memory that could not be allocated among other exceptions.

PyTorch raises RuntimeError for it, like for inputs that a model does not take. Code that tries inputs, and takes an
exception for the answer "the model does not take them", must let it pass.
"""

from __future__ import annotations

_NO_MEMORY = ("DefaultCPUAllocator", "Storage size calculation overflowed", "numel: integer multiplication overflow")
"""Parts of PyTorch's messages about a tensor that is too large."""


def out_of_memory(error: BaseException) -> bool:
    """Whether memory could not be allocated, on the CPU or on a GPU, or its size not even be stated in bytes."""
    names = {kind.__name__ for kind in type(error).__mro__}
    said = str(error) if isinstance(error, RuntimeError) else ""
    return bool(names & {"MemoryError", "OutOfMemoryError"}) or any(words in said for words in _NO_MEMORY)


def pass_out_of_memory(error: BaseException) -> None:
    """Raise a MemoryError if memory could not be allocated; do nothing for any other exception.

    Raises:
        MemoryError: with the message of the exception.
    """
    if out_of_memory(error):
        raise MemoryError(" ".join(str(error).split())) from error

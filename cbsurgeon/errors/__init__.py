"""The errors cbsurgeon raises, the table of their codes, and the nearest valid value for a misspelt one.

Belongs here: the error classes with their exit codes (``classes``), the explanation of every code (``table`` and
``codes/``), and the search for a similar word (``similar``), and memory that
ran out (``exhausted``). The messages themselves are written where they are raised.
Nothing here imports torch or any other package of cbsurgeon.

Not here: translating other programs' exceptions (``cli.failure``).
"""

from cbsurgeon.errors.classes import (
    CaptureError,
    CBSurgeonError,
    CheckFailed,
    ExportError,
    InputFileError,
    MissingPackage,
    NothingMatched,
    OutputFileError,
    SurgeryError,
    UsageError,
    missing,
)
from cbsurgeon.errors.exhausted import out_of_memory, pass_out_of_memory
from cbsurgeon.errors.similar import did_you_mean, nearest
from cbsurgeon.errors.table import AREAS, Explanation, explain, explanations

__all__ = [
    "AREAS",
    "CBSurgeonError",
    "CaptureError",
    "CheckFailed",
    "Explanation",
    "ExportError",
    "InputFileError",
    "MissingPackage",
    "NothingMatched",
    "OutputFileError",
    "SurgeryError",
    "UsageError",
    "did_you_mean",
    "explain",
    "explanations",
    "missing",
    "nearest",
    "out_of_memory",
    "pass_out_of_memory",
]

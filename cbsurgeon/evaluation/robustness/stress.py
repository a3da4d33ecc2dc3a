"""Parsing ``--robust``: corruptions and attacks with their strengths."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from cbsurgeon.data.corruptions import CORRUPTIONS
from cbsurgeon.errors import UsageError, did_you_mean
from cbsurgeon.evaluation.robustness.attacks import ATTACKS


@dataclass(frozen=True)
class Stress:
    """One corruption or attack at one strength.

    Attributes:
        name: ``occlusion``, ``noise``, ``shot``, ``blur``, ``fgsm`` or ``pgd``.
        strength: its strength, in the unit of :data:`CORRUPTIONS` or :data:`ATTACKS`.
        seeds: number of repetitions with different random numbers.
    """

    name: str
    strength: float
    seeds: int = 1

    @property
    def key(self) -> str:
        """Its name in results, such as ``noise=5``."""
        return f"{self.name}={self.strength:g}"

    @property
    def attack(self) -> bool:
        """Whether it uses the gradient of a model."""
        return self.name in ATTACKS

    @property
    def words(self) -> str:
        """Its description for reports."""
        unit = ATTACKS[self.name] if self.attack else CORRUPTIONS[self.name].unit
        return unit.format(f"{self.strength:g}")


def stresses(asked: Sequence[str], seeds: int) -> tuple[Stress, ...]:
    """Parse the corruptions and attacks requested with ``--robust``.

    Args:
        asked: names, optionally with strengths: ``noise``, ``noise=5``, ``fgsm=2``.
        seeds: number of repetitions of random corruptions.

    Raises:
        UsageError: an unknown corruption or attack, or an invalid strength (``CB-EVAL-07``).
    """
    found: list[Stress] = []
    known = (*CORRUPTIONS, *ATTACKS)
    for word in asked:
        name, equals, text = word.partition("=")
        strengths = _strengths(name, text, bool(equals))
        if name not in known or not strengths:
            raise UsageError(
                f"--robust does not know {word!r}",
                code="CB-EVAL-07",
                where=f"--robust {','.join(asked)}",
                why=f"it accepts {', '.join(known)}, optionally with a strength above 0, such as noise=5",
                do=did_you_mean(name, known) or "--robust occlusion,fgsm",
            )
        random = name in CORRUPTIONS and CORRUPTIONS[name].random
        found += [Stress(name, strength, seeds if random else 1) for strength in strengths]
    return tuple(dict.fromkeys(found))


def _strengths(name: str, text: str, given: bool) -> tuple[float, ...]:
    if given:
        try:
            number = float(text)
        except ValueError:
            return ()
        return (number,) if 0 < number < 1e6 and (name != "occlusion" or number <= 1) else ()
    return CORRUPTIONS[name].strengths if name in CORRUPTIONS else (1.0,)

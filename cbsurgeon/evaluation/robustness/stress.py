"""What ``--robust`` asks for: names and strengths."""

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
        strength: how strong, in the unit of :data:`CORRUPTIONS` or :data:`ATTACKS`.
        seeds: how often it is repeated with other random numbers.
    """

    name: str
    strength: float
    seeds: int = 1

    @property
    def key(self) -> str:
        """Its name in results: ``noise=5``."""
        return f"{self.name}={self.strength:g}"

    @property
    def attack(self) -> bool:
        """It follows the gradient of a model."""
        return self.name in ATTACKS

    @property
    def words(self) -> str:
        """What is done, for people."""
        unit = ATTACKS[self.name] if self.attack else CORRUPTIONS[self.name].unit
        return unit.format(f"{self.strength:g}")


def stresses(asked: Sequence[str], seeds: int) -> tuple[Stress, ...]:
    """What to do to the images.

    Args:
        asked: names, or names with strengths: ``noise``, ``noise=5``, ``fgsm=2``.
        seeds: repetitions of what is random.

    Raises:
        UsageError: no such corruption or attack, or no strength (``CB-EVAL-07``).
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
                why=f"it takes {', '.join(known)}, each with a strength above 0 if you like, such as noise=5",
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

"""Synthetic timings of a shared machine, with a known true ratio."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from cbsurgeon.checks.latency.sampling import ROTATION
from cbsurgeon.checks.latency.statistics import Values, log_ratios


@dataclass(frozen=True)
class Machine:
    """Disturbances, as standard deviations of the logarithm of a sample's time.

    Attributes:
        noise: of a sample, autocorrelated from one to the next by ``memory``.
        luck: of a whole process, for B and for the control arm (memory layout, kernel choice).
        drift: of the slope over a process, and half of it as the height of a slow wave.
        outliers: share of samples that take exponentially longer, by 30 % on average.
    """

    noise: float = 0.015
    memory: float = 0.5
    luck: float = 0.003
    drift: float = 0.05
    outliers: float = 0.03


def timings(
    machine: Machine, effect: float, runs: int, processes: int, groups: int, seed: int
) -> tuple[Values, Values, Values]:
    """Seconds of A, B and control, each ``[runs, processes, groups, 2]``; B is slower by ``effect``."""
    rng = np.random.default_rng(seed)
    shape, length = (runs, processes), groups * 6
    noise = rng.standard_normal((*shape, length))
    for step in range(1, length):
        noise[..., step] *= np.sqrt(1 - machine.memory**2)
        noise[..., step] += machine.memory * noise[..., step - 1]
    time = np.linspace(0.0, 1.0, length)
    slope = machine.drift * rng.standard_normal((*shape, 1))
    turns, phase = rng.uniform(0.5, 4.0, (*shape, 1)), rng.random((*shape, 1))
    logs = machine.noise * noise + slope * time + machine.drift / 2 * np.sin(2 * np.pi * (time * turns + phase))
    logs += (rng.random(logs.shape) < machine.outliers) * rng.exponential(0.3, logs.shape)
    orders = np.array(ROTATION)[np.arange(groups) % len(ROTATION)]
    luck = machine.luck * rng.standard_normal((*shape, 2))
    offsets = np.stack([np.zeros(shape), np.log1p(effect) + luck[..., 0], luck[..., 1]], axis=-1)
    logs += offsets[..., orders.ravel()]
    rows = np.exp(logs.reshape(*shape, groups, 6))
    places = [np.stack([np.flatnonzero(order == arm) for order in orders]) for arm in range(3)]
    a, b, control = (np.take_along_axis(rows, place[None, None], axis=-1) for place in places)
    return a, b, control


def ratios(machine: Machine, effect: float, runs: int, processes: int, groups: int, seed: int) -> tuple[Values, Values]:
    """Log-ratios of B and of the control arm against A, each ``[runs, processes, groups]``."""
    a, b, control = timings(machine, effect, runs, processes, groups, seed)
    return log_ratios(a, b), log_ratios(a, control)

"""Checks of edited and exported models: parity with bisection, leaks, cost, latency.

Belongs here: comparing two models or measuring one, with confidence intervals and verdicts. Not here: running a model
(``deploy.runtimes``), accuracy on data (``evaluation``), formatting a result (``report``).
"""

from typing import TYPE_CHECKING

from cbsurgeon import lazy

if TYPE_CHECKING:
    from cbsurgeon.checks.cost.auditing import audit, count
    from cbsurgeon.checks.cost.counts import Audit, Count, Inserted, Tally
    from cbsurgeon.checks.latency.benchmark import bench
    from cbsurgeon.checks.latency.comparison import compare, compare_processes
    from cbsurgeon.checks.latency.result import Benchmark
    from cbsurgeon.checks.latency.sampling import Timed
    from cbsurgeon.checks.latency.sweeping import Sweep, sweep
    from cbsurgeon.checks.leaks import Leak, future_leak, leaks_of, padding_leak
    from cbsurgeon.checks.parity.bisection import bisect, end_nodes
    from cbsurgeon.checks.parity.comparison import verify
    from cbsurgeon.checks.parity.located import Bisection, BlockGap
    from cbsurgeon.checks.parity.result import Verification
    from cbsurgeon.checks.parity.row import Row, Side, Tolerance

_MODULES = {
    "cbsurgeon.checks.cost.auditing": (
        "audit",
        "count",
    ),
    "cbsurgeon.checks.cost.counts": (
        "Audit",
        "Count",
        "Inserted",
        "Tally",
    ),
    "cbsurgeon.checks.latency.benchmark": ("bench",),
    "cbsurgeon.checks.latency.comparison": (
        "compare",
        "compare_processes",
    ),
    "cbsurgeon.checks.latency.result": ("Benchmark",),
    "cbsurgeon.checks.latency.sampling": ("Timed",),
    "cbsurgeon.checks.latency.sweeping": (
        "Sweep",
        "sweep",
    ),
    "cbsurgeon.checks.leaks": (
        "Leak",
        "future_leak",
        "leaks_of",
        "padding_leak",
    ),
    "cbsurgeon.checks.parity.bisection": (
        "bisect",
        "end_nodes",
    ),
    "cbsurgeon.checks.parity.comparison": ("verify",),
    "cbsurgeon.checks.parity.located": (
        "Bisection",
        "BlockGap",
    ),
    "cbsurgeon.checks.parity.result": ("Verification",),
    "cbsurgeon.checks.parity.row": (
        "Row",
        "Side",
        "Tolerance",
    ),
}

__all__ = [
    "Audit",
    "Benchmark",
    "Bisection",
    "BlockGap",
    "Count",
    "Inserted",
    "Leak",
    "Row",
    "Side",
    "Sweep",
    "Tally",
    "Timed",
    "Tolerance",
    "Verification",
    "audit",
    "bench",
    "bisect",
    "compare",
    "compare_processes",
    "count",
    "end_nodes",
    "future_leak",
    "leaks_of",
    "padding_leak",
    "sweep",
    "verify",
]

__getattr__, __dir__ = lazy.attach(__name__, _MODULES)

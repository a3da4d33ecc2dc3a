"""Checking what was made: parity, bisection, leaks, cost, latency."""

from cbsurgeon.checks.bisection import bisect, end_nodes
from cbsurgeon.checks.cost import Audit, Count, Inserted, Tally
from cbsurgeon.checks.cost_audit import audit, count
from cbsurgeon.checks.latency import Benchmark
from cbsurgeon.checks.latency_bench import bench
from cbsurgeon.checks.latency_compare import Timed, compare, compare_processes
from cbsurgeon.checks.latency_sweep import Sweep, sweep
from cbsurgeon.checks.leaks import Leak, future_leak, padding_leak
from cbsurgeon.checks.parity import verify
from cbsurgeon.checks.parity_result import Bisection, BlockGap, Row, Side, Tolerance, Verification

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
    "padding_leak",
    "sweep",
    "verify",
]

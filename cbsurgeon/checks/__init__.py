"""Checking what was made: parity, bisection, cost, latency."""

from cbsurgeon.checks.parity_result import Bisection, BlockGap, Row, Side, Tolerance, Verification

__all__ = ["Bisection", "BlockGap", "Row", "Side", "Tolerance", "Verification"]

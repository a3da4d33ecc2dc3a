"""Residual branches, and what stands on them from the stream to the residual add."""

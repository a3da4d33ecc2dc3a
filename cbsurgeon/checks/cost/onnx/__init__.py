"""Counting an ONNX file: shapes by shape inference, each node by the rule of the corresponding ATen operator.

Belongs here: whatever counting an ONNX file needs beyond the rules for ATen operators. Not here: reading the file
safely (``deploy.onnx.file``).
"""

"""Counting an ONNX file: shapes by inference, each node by the rule of the ATen operator it corresponds to."""

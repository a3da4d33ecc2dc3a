"""Counting an ONNX file: shapes by inference, each node by the rule of the ATen operator it corresponds to.

Belongs here: what counting an ONNX file needs beyond the rules for ATen operators. Not here: reading the file safely
(``deploy.onnx.file``).
"""

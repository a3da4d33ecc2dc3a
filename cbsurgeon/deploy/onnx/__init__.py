"""ONNX files: exporting a captured program, and reading a file back.

Belongs here: the rewrites of a program before ``torch.onnx``, and of the ONNX model after it. Not here: running the
file (``deploy.runtimes``).
"""

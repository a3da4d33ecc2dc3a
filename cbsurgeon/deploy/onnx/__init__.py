"""ONNX files: exporting a captured program, and reading a file back.

Belongs here: what is done to a program before ``torch.onnx`` and to the file after it. Not here: running the file
(``deploy.runtimes``).
"""

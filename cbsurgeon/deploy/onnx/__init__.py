"""ONNX files: exporting a captured program, and reading a file back."""

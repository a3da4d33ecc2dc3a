"""TensorRT engines: building one from an ONNX file."""

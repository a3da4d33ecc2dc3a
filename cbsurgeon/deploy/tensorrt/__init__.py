"""TensorRT engines: building one from an ONNX file.

Belongs here: builders, profiles and targets. Not here: running an engine (``deploy.runtimes``), its manifest
(``deploy.manifest``).
"""

"""TensorRT engines: building one from an ONNX file.

Belongs here: builder options, batch profiles and GPU targets. Not here: running an engine (``deploy.runtimes``), its
manifest (``deploy.manifest``).
"""

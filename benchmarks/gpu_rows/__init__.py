"""The rows of ``gpu.py``: what is measured, and the measurements of one group of rows in a process of its own."""

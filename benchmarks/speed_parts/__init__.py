"""The parts of ``tool_speed.py``."""

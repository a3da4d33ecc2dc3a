"""Files: read without running code, written complete or not at all."""

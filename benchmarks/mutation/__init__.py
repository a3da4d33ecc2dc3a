"""The parts of ``benchmarks/mutants.py``: the tests of each line, the mutants, and the trial of one."""

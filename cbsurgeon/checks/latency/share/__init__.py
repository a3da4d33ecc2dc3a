"""Own time: the run time of operators that only the candidate executes, measured by the back end's profiler.

Belongs here: reading a profiler and finding the inserted operators in it. Not here: the statistics of whole runs
(``checks.latency``).
"""

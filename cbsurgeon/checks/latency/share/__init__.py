"""Own time: what a candidate executes beyond its baseline, timed by the profiler of the back end that runs both.

Belongs here: reading a profiler and telling inserted operators from the rest. Not here: the statistics of whole runs
(``checks.latency``).
"""

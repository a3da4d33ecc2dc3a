"""Own time: what a candidate executes beyond its baseline, timed by the profiler of the back end that runs both."""

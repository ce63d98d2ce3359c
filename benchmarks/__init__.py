"""Benchmarks: what the engine costs, beside the floor of the same work measured in the same run.

`python -m benchmarks` prints the table; docs/benchmarks.md says how to read it. May import the engine, anyio and the
standard library (trio where it is installed). Must never be imported by the engine.
"""

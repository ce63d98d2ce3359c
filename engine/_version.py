"""The version of the package, and nothing else: read by setup.cfg without importing the dependencies."""

__version__ = "0.1.0"

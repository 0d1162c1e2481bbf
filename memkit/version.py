"""The version of memkit; pyproject.toml reads it here, and saved folders state it."""

__version__ = "0.1.0"

"""The run-time type check of the tests."""

from beartype import BeartypeConf, beartype

checked = beartype(conf=BeartypeConf(is_pep484_tower=True))
"""Checks a function's annotations at each call; as for static checkers, an int is a float."""

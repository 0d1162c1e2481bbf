"""Shapes in signatures are checked at run time in the tests."""

from jaxtyping import install_import_hook

install_import_hook("memkit", "beartype.beartype")

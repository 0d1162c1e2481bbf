"""`own_encoder`: the class that a dotted path names, such as "mypackage.encoders:MyEncoder"."""

from __future__ import annotations

from importlib import import_module

from memkit.encoders.base import MemoryEncoder
from memkit.errors import InputError


def own_encoder(path: str) -> type[MemoryEncoder]:
    """Import a subclass of `MemoryEncoder` by "package.module:Class" or "package.module.Class".

    Only a path that the user gives is imported, which runs the code of its module; a path is never read from a file.

    Raises:
        InputError: there is no such module or class, its import fails, or the class is no `MemoryEncoder` that is
            created from a config.
    """
    module_name, _, class_name = path.partition(":") if ":" in path else path.rpartition(".")
    if not module_name or not all(part.isidentifier() for part in (*module_name.split("."), class_name)):
        raise InputError(f"{path!r} is no path to a class; give one such as 'mypackage.encoders:MyEncoder'.")
    try:
        module = import_module(module_name)
    except Exception as error:  # whatever its code raises
        raise InputError(
            f"The module {module_name!r} of the encoder {path!r} cannot be imported ({type(error).__name__}: {error}); "
            "install its package, run from the folder that contains it with `python -m`, or add that folder to "
            "PYTHONPATH."
        ) from error
    found = getattr(module, class_name, None)
    if not isinstance(found, type) or not issubclass(found, MemoryEncoder):
        what = "has no such class" if found is None else f"has {found!r}, which is no subclass of memkit.MemoryEncoder"
        raise InputError(f"{path!r}: the module {module_name!r} {what}; name a subclass of memkit.MemoryEncoder.")
    if not hasattr(found, "config_class"):
        raise InputError(f"{path!r} has no config_class; set it to the dataclass from which the encoder is created.")
    return found

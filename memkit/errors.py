"""The errors memkit raises on purpose. Each message names the item and the remedy."""


class MemkitError(Exception):
    """Any error that memkit raises on purpose."""


class InputError(MemkitError, ValueError):
    """An argument, a caption file or a tensor that cannot be used as given."""


class FileError(InputError, OSError):
    """A file that cannot be read or written: missing, damaged, no access, or a disk that is full."""


class BankError(MemkitError):
    """A memory bank on disk that is missing, damaged or incompatible."""


class MediaError(MemkitError):
    """A video or an image that cannot be decoded."""

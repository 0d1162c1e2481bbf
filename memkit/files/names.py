"""Names of files that are made from texts: valid on every system, and distinct where the texts are."""

from __future__ import annotations

import hashlib
import re
from collections import defaultdict
from collections.abc import Collection, Iterable, Mapping
from types import MappingProxyType

_LONGEST = 80  # characters, all ASCII
_READABLE = 60  # characters before a digest
_DIGITS = (0, 8, 16, 64)  # of the digest in a name; the next more where names would be equal
_RESERVED = re.compile(r"(con|prn|aux|nul|com\d|lpt\d)(\.|$)", re.IGNORECASE)  # on Windows, with any suffix


def file_names(
    texts: Iterable[str],
    readable: Mapping[str, str] = MappingProxyType({}),
    digested: Collection[str] = frozenset(),
) -> dict[str, str]:
    """The name of each text, without suffix. Distinct texts get distinct names, also where their case is ignored.

    Names have at most 125 ASCII letters, digits, dots, hyphens and underscores, and are valid on Linux, macOS and
    Windows. A text that is such a name of at most 80 characters already is its own name. Of any other text, the name
    has what is readable of it and the first 8 digits of its SHA-256. Only where names would be equal do they depend on
    the other texts: then they get more digits, except for a text in lower case that is its own name.

    Args:
        texts: what needs a name.
        readable: by the text, what its name is made from in its place, such as the name of a file without its folder.
        digested: texts whose names get a digest in any case.
    """
    level = {text: int(text in digested) for text in texts}
    while True:
        names = {text: _name(text, readable.get(text, text), _DIGITS[level[text]]) for text in level}
        equal: dict[str, list[str]] = defaultdict(list)
        for text, name in names.items():
            if text != name.lower():  # which keeps its name
                equal[name.lower()].append(text)
        more = [text for name, group in equal.items() for text in group if len(group) > 1 or names.get(name) == name]
        if not more:
            return names
        for text in more:
            level[text] = min(level[text] + 1, len(_DIGITS) - 1)


def _name(text: str, readable: str, digits: int) -> str:
    safe = re.sub(r"[^A-Za-z0-9._-]+", "-", readable).strip(".-") or "video"
    if _RESERVED.match(safe):
        safe = f"video-{safe}"
    if not digits and safe == readable and len(safe) <= _LONGEST:
        return safe
    digest = hashlib.sha256(text.encode("utf-8", "surrogatepass")).hexdigest()
    return f"{safe[:_READABLE].rstrip('.-')}-{digest[: digits or _DIGITS[1]]}"

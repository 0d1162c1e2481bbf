"""`Node`: one chunk of a frame graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from types import NoneType
from typing import Any, Literal, get_args

from memkit.errors import InputError

Role = Literal["seed", "anchor", "degraded", "recovery", "plain"]
ROLES: tuple[Role, ...] = get_args(Role)
_JSON: dict[str, tuple[type, ...]] = {
    "time": (int,),
    "frames": (int,),
    "camera": (int, NoneType),
    "role": (str,),
    "sigma": (int, float),
    "dropped": (bool,),
    "known": (int,),
    "source": (int, NoneType),
}


@dataclass(frozen=True)
class Node:
    """One chunk of a clip.

    Attributes:
        time: position of its first latent frame, any whole number; the others follow it. Gaps between chunks are gaps
            in time.
        frames: latent frames in it.
        camera: index of its first frame's camera, the others follow; None where unknown.
        role: ``seed`` holds given frames, ``anchor`` is memory to be kept (never dropped, never noised), ``degraded``
            shows no truth (an occluder, darkness), ``recovery`` comes after it.
        sigma: noise level of the chunk in the clean stream, in [0, 1]; 0 is clean.
        dropped: its clean keys and values are hidden from every other chunk.
        known: how many of its first frames are given, so that they are shown and carry no loss: 0 to ``frames``.
        source: the clip's latent frame that its first frame shows; None: the frame at ``time``. It tells the content of
            a chunk that was moved in time.

    Raises `InputError` where a value is out of its range, an anchor dropped or noised, or a seed without given frames.
    """

    time: int
    frames: int = 3
    camera: int | None = None
    role: Role = "plain"
    sigma: float = 0.0
    dropped: bool = False
    known: int = 0
    source: int | None = None

    def __post_init__(self) -> None:
        _whole(self, "time", None)
        _whole(self, "frames", 1)
        _whole(self, "known", 0)
        for name in ("camera", "source"):
            if getattr(self, name) is not None:
                _whole(self, name, 0)
        _check_role(self.time, self.role)
        if not 0.0 <= self.sigma <= 1.0:
            raise InputError(f"The chunk at {self.time} has sigma {self.sigma}; noise levels are in [0, 1].")
        if self.known > self.frames:
            raise InputError(f"{self.known} frames of the chunk at {self.time} are known, but it has {self.frames}.")
        if self.role == "seed" and self.known == 0:
            raise InputError(f"The chunk at {self.time} is a seed; say how many of its frames are known.")
        if self.role == "anchor" and (self.dropped or self.sigma > 0):
            raise InputError(f"The chunk at {self.time} is an anchor: it is neither dropped nor noised.")

    @property
    def stop(self) -> int:
        """The first position after the chunk."""
        return self.time + self.frames

    @property
    def learns(self) -> bool:
        """Whether a frame of it carries loss."""
        return self.role != "degraded" and self.known < self.frames

    @property
    def shows(self) -> int:
        """The clip's latent frame that its first frame shows. Raises `InputError` before 0 where no source says it."""
        if self.source is None and self.time < 0:
            raise InputError(f"The chunk at {self.time} shows no frame of a clip that begins at 0; give its source.")
        return self.time if self.source is None else self.source

    @classmethod
    def from_dict(cls, content: Any) -> Node:
        """What ``dataclasses.asdict`` gave. Raises `InputError` for any other content."""
        if not isinstance(content, Mapping) or not {"time"} <= set(content) <= set(_JSON):
            raise InputError(f"A chunk is a mapping with time and, of {list(_JSON)}, no others; not {content!r}.")
        for name, value in content.items():
            if isinstance(value, bool) != (name == "dropped") or not isinstance(value, _JSON[name]):
                raise InputError(f"{name} of a chunk is {value!r}; give what `to_dict` gives.")
        _check_role(content["time"], content.get("role", "plain"))
        return cls(**{**content, "sigma": float(content.get("sigma", 0.0))})


def _check_role(time: int, role: str) -> None:
    if role not in ROLES:
        raise InputError(f"The chunk at {time} has the role {role!r}; give one of {', '.join(ROLES)}.")


def _whole(node: Node, name: str, least: int | None) -> None:
    value = getattr(node, name)
    # True counts as 1 in Python: known=True would silently give one frame of three.
    if isinstance(value, bool) or not isinstance(value, int) or (least is not None and value < least):
        wanted = "a whole number" if least is None else f"a whole number ≥ {least}"
        raise InputError(f"{name} of a chunk is {wanted}, not {value!r}.")

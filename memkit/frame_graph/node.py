"""`Node`: one chunk of a frame graph."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from types import NoneType
from typing import Any, Literal, get_args

from memkit.checks import MOST, MOST_FRAMES, check_choice, check_fields, shown
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


_KEYS = {"conditioning_frames": "known"}
"""Keys in JSON that differ from the field's name."""


@dataclass(frozen=True)
class Node:
    """One chunk of a clip.

    Attributes:
        time: position of its first latent frame, at most a billion either way; the others follow it. Gaps between
            chunks are gaps in time.
        frames: latent frames in it.
        camera: index of its first frame's camera, the others follow; None where unknown.
        role: a ``seed`` holds conditioning frames, an ``anchor`` is memory to be kept (never dropped, never noised), a
            ``degraded`` chunk hides the scene (an occluder, darkness), a ``recovery`` chunk comes after a degraded one.
        sigma: noise level of the chunk in the clean stream, in [0, 1]; 0 is clean.
        dropped: whether its clean keys and values are hidden from every other chunk.
        conditioning_frames: how many of its first frames are given, so that they are shown and carry no loss: 0 to
            ``frames``. ``known`` in JSON.
        source: index of the clip's latent frame that its first frame shows; None: the frame at ``time``. It says what a
            chunk shows that was moved in time.

    Raises `InputError` where a value is out of its range, an anchor is dropped or noised, or a seed has no conditioning
    frames.
    """

    time: int
    frames: int = 3
    camera: int | None = None
    role: Role = "plain"
    sigma: float = 0.0
    dropped: bool = False
    conditioning_frames: int = 0
    source: int | None = None

    def __post_init__(self) -> None:
        check_fields(self, time=(-MOST, MOST), frames=(1, MOST_FRAMES), sigma=(0, 1))
        if self.conditioning_frames > self.frames:
            raise InputError(
                f"The chunk at {self.time} has {self.conditioning_frames} conditioning frames of {self.frames} frames."
            )
        if self.role == "seed" and self.conditioning_frames == 0:
            raise InputError(f"The chunk at {self.time} is a seed; give its number of conditioning_frames.")
        if self.role == "anchor" and (self.dropped or self.sigma > 0):
            raise InputError(f"The chunk at {self.time} is an anchor: it is neither dropped nor noised.")

    @property
    def stop(self) -> int:
        """The first position after the chunk."""
        return self.time + self.frames

    @property
    def learns(self) -> bool:
        """Whether any of its frames carries loss."""
        return self.role != "degraded" and self.conditioning_frames < self.frames

    @property
    def shows(self) -> int:
        """Index of the clip's latent frame that its first frame shows.

        Raises `InputError` for a chunk before time 0 without a source.
        """
        if self.source is None and self.time < 0:
            raise InputError(f"The chunk at {self.time} is before the clip, which begins at 0; give its source.")
        return self.time if self.source is None else self.source

    def to_dict(self) -> dict[str, Any]:
        """Plain values, as JSON takes them."""
        return {_KEYS.get(name, name): value for name, value in asdict(self).items()}

    @classmethod
    def from_dict(cls, content: Any) -> Node:
        """The inverse of `to_dict`. Raises `InputError` for any other content."""
        if not isinstance(content, Mapping) or not {"time"} <= set(content) <= set(_JSON):
            raise InputError(f"A chunk is a mapping with time and no keys but {list(_JSON)}; not {shown(content)}.")
        for name, value in content.items():
            if isinstance(value, bool) != (name == "dropped") or not isinstance(value, _JSON[name]):
                raise InputError(f"{name} of a chunk is {shown(value)}; give what `to_dict` gives.")
        check_choice("The role of a chunk", content.get("role", "plain"), ROLES)
        values = {**content, "sigma": float(content.get("sigma", 0.0))}
        return cls(
            **{field.name: values[key] for field in fields(cls) if (key := _KEYS.get(field.name, field.name)) in values}
        )

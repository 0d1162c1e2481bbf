"""Every configuration of memkit refuses numbers that make no sense, also one that nobody has thought of yet."""

import dataclasses
import importlib
import math
import pkgutil
import typing
from pathlib import Path
from types import NoneType
from typing import Any

import pytest

import memkit
from memkit.errors import InputError
from memkit.frame_graph import CleanMix, Node, NodeDrop
from tests.helpers.unchecked import changed

OTHER_ROOMS = {"worlds", "probes", "training", "evaluation", "demo", "app", "cli", "testing"}
"""Rooms whose dataclasses are the contents of rendered worlds, settings of commands, and results."""
EXAMPLES = {Node: Node(0), CleanMix: CleanMix(NodeDrop())}
"""Of configurations without defaults for all fields."""
FILTER = {"cutoff_time": [math.inf, 10**18], "cutoff_space": [math.inf, 10**18]}
ALLOWED: dict[str, dict[str, list[Any]]] = {
    "Node": {"time": [-1]},
    "StreamConfig": {"guidance_scale": [-1]},
    "LookAway": {"degrees": [-1]},
    "CameraLoop": {"degrees": [-1]},
    "Occluder": {"seed": [-1, 10**18]},
    "Fog": {"seed": [-1, 10**18]},
    "Points": {"seed": [-1, 10**18]},
    "WorldMemRule": {"seed": [-1, 10**18]},
    "Sector": {"up": [-1]},
    "Rays": {"up": [-1]},
    "FrequencyEncoderConfig": FILTER,
}
"""What the bad values are good for: by configuration and field."""
BAD = (math.nan, math.inf, -math.inf, -1, 10**18, 10**5000, "x", True, None, [], {})


def numbers_in(kind: Any) -> bool:
    return kind in (int, float) or any(numbers_in(each) for each in typing.get_args(kind))


def configs() -> list[Any]:
    """An object of each configuration: of each dataclass with numbers of which all have defaults, or an example."""
    found = dict(EXAMPLES)
    for module in pkgutil.walk_packages(memkit.__path__, "memkit."):
        source = Path(module.module_finder.find_spec(module.name).origin)
        if module.name.split(".")[1] in OTHER_ROOMS or "@dataclass" not in source.read_text(encoding="utf-8"):
            continue
        for cls in vars(importlib.import_module(module.name)).values():
            if not isinstance(cls, type) or not dataclasses.is_dataclass(cls) or cls.__module__ != module.name:
                continue
            hints = typing.get_type_hints(cls)
            given = [f for f in dataclasses.fields(cls) if f.default is f.default_factory is dataclasses.MISSING]
            if not given and any(numbers_in(hints[field.name]) for field in dataclasses.fields(cls)):
                found[cls] = cls()
    return list(found.values())


def bad_values(config: Any, field: str, kind: Any, example: Any) -> list[Any]:
    """Bad values of a field, each also as the last item where the field is a tuple of numbers."""
    allowed = ALLOWED.get(type(config).__name__, {}).get(field, [])
    values = [bad for bad in BAD if bad not in allowed]
    if NoneType in typing.get_args(kind):
        values.remove(None)
    if isinstance(example, tuple) and example and numbers_in(type(example[-1])):
        return values + [(*example[:-1], bad) for bad in BAD if bad not in allowed] + [example[:-1]]
    return values


CONFIGS = configs()


def test_the_configurations_are_found():
    names = {type(config).__name__ for config in CONFIGS}
    assert {"StreamConfig", "FrameContextConfig", "FrequencyEncoderConfig", "Sector", "Occluder", "Timing"} <= names


@pytest.mark.parametrize("config", CONFIGS, ids=lambda config: type(config).__name__)
def test_no_configuration_takes_numbers_that_make_no_sense(config):
    hints = typing.get_type_hints(type(config))
    for field in dataclasses.fields(config):
        if not field.init or not numbers_in(hints[field.name]):
            continue
        changed(config)  # the example itself is good
        for bad in bad_values(config, field.name, hints[field.name], getattr(config, field.name)):
            try:
                made = changed(config, **{field.name: bad})
            except InputError as error:
                assert type(config).__name__ in str(error) or field.name in str(error)
            else:
                pytest.fail(f"accepted: {field.name} = {str(made)[:300]}")

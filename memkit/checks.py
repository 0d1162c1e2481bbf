"""Checks of numbers and tensors where they enter memkit: each raises an `InputError` with the name, the value and what
is allowed.

Values of tensors are looked at once, where a tensor enters, which waits for the device that it is on: never in a
forward pass. Tensors without values that can be looked at, such as those on the meta device, fake ones and those that
``torch.compile`` traces, pass.
"""

from __future__ import annotations

import math
import sys
from collections.abc import Iterable, Mapping
from dataclasses import fields, is_dataclass
from functools import cache
from numbers import Integral, Real
from types import NoneType, UnionType
from typing import Any, Literal, TypeVar, Union, get_args, get_origin, get_type_hints

import torch
from torch import Tensor
from torch._subclasses.fake_tensor import FakeTensor
from torch.utils._python_dispatch import is_traceable_wrapper_subclass

from memkit.errors import InputError, nearest

MOST = 1_000_000_000
"""The largest number that a setting takes unless it states another range."""
MOST_FRAMES = 1_000_000
"""The largest number of latent frames of a video: 69 hours at 16 frames per second."""
MOST_STEPS = 1000
"""The largest number of sampling steps: there are no more timesteps."""
MOST_GUIDANCE = 1000.0
"""The largest guidance scale, in either direction; scales in use are below 20."""
WIDTHS = (1, 100_000)
"""The range of widths and channels of a model."""
LAYERS = (1, 10_000)
"""The range of numbers of layers and heads of a model, or of several together."""
SEEDS = (-(2**63), 2**64 - 1)
"""The range of seeds, that of ``torch.Generator``."""

Number = TypeVar("Number", int, float)

_LONGEST = int(sys.float_info.max)

# -- numbers -----------------------------------------------------------------------------------------------------------


def check_whole(name: str, value: object, low: int = 0, high: int = MOST, unit: str = "") -> None:
    """Raise `InputError` unless ``value`` is a whole number from ``low`` to ``high``; True and 1.0 are none."""
    if isinstance(value, bool) or not isinstance(value, Integral) or not low <= int(value) <= high:
        raise InputError(f"{name} is {shown(value)}{unit and ' '}{unit}; give a whole number from {low:,} to {high:,}.")


def check_number(name: str, value: object, low: float = 0.0, high: float = MOST) -> None:
    """Raise `InputError` unless ``value`` is a number from ``low`` to ``high``; NaN and True are none."""
    if not is_number(value) or not low <= value <= high:  # pyright: ignore[reportOperatorIssue]
        raise InputError(f"{name} is {shown(value)}; give a finite number from {low:,g} to {high:,g}.")


def is_number(value: object) -> bool:
    """Whether ``value`` is a real number that a float can hold, NaN and infinity too; True and False are none."""
    return isinstance(value, Real) and not isinstance(value, bool) and not _LONGEST < abs(value) < math.inf  # type: ignore[operator]


def check_scale(name: str, value: object) -> None:
    """Raise `InputError` unless ``value`` is a guidance scale: a number from −`MOST_GUIDANCE` to `MOST_GUIDANCE`."""
    check_number(name, value, -MOST_GUIDANCE, MOST_GUIDANCE)


def check_seeds(name: str, values: object) -> None:
    """Raise `InputError` unless ``values`` are seeds, of which there may be none."""
    for i, seed in enumerate(check_list(name, values, "whole numbers")):
        check_whole(f"{name}[{i}]", seed, *SEEDS)


def seed_list(name: str, values: object) -> list[int]:
    """The seeds of an argument that takes several; a whole number is one seed. Raises `InputError` for others."""
    if isinstance(values, Integral) and not isinstance(values, bool):
        values = [int(values)]
    seeds = check_list(name, values, "whole numbers")
    check_seeds(name, seeds)
    return seeds


def text_list(name: str, values: object) -> list[str]:
    """The texts of an argument that takes several; a text is one, not its letters. Raises `InputError` for others."""
    if isinstance(values, str):
        return [values]
    texts = check_list(name, values, "texts")
    check_texts(name, texts)
    return texts


def check_texts(name: str, values: object) -> None:
    """Raise `InputError` unless ``values`` is a sequence of texts, which a single text is not."""
    for i, text in enumerate(check_list(name, values, "texts")):
        check_text(f"{name}[{i}]", text)


def check_text(name: str, value: object) -> None:
    """Raise `InputError` unless ``value`` is a text."""
    if not isinstance(value, str):
        raise InputError(f"{name} is {shown(value)}; give a text.")


def check_list(name: str, values: object, of: str) -> list[Any]:
    """The items of ``values``. Raises `InputError` where it is no collection, or a text, whose items are letters."""
    if isinstance(values, str | bytes) or not isinstance(values, Iterable):
        raise InputError(f"{name} is {shown(values)}; give a list of {of}.")
    return list(values)


def shown(value: object) -> str:
    """A value as an error shows it, cut to 80 characters."""
    if isinstance(value, Tensor):
        return f"a tensor {list(value.shape)} of {value.dtype}"
    try:
        text = repr(value)
    except ValueError:  # Python refuses to print whole numbers of more than 4300 digits
        text = f"{type(value).__name__} with more than 4300 digits"
    return text if len(text) <= 80 else f"{text[:77]}..."


# -- settings ----------------------------------------------------------------------------------------------------------


def check_fields(config: Any, **ranges: tuple[float, float]) -> None:
    """Raise `InputError` unless all fields of a dataclass are of their annotated types, and numbers in their ranges.

    ``ranges`` has the lowest and highest value of fields that do not go from 0 to `MOST`. Numbers are never NaN or
    infinite, and bool is not int. Fields whose types are neither numbers, texts, choices, nor tuples of these, pass.
    """
    kinds = _kinds(type(config))
    unknown = ranges.keys() - kinds.keys()
    assert not unknown, f"{type(config).__name__} has no fields {unknown}"
    for field in fields(config):
        name = f"{type(config).__name__}.{field.name}"
        _check_kind(name, getattr(config, field.name), kinds[field.name], ranges.get(field.name, (0, MOST)))


@cache
def _kinds(cls: type) -> dict[str, Any]:
    return get_type_hints(cls)


def check_choice(name: str, value: object, choices: Iterable[object]) -> None:
    """Raise `InputError`, which names the nearest choice, unless ``value`` is one of ``choices``, of the same type."""
    choices = tuple(choices)
    if not any(type(value) is type(choice) and value == choice for choice in choices):
        names = ", ".join(map(str, choices))
        raise InputError(f"{name} is {shown(value)}; choose one of {names}.{nearest(value, choices)}")


def _check_kind(name: str, value: object, kind: Any, span: tuple[float, float]) -> None:
    origin, inner = get_origin(kind), get_args(kind)
    if origin in (Union, UnionType):
        _check_any(name, value, inner, span)
    elif origin is Literal:
        check_choice(name, value, inner)
    elif origin is tuple:
        _check_tuple(name, value, inner, span)
    elif kind is bool:
        if not isinstance(value, bool):
            raise InputError(f"{name} is {shown(value)}; give True or False.")
    elif kind is int:
        check_whole(name, value, math.ceil(span[0]), math.floor(span[1]))
    elif kind is float:
        check_number(name, value, *span)
    elif kind is str:
        check_text(name, value)
    elif is_dataclass(kind) and isinstance(kind, type) and not isinstance(value, kind):
        raise InputError(f"{name} is {shown(value)}; give a {kind.__name__}.")


def _check_any(name: str, value: object, kinds: tuple[Any, ...], span: tuple[float, float]) -> None:
    """One of the kinds of a union; the error is that of the last that is not None."""
    if value is None and NoneType in kinds:
        return
    *others, last = (kind for kind in kinds if kind is not NoneType)
    for kind in others:
        try:
            return _check_kind(name, value, kind, span)
        except InputError:
            continue
    _check_kind(name, value, last, span)


def _check_tuple(name: str, value: object, kinds: tuple[Any, ...], span: tuple[float, float]) -> None:
    many = kinds[1:] == (...,)
    if not isinstance(value, tuple) or (not many and len(value) != len(kinds)):
        raise InputError(f"{name} is {shown(value)}; give a tuple{'' if many else f' of {len(kinds)}'}.")
    for i, item in enumerate(value):
        try:
            _check_kind(f"item {i}", item, kinds[0] if many else kinds[i], span)
        except InputError as error:
            raise InputError(f"{name} is {shown(value)}: {error}") from None


# -- tensors -----------------------------------------------------------------------------------------------------------


def check_floats(name: str, value: object, layout: str = "") -> None:
    """Raise `InputError` unless ``value`` is a real floating-point tensor with the axes of ``layout``: "[B, D]"."""
    if not isinstance(value, Tensor) or not value.is_floating_point() or value.layout != torch.strided:
        raise InputError(f"{name} is {shown(value)}; give a dense floating-point tensor {layout}".rstrip() + ".")
    if layout and value.ndim != layout.count(",") + 1:
        raise InputError(f"{name} has shape {list(value.shape)}; give {layout}.")


def check_finite(name: str, value: object, layout: str = "", hidden: Tensor | None = None) -> None:
    """Raise `InputError` unless ``value`` is as in `check_floats`, and finite where ``hidden`` is not True.

    ``hidden`` has the first axes of ``value``.
    """
    check_floats(name, value, layout)
    assert isinstance(value, Tensor)
    if all(map(math.isfinite, extremes(value))):
        return
    wrong = ~value.detach().isfinite()
    if hidden is not None:
        wrong &= ~hidden.to(wrong.device).view(*hidden.shape, *[1] * (wrong.ndim - hidden.ndim))
    if count := int(wrong.sum()):
        where = wrong.nonzero()[0].tolist()
        raise InputError(
            f"{name} has NaN or infinite numbers, {count:,} of {wrong.numel():,}, the first at {where}; give finite "
            "ones."
        )


def check_all_finite(tensors: Mapping[str, Tensor]) -> None:
    """`check_finite` of many tensors by their names, with one wait for their device."""
    for name, x in tensors.items():
        check_floats(name, x)
    seen = [x.detach() for x in tensors.values() if x.numel() and has_values(x)]
    ends = [_ends(x) for x in seen]
    if ends and not bool(torch.stack([end.to(ends[0].device, torch.float64) for end in ends]).isfinite().all()):
        for name, x in tensors.items():
            check_finite(name, x)


def check_within(name: str, value: object, low: float, high: float, layout: str = "") -> None:
    """Raise `InputError` unless ``value`` is as in `check_floats`, and from ``low`` to ``high`` everywhere."""
    check_floats(name, value, layout)
    assert isinstance(value, Tensor)
    least, most = extremes(value)
    if not (low <= least and most <= high):
        raise InputError(f"{name} has numbers from {least:g} to {most:g}; give {low:g} to {high:g}, none of them NaN.")


def check_weights(name: str, value: object, layout: str = "") -> None:
    """Raise `InputError` unless ``value`` is as in `check_floats`, and finite or −∞ everywhere: log-weights."""
    check_floats(name, value, layout)
    assert isinstance(value, Tensor)
    most = extremes(value)[1]
    if math.isnan(most) or most == math.inf:
        raise InputError(f"{name} has NaN or +inf; give finite log-weights, or −inf for what is never attended to.")


def extremes(x: Tensor) -> tuple[float, float]:
    """The lowest and highest value, both NaN if there is one; (0, 0) where there is nothing to look at."""
    if not x.numel() or not has_values(x):
        return 0.0, 0.0
    low, high = _ends(x.detach()).tolist()  # waits for the device once
    return low, high


def _ends(x: Tensor) -> Tensor:
    """The lowest and the highest value, on the device of ``x``; torch has no aminmax of floats of 8 bits."""
    return torch.stack(torch.aminmax(x if x.element_size() > 1 else x.float()))


def has_values(x: Tensor) -> bool:
    """Whether a tensor has values that may be looked at: not while it is traced or captured, nor on the meta device,
    nor where it is sharded or quantised."""
    if torch.compiler.is_compiling() or x.is_meta or isinstance(x, FakeTensor) or is_traceable_wrapper_subclass(x):
        return False
    if torch._C._functorch.is_functorch_wrapped_tensor(x):  # inside torch.func.vmap or grad
        return False
    return not (x.is_cuda and torch.cuda.is_current_stream_capturing())


def check_poses(name: str, value: object) -> None:
    """Raise `InputError` unless ``value`` has finite pose vectors [B, F, 12], as `relative_pose_vectors` gives."""
    check_finite(name, value, "[B, F, 12]")
    assert isinstance(value, Tensor)
    if value.shape[-1] != 12:
        raise InputError(f"{name} has shape {list(value.shape)}; give [B, F, 12], from relative_pose_vectors.")


# -- memory ------------------------------------------------------------------------------------------------------------


def check_room(what: str, nbytes: int, device: torch.device | str = "cpu") -> None:
    """Raise `InputError` where ``nbytes`` are more than the memory of the device, before they are allocated."""
    if nbytes > (room := total_memory(torch.device(device))):
        raise InputError(f"{what} needs {nbytes:,} bytes, and {device} has {room:,} in all; ask for less.")


def check_budget(name: str, value: object) -> None:
    """Raise `InputError` unless ``value`` is a number of bytes that this machine, or one of its GPUs, has in all."""
    most = total_memory(torch.device("cpu"))
    if isinstance(value, Integral) and int(value) > most:  # only then: to ask a GPU starts CUDA, which takes seconds
        most = max([most, *(total_memory(torch.device("cuda", i)) for i in range(torch.cuda.device_count()))])
    check_whole(name, value, 1, most, "bytes")


def total_memory(device: torch.device) -> int:
    """Bytes of a device's memory, in use or not."""
    if device.type == "cuda":
        return torch.cuda.get_device_properties(device).total_memory
    import psutil  # only here: most imports of memkit need no memory

    return psutil.virtual_memory().total

"""Sets of weights in a checkpoint: the prefixes of their names, and which one to load where there are several."""

from __future__ import annotations

from collections.abc import Iterable
from dataclasses import dataclass

from memkit.errors import InputError

WRAPPERS = ("_fsdp_wrapped_module", "_checkpoint_wrapped_module", "_orig_mod", "module")
"""What FSDP, activation checkpointing, torch.compile and DDP put into names, at any place."""

_GENERIC = ("model", "diffusion_model", "state_dict", *WRAPPERS)
"""Parts of prefixes that say nothing about which weights these are."""

DEFAULT_ORDER = ("generator_ema", "ema", "model_ema", "generator", "model", "state_dict", "")
"""Which set of weights is loaded where there are several and none is chosen: averaged weights first, as causal models
are evaluated with them; "" is the set of names at the top."""

_KEY = ("patch_embedding", "weight")
"""The parameter by which a set of weights is found; every Wan has it."""


@dataclass(frozen=True)
class WeightSet:
    """The weights of one model in a checkpoint."""

    label: str
    """What selects it, such as "generator_ema"; "" if nothing distinguishes it."""
    prefix: str
    """What was taken off the front of the names, such as "generator.model._fsdp_wrapped_module."."""
    names: dict[str, str]
    """The full name of each parameter by its name in the model."""


def weight_sets(names: Iterable[str]) -> tuple[list[WeightSet], list[str]]:
    """The sets of weights among full names, and the names that are in none of them."""
    names = list(names)
    found: dict[str, dict[str, str]] = {p: {} for name in names if (p := _prefix(name)) is not None}
    longest_first = sorted(found, key=len, reverse=True)
    rest = []
    for name in names:
        prefix = next((p for p in longest_first if name.startswith(p)), None)
        if prefix is None:
            rest.append(name)
            continue
        short = unwrapped(name.removeprefix(prefix))
        if short in found[prefix]:
            raise InputError(f"{name} and {found[prefix][short]} are the same parameter, {short}; keep one of them.")
        found[prefix][short] = name
    labels = _labels(list(found))
    return [WeightSet(labels[prefix], prefix, short) for prefix, short in found.items()], rest


def unwrapped(name: str) -> str:
    """A name without the parts that wrappers put into it."""
    return ".".join(part for part in name.split(".") if part not in WRAPPERS)


def choose(sets: list[WeightSet], weights: str | None, where: str) -> WeightSet:
    """The set called ``weights``; by default the only one, or the first of `DEFAULT_ORDER`.

    Raises:
        InputError: there is no such set, or nothing says which of several to load; the message names them.
    """
    by_label = {each.label: each for each in sets}
    listed = ", ".join(repr(label) for label in by_label)
    if weights is not None:
        if weights in by_label:
            return by_label[weights]
        if len(sets) == 1:
            raise InputError(f"{where} has one set of weights, not {weights!r}; leave weights= out.")
        raise InputError(f"{where} has no weights {weights!r}; it holds {listed}: pass one of them as weights=.")
    if len(sets) == 1 and not _is_critic(sets[0].label):
        return sets[0]
    label = next((label for label in DEFAULT_ORDER if label in by_label), None)
    if label is None:
        raise InputError(f"{where} holds the weights {listed}; say which to load, as weights={next(iter(by_label))!r}.")
    return by_label[label]


def _is_critic(label: str) -> bool:
    """Whether these are weights of a model that is needed in training alone."""
    return any(word in label for word in ("critic", "fake_score", "real_score", "discriminator"))


def _prefix(name: str) -> str | None:
    """What is before ``patch_embedding.weight``, or None for other names."""
    parts = name.split(".")
    if _KEY[0] not in parts:
        return None
    at = parts.index(_KEY[0])
    if tuple(part for part in parts[at:] if part not in WRAPPERS) != _KEY:
        return None
    return "".join(f"{part}." for part in parts[:at])


def _labels(prefixes: list[str]) -> dict[str, str]:
    """A short label for each prefix, and the whole prefix where short ones would be the same."""
    short = {}
    for prefix in prefixes:
        parts = [part for part in prefix.split(".") if part]
        telling = [part for part in parts if part not in _GENERIC]
        short[prefix] = ".".join(telling) or next((part for part in parts if part not in WRAPPERS), "")
    labels = list(short.values())
    return {prefix: label if labels.count(label) == 1 else prefix.strip(".") for prefix, label in short.items()}

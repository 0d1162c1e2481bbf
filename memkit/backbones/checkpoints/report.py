"""What a checkpoint is and how to load it, from its header alone."""

from __future__ import annotations

from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import torch

from memkit.backbones.checkpoints.config import HEAD_DIM, matching_presets
from memkit.backbones.checkpoints.names import WeightSet, choose, weight_sets
from memkit.backbones.checkpoints.plan import open_source, plan, refused_kind, tensors_of
from memkit.backbones.checkpoints.recognise import is_lora, other_kind, quantised_without_scales
from memkit.backbones.checkpoints.source import Source
from memkit.backbones.presets import PRESETS
from memkit.errors import InputError
from memkit.files.headers import TensorInfo


@dataclass(frozen=True)
class Report:
    """What a file or folder is."""

    what: str
    """As in "FILE: …"."""
    facts: tuple[tuple[str, str], ...]
    """Names and values, such as ("preset", "wan2.1-t2v-1.3b")."""
    load: str
    """The line of Python that loads it, or "" if memkit cannot."""
    problem: str = ""
    """Why it cannot be loaded, and the remedy."""


def inspect_checkpoint(path: str | Path, weights: str | None = None) -> Report:
    """Inspect a file of weights, a sharded checkpoint or the folder of one; no weights are read.

    ``weights`` chooses a set of weights as in `WanBackbone.from_original`; by default the one that is loaded then.

    Raises `InputError` where the file cannot be read at all: the message says what it is.
    """
    source = open_source(path)
    sets, rest = weight_sets(source.tensors)
    facts = [("format", _format(source))]
    if not sets:
        facts.append(("tensors", sizes(source.tensors.values())))
        kind = other_kind(rest)
        return Report(kind.what, tuple(facts), "", f"{kind.remedy}.")
    if len(sets) > 1:
        facts.append(("sets of weights", "; ".join(f"{s.label!r}, {len(s.names)} tensors" for s in sets)))
    if rest:
        facts.append(("beside them", _beside(rest)))
    try:
        chosen = choose(sets, weights, source.where)
    except InputError as error:
        return Report("several sets of weights of Wan", tuple(facts), "", str(error))
    if len(sets) > 1:
        facts.append(("chosen" if weights is not None else "by default", repr(chosen.label)))
    return _of_wan(str(path), source, chosen, facts, several=len(sets) > 1, lora=is_lora(rest))


def _of_wan(
    path: str, source: Source, chosen: WeightSet, facts: list[tuple[str, str]], several: bool, lora: bool
) -> Report:
    """The report of a set of weights that has Wan's names."""
    tensors = tensors_of(source, chosen)
    cast = quantised_without_scales(tensors, torch_dtype_given=False)
    needs_dtype = cast is not None and quantised_without_scales(tensors, torch_dtype_given=True) is None
    if chosen.prefix:
        facts.append(("prefix", f"{chosen.prefix!r}, which is taken off"))
    facts.append(("tensors", sizes(tensors.values())))
    if (kind := refused_kind(tensors, torch_dtype_given=True)) is not None:
        return Report(kind.what, tuple(facts), "", f"{kind.remedy}.")
    try:
        decided = plan(source, torch_dtype=torch.bfloat16 if needs_dtype else None, weights=chosen.label)
    except InputError as error:
        return Report("weights with names of Wan", tuple(facts), "", str(error))
    facts += [("configuration", _configuration(decided.settings)), ("preset", _presets(decided.settings))]
    if cast is not None:
        facts.append(("note", f"it is {cast.what}; load it only if they were cast"))
    options = f", weights={chosen.label!r}" if several else ""
    options += ", torch_dtype=torch.bfloat16" if needs_dtype else ""
    options += ', lora="…"' if lora else ""
    kind = {16: "text-to-video", 36: "image-to-video", 48: "text- and image-to-video"}
    what = kind.get(decided.settings["in_channels"], "video") if _is_plain(decided.settings) else "controllable video"
    line = f"from memkit import WanBackbone; WanBackbone.from_original({path!r}{options})"
    line = f"import torch; {line}" if needs_dtype else line
    return Report(f"a {what} Wan with its original parameter names", tuple(facts), line)


def sizes(tensors: Iterable[TensorInfo]) -> str:
    """Number of tensors and values, dtypes and bytes, in words."""
    tensors = list(tensors)
    by_dtype: Counter[str] = Counter()
    for info in tensors:
        by_dtype[info.dtype] += info.numel
    dtypes = ", ".join(f"{dtype} ({count:,})" for dtype, count in by_dtype.most_common())
    return (
        f"{len(tensors):,} with {sum(by_dtype.values()):,} values, {_bytes(sum(i.nbytes for i in tensors))}: {dtypes}"
    )


def _format(source: Source) -> str:
    return source.format + (f" in {len(source.files)} files" if len(source.files) > 1 else "")


def _beside(names: list[str]) -> str:
    heads = Counter(name.split(".")[0] for name in names)
    shown = ", ".join(f"{head} ({count} tensors)" for head, count in heads.most_common(6))
    more = f" and {len(heads) - 6} more" if len(heads) > 6 else ""
    return f"{shown}{more}, which are not loaded with the transformer"


def _bytes(count: int) -> str:
    return f"{count / 1e9:.2f} GB" if count >= 1e9 else f"{count / 1e6:.2f} MB"


def _configuration(settings: dict[str, Any]) -> str:
    heads = "" if settings["attention_head_dim"] == HEAD_DIM else " (pass config= if the heads are smaller)"
    return ", ".join(f"{name}={value}" for name, value in settings.items()) + heads


def _is_plain(settings: dict[str, Any]) -> bool:
    """Whether the input is that of a published Wan: noise, or noise, mask and first frame."""
    return (settings["in_channels"], settings["out_channels"]) in ((16, 16), (36, 16), (48, 48))


def _presets(settings: dict[str, Any]) -> str:
    names = [f"one expert of {n}" if PRESETS[n]().experts > 1 else n for n in matching_presets(settings)]
    return " or ".join(names) or "none of the published sizes"

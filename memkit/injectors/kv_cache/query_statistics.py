"""`QueryStatistics`: mean queries of a model, which are collected once, offline (TriAttention, arXiv 2604.04921).

A query before rotation is a complex number per pair of neighbouring channels, which rotary positions turn by an angle,
as in Wan. Of each layer, head and pair, the mean of these numbers and of their absolute values is kept.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from functools import partial
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.base import KV_CACHE
from memkit.backbones.protocol import Grid
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.errors import FileError, MemkitError
from memkit.files.tensors import FileKind, open_tensors, save_tensors

_KIND, _KEY = FileKind("saved query statistics", "memkit-query-statistics", 1), "statistics"


def pairs(x: Tensor) -> Tensor:
    """Channels [..., 2·n] as complex numbers [..., n], which `memkit.backbones.rotary.rotate` turns."""
    return torch.view_as_complex(x.float().unflatten(-1, (-1, 2)).contiguous())


class QueryStatistics:
    """Sums over the queries of each layer.

    statistics = QueryStatistics()
    with statistics.collect(pipe.transformer):
        pipe("a room", num_frames=81)  # any videos
    statistics.save("queries.safetensors")

    Attributes:
        total: sum of the queries, complex [layers, heads, pairs].
        absolute: sum of their absolute values, [layers, heads, pairs].
        count: number of queries.
        omega: the angle by which each pair turns from one latent frame to the next, [pairs]; 0 in bands of space.
    """

    def __init__(self) -> None:
        self.total, self.absolute, self.omega = torch.empty(0), torch.empty(0), torch.empty(0)
        self.count = 0

    @contextmanager
    def collect(self, *models: Attachable) -> Iterator[None]:
        """Inside, the queries of all forward passes are added up; two experts have their layers one after the other.

        Raises `InputError` where there is no transformer, or one cannot have a KV cache.
        """
        layers = [(model, block) for model in transformers_of(models, KV_CACHE) for block in _blocks(model)]
        seen = [[torch.zeros(()), torch.zeros(()), 0] for _ in layers]
        with ExitStack() as stack:
            for sums, (model, block) in zip(seen, layers, strict=True):
                hook = partial(_add, sums, adapter_of(model))
                attention: nn.Module = adapter_of(model).attention(block)
                stack.callback(attention.register_forward_pre_hook(hook, with_kwargs=True).remove)
            yield
        if any(count == 0 for *_, count in seen):
            raise MemkitError("Not every layer has run; call all the transformers inside of collect().")
        total, absolute = (torch.stack([sums[i] for sums in seen]).cpu() for i in (0, 1))
        self.total = total if self.count == 0 else self.total + total
        self.absolute = absolute if self.count == 0 else self.absolute + absolute
        self.count += seen[0][2]
        model = layers[0][0]
        cos, sin = (x[0, :, 0].float().cpu() for x in adapter_of(model).rotary_at(model, [0, 1], Grid(2, 1, 1)))
        self.omega = torch.atan2(sin[1, 1::2], cos[1, 0::2])

    @property
    def mean(self) -> Tensor:
        """The mean query, complex [layers, heads, pairs]."""
        return self.total / self.count

    @property
    def size(self) -> Tensor:
        """The mean absolute value, [layers, heads, pairs]."""
        return self.absolute / self.count

    def save(self, path: str | Path) -> None:
        """Write one safetensors file. Raises `FileError` where it cannot be written."""
        tensors = {"total": torch.view_as_real(self.total), "absolute": self.absolute, "omega": self.omega}
        save_tensors(path, _KIND, _KEY, {"count": self.count}, tensors)

    @staticmethod
    def load(path: str | Path) -> QueryStatistics:
        """Saved statistics. Raises `FileError` where there are none, or they are damaged."""
        with open_tensors(path, _KIND, _KEY) as (header, file):
            it = QueryStatistics()
            it.count = int(header["count"])
            it.omega, it.absolute = file.get_tensor("omega"), file.get_tensor("absolute")
            it.total = torch.view_as_complex(file.get_tensor("total"))
            if it.count < 1 or it.total.shape != it.absolute.shape or it.total.shape[-1:] != it.omega.shape:
                raise FileError(f"{path} is damaged: its parts do not fit each other; collect the statistics again.")
        return it


def _blocks(model: Any) -> Any:
    return adapter_of(model).blocks(model)


@torch.no_grad()
def _add(sums: list[Any], adapter: Any, attention: nn.Module, args: tuple, kwargs: dict[str, Any]) -> None:
    q = pairs(adapter.project(attention, args[0] if args else kwargs["hidden_states"])[0])
    sums[0], sums[1] = sums[0] + q.sum((0, 1)), sums[1] + q.abs().sum((0, 1))
    sums[2] += q.shape[0] * q.shape[1]

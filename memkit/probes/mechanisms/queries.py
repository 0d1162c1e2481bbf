"""Query tokens inside the model, or beside it, which gather the past (MemLearner, arXiv 2606.31734)."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import torch
from diffusers import WanTransformer3DModel

from memkit.backbones.adapters.choice import adapter_of
from memkit.injectors.query_layers.config import QueryLayersConfig
from memkit.injectors.query_layers.layers import QueryLayers
from memkit.injectors.query_module.module import QueryModule, QueryModuleConfig
from memkit.injectors.self_attention import SelfAttentionConcat
from memkit.probes.batch import ProbeBatch
from memkit.probes.mechanisms.base import Mechanism
from memkit.probes.probe import Probe


class LearnedQueries(Mechanism):
    """All past frames are the context of query layers.

    ``layers`` is their number, by default that of all blocks. Keyword arguments are further settings of
    `QueryLayersConfig`: by default, queries begin as noise at timestep 0, as in the paper.
    """

    def __init__(
        self, transformer: WanTransformer3DModel, probe: Probe[Any], layers: int | None = None, **settings: Any
    ) -> None:
        super().__init__(transformer, probe)
        del self.frames  # the query layers have cameras of their own
        sizes = adapter_of(transformer).sizes(transformer)
        config = QueryLayersConfig(
            sizes.width, sizes.layers, sizes.layers if layers is None else layers, query="noise", query_time="clean"
        )
        self.query = QueryLayers(replace(config, **settings))
        self._generator = torch.Generator().manual_seed(0)

    @contextmanager
    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> Iterator[None]:
        own, past = batch.poses()
        noise = torch.randn(batch.target.shape, generator=self._generator).to(batch.target)
        start, there = batch.times[0], len(batch.memory_times) > 0
        with (
            self.query.attach(transformer) as attached,
            attached.chunk(
                batch.memory if there else None,
                noise if self.query.config.query == "noise" else None,
                positions=[time - start for time in batch.times],
                context_positions=[time - start for time in batch.memory_times],
                cameras=own,
                context_cameras=past if there else None,
            ),
        ):
            yield


class SeparateQueries(Mechanism):
    """The same in a module beside the model, from random weights, whose queries end as memory tokens.

    ``layers`` is the number of its blocks, by default that of the transformer.
    """

    def __init__(self, transformer: WanTransformer3DModel, probe: Probe[Any], layers: int | None = None) -> None:
        super().__init__(transformer, probe)
        sizes, config = adapter_of(transformer).sizes(transformer), transformer.config
        self.module = QueryModule(
            QueryModuleConfig(
                layers=sizes.layers if layers is None else layers,
                heads=sizes.heads,
                head_dim=sizes.head_dim,
                ffn_dim=config.ffn_dim,
                channels=sizes.channels,
                text_dim=config.text_dim,
            )
        )
        self._generator = torch.Generator().manual_seed(0)

    @contextmanager
    def shown(self, transformer: WanTransformer3DModel, batch: ProbeBatch) -> Iterator[None]:
        with self.own_cameras(transformer, batch):
            if not batch.memory_times:
                yield
                return
            own, past = batch.poses()
            start = batch.times[0]
            memory = self.module(
                torch.randn(batch.target.shape, generator=self._generator).to(batch.target),
                batch.memory,
                batch.text,
                positions=[time - start for time in batch.times],
                context_positions=[time - start for time in batch.memory_times],
                cameras=own,
                context_cameras=past,
            )
            with SelfAttentionConcat(memory).attach(transformer):
                yield

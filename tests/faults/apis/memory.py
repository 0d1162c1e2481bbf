"""Memory tokens and what holds or shows them: injectors, caches, histories, graphs."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch

from memkit import FrameGraph, GuidedMemory, History, KVCache, Memory, SelfAttentionConcat
from memkit.attention import grouped_attention
from memkit.frame_graph import Node
from memkit.injectors import frame_bytes
from memkit.streaming import Stream, StreamConfig
from tests.faults.inputs import HUGE, INF, NAN, NO_COUNT, NO_NUMBER, NO_POSITIVE_COUNT, NO_SHARE, Api
from tests.faults.session_kinds import SHORT, backbone
from tests.helpers.streams import budget, seeded

WIDTH = 48


def full(value: float, *shape: int) -> torch.Tensor:
    return torch.full(shape, value)


def shown(tokens: torch.Tensor, mask: Any = None, log_weight: Any = None, gate: Any = None) -> object:
    """A velocity with the memory attached."""
    model = backbone()
    with SelfAttentionConcat(Memory(tokens, mask, log_weight, gate)).attach(model.transformer), torch.no_grad():
        return model.velocity(seeded(1, 16, 2, 4, 4), torch.tensor([500.0]), seeded(1, 8, 32))


def joined(memories: Any) -> object:
    return Memory.cat(memories)


def guided(guidance: Any) -> object:
    GuidedMemory(SelfAttentionConcat(Memory(seeded(1, 3, WIDTH))), guidance)
    return guidance


def cached(budget_bytes: Any, branches: Any, positions: Any, pairs: Any) -> object:
    cache = KVCache(budget_bytes, branches)
    branch = cache.branch(cache.branches[0])
    branch.update(positions, pairs)
    return branch.positions, branch.get(0)


def remembered(budget: Any, pinned: Any, latents: Any, times: Any, newest: Any) -> object:
    history = History(budget, pinned)
    history.add(latents, None, times)
    return history.take(history.newest(newest)).latents


def taken(index: Any) -> object:
    history = History()
    history.add(seeded(1, 4, 3, 2, 2), None, [0, 1, 2])
    return history.take(index).latents


def cut(**options: Any) -> object:
    return FrameGraph.chunks(**options).to_dict()


def levels(sigma: Any) -> object:
    return FrameGraph.chunks(6).noise_levels(sigma)


def graph_of(content: Mapping[str, Any]) -> object:
    return FrameGraph.from_dict(content).to_dict()


def streamed(seeds: Any, budget_bytes: Any, size: Any, prompts: Any, conditioning: Any, frames: Any) -> object:
    stream = Stream(backbone(), seeds, budget_bytes, SHORT, size=size)
    return stream.generate(prompts, conditioning, frames)


GRAPH = FrameGraph.chunks(6, degraded=[(3, 4)], recovery=()).to_dict()
PAIRS = [(seeded(1, 8, 2, 4), seeded(1, 8, 2, 4))] * 2
TOKENS = seeded(1, 3, WIDTH)

APIS = (
    Api(
        "Memory in a model",
        shown,
        {"tokens": TOKENS},
        {
            "tokens": (
                full(NAN, 1, 3, WIDTH),
                full(INF, 1, 3, WIDTH),
                seeded(1, 3, WIDTH + 1),
                seeded(3, WIDTH),
                seeded(2, 3, WIDTH),
                torch.ones(1, 3, WIDTH, dtype=torch.long),
                torch.ones(1, 3, WIDTH, dtype=torch.cfloat),
            ),
            "mask": (torch.ones(1, 3), torch.ones(1, 4).bool(), torch.ones(3).bool()),
            "log_weight": (full(NAN, 1, 3), full(INF, 1, 3), full(0.0, 1, 4), torch.zeros(1, 3, dtype=torch.long)),
            "gate": (full(NAN, 3, 2), full(0.1, 4, 2), full(0.1, 3), full(NAN, 3, 2)[:1]),
        },
        {"tokens": ("memory", "width", "batch"), "log_weight": ("weight",)},
    ),
    Api(
        "Memory.cat",
        joined,
        {"memories": [Memory(TOKENS)]},
        {"memories": ([], [Memory(TOKENS), Memory(seeded(1, 3, 5))], [Memory(TOKENS), Memory(seeded(2, 3, WIDTH))])},
        {"memories": ("memory",)},
    ),
    Api("GuidedMemory", guided, {"guidance": 3.0}, {"guidance": ("always", None, NAN, INF, -INF, "3", [1.0])}),
    Api(
        "KVCache",
        cached,
        {"budget_bytes": 10**5, "branches": ("cond", "uncond"), "positions": [0, 2], "pairs": PAIRS},
        {
            "budget_bytes": (*NO_POSITIVE_COUNT, 100),
            "branches": ((), ("a", "a"), "cond", None, [1, 2]),
            "positions": ([0, 0], [0, 1.5], ["0", "1"], [0, 2, 4], None, [NAN, 1], [0, 2**70]),
            "pairs": (
                [],
                [(PAIRS[0][0], PAIRS[0][1][:, :4])],
                [(PAIRS[0][0][0], PAIRS[0][1][0])],
                None,
                [PAIRS[0], (seeded(2, 8, 2, 4),) * 2],
            ),
        },
        {
            "pairs": ("keys", "values", "layers", "shape", "frame"),
            "positions": ("position", "frames"),
            "budget_bytes": ("budget",),
            "branches": ("branch",),
        },
    ),
    Api(
        "History",
        remembered,
        {"budget": 10**5, "pinned": 1, "latents": seeded(1, 4, 3, 2, 2), "times": [0, 1, 2], "newest": 2},
        {
            "budget": (*NO_POSITIVE_COUNT[:2], NAN, INF, 1.5, 0, -1, 100),
            "pinned": (*NO_COUNT, HUGE),
            "latents": (
                full(NAN, 1, 4, 3, 2, 2),
                full(INF, 1, 4, 3, 2, 2),
                seeded(4, 3, 2, 2),
                seeded(1, 4, 0, 2, 2),
                torch.ones(1, 4, 3, 2, 2).long(),
            ),
            "times": ([0], [0, 1, 2, 3], [0, 1, "2"], [0, 1, NAN], [0.5, 1, 2], None, [0, 1, 2**70]),
            "newest": NO_COUNT,
        },
        {"latents": ("frame", "floating"), "times": ("time",), "pinned": ("budget",), "newest": ("frames",)},
    ),
    Api(
        "History.take",
        taken,
        {"index": torch.tensor([[0, 2]])},
        {
            "index": (
                torch.tensor([[3]]),
                torch.tensor([[-1]]),
                torch.tensor([[0], [1]]),
                torch.tensor([0]),
                torch.tensor([[0.5]]),
            )
        },
        {"index": ("row",)},
    ),
    Api(
        "FrameGraph.chunks",
        cut,
        {
            "num_frames": 9,
            "chunk": 3,
            "first": None,
            "conditioning_frames": 1,
            "degraded": (),
            "anchors": (),
            "recovery": None,
        },
        {
            "num_frames": (*NO_POSITIVE_COUNT, 10, 10**9),
            "chunk": (*NO_POSITIVE_COUNT, 4),
            "first": ("3", NAN, INF, 1.5, -1, 0, 10, []),
            "conditioning_frames": (*NO_COUNT, 10),
            "degraded": ([(3, 20)], [(-1, 2)], [(4, 3)], [(3,)], ["34"], 3, [(NAN, 4)], [(2.5, 4)]),
            "anchors": ([(3, 20)], [(4, 3)], 3, None),
            "recovery": ([(3, 20)], [(4, 3)], 3),
        },
        {
            "num_frames": ("frames",),
            "chunk": ("chunk", "frames"),
            "conditioning_frames": ("conditioning",),
            "degraded": ("interval", "frames"),
            "first": ("chunk", "frames"),
        },
    ),
    Api(
        "FrameGraph.noise_levels",
        levels,
        {"sigma": 0.5},
        {"sigma": (NAN, INF, -0.1, 1.5, "0.5", None, [0.5], [0.5, 2.0], [])},
        {"sigma": ("noise", "level")},
    ),
    Api(
        "FrameGraph.from_dict",
        graph_of,
        {"content": GRAPH},
        {
            "content": (
                {},
                [],
                None,
                {"nodes": []},
                {"nodes": None},
                {"nodes": [{}]},
                {**GRAPH, "more": 1},
                {"nodes": [{"role": "x"}]},
            )
        },
        {"content": ("graph", "node", "nodes", "chunk")},
    ),
    Api(
        "Node",
        Node,
        {"time": 0, "frames": 3, "role": "plain"},
        {"time": (NAN, "0", None, 1.5), "frames": NO_POSITIVE_COUNT, "role": ("x", None, 3)},
    ),
    Api(
        "StreamConfig",
        StreamConfig,
        {"chunk": 3, "steps": 50},
        {
            "chunk": (*NO_POSITIVE_COUNT, HUGE),
            "first": ("3", NAN, 0, -1, 1.5),
            "steps": NO_POSITIVE_COUNT,
            "shift": ("5", NAN, INF, 0, -1.0, []),
            "guidance_scale": NO_NUMBER,
            "context_sigma": NO_SHARE,
            "text_length": (*NO_POSITIVE_COUNT, 513),
            "timesteps": ((), (NAN,), (1000, 1000), (0,), (1001,), (1, 2), "1000", (None,), ("9",)),
            "window": ("9", NAN, INF, 0, -1, 2, 4.5),
            "sink": (*NO_COUNT,),
            "negative_prompt": (None, 3, ["a"]),
        },
        {"shift": ("shift",)},
    ),
    Api(
        "Stream",
        streamed,
        {
            "seeds": [1],
            "budget_bytes": lambda: budget(backbone(), 9, 1, 1),
            "size": (4, 4),
            "prompts": ["a red ball"],
            "conditioning": None,
            "frames": None,
        },
        {
            "seeds": ([], None, ["1"], [1.5], [NAN], [2**80], "12"),
            "budget_bytes": ("9", NAN, INF, 0, -1, 10, []),
            "size": ((0, 4), (3, 4), (-4, 4), (4,), (4, 4, 4), (4.0, 4), "44", (10**9, 10**9), 4),
            "prompts": ([], ["a", "b"], "a", [None], [3], None),
            "conditioning": (
                full(NAN, 1, 16, 1, 4, 4),
                seeded(1, 16, 1, 4, 5),
                seeded(1, 4, 1, 4, 4),
                seeded(3, 16, 1, 4, 4),
                seeded(16, 1, 4, 4),
                seeded(1, 16, 9, 4, 4),
            ),
            "frames": ("2", NAN, INF, 0, -1, 1.5, 10**9),
        },
        {
            "conditioning": ("latents", "conditioning"),
            "prompts": ("prompt",),
            "seeds": ("seed",),
            "frames": ("chunk", "frame", "budget"),
            "size": ("height", "width", "budget"),
        },
    ),
    Api(
        "frame_bytes",
        lambda height, width, batch: frame_bytes(backbone().transformer, height, width, batch),
        {"height": 4, "width": 4, "batch": 1},
        {"height": (*NO_POSITIVE_COUNT,), "width": (0, -4, NAN, "4"), "batch": (*NO_POSITIVE_COUNT,)},
    ),
    Api(
        "grouped_attention",
        lambda sees, log_weight: grouped_attention(
            {"x": seeded(1, 4, 2, 8)},
            {"x": (seeded(1, 4, 2, 8),) * 2, "m": (seeded(1, 3, 2, 8),) * 2},
            sees,
            log_weight,
        ),
        {"sees": {"x": ("x", "m")}, "log_weight": None},
        {"sees": ({}, {"x": ("y",)}, {"y": ("x",)}, None), "log_weight": ({"m": seeded(1, 4)}, {"z": seeded(1, 3)})},
        {"sees": ("group", "sees"), "log_weight": ("log-weight", "log weight")},
    ),
)

"""Encoders, their configurations, and the other parts that are trained."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from memkit import (
    FrameContextConfig,
    FrequencyEncoder,
    FrequencyEncoderConfig,
    HighPass,
    LowPass,
    MemoryGate,
    PMRoPEConfig,
    QueryLayersConfig,
    QueryModuleConfig,
    load_dit_mem,
    load_encoder,
    make_encoder,
)
from memkit.encoders import DitMemConfig, PatchEncoderConfig
from tests.faults.inputs import HUGE, INF, NAN, NO_NUMBER, NO_PLACE, NO_POSITIVE_COUNT, Api
from tests.faults.part_kinds import small_encoder
from tests.helpers.streams import seeded

NO_CUTOFF: tuple[Any, ...] = ("1", None, [], NAN, 0, -0.1)
SIZE = (*NO_POSITIVE_COUNT, HUGE)
TRIPLE: tuple[Any, ...] = ((1, 2), (0, 1, 1), (1, -1, 1), (1, 1.5, 1), (1, NAN, 1), "122", None, 3, (1, 2, "3"))


def config(kind: type, good: dict[str, Any], bad: dict[str, Any]) -> Api:
    return Api(kind.__name__, kind, good, bad)


def encoded(latents: Any, mask: Any) -> object:
    return small_encoder()(latents, mask)


def filtered(kind: type, x: Any, **options: Any) -> object:
    return kind(**options)(x)


def gate(num_layers: Any, num_heads: Any, start: Any) -> object:
    return MemoryGate(num_layers, num_heads, start)


def loaded(folder: Any, encoder: Any) -> object:
    if folder is None:
        folder = tempfile.mkdtemp()
        small_encoder().save_pretrained(folder)
    return load_encoder(folder, encoder)


def made(name: Any, size: Any, dim: Any, latent_channels: Any) -> object:
    torch.manual_seed(0)
    return make_encoder(name, size, dim=dim, latent_channels=latent_channels)


def released(source: Any) -> object:
    if source is None:
        return None
    return load_dit_mem(source)


def saved(folder: Any) -> object:
    small_encoder().save_pretrained(Path(tempfile.mkdtemp()) / "x" if folder is None else folder)
    return None


CLIPS = seeded(1, 2, 4, 2, 4, 4)
SMALL = {"latent_channels": 4, "dim": 16, "hidden": 8, "width": 16, "heads": 2, "layers": 1}

APIS = (
    config(
        FrequencyEncoderConfig,
        SMALL,
        {
            **dict.fromkeys(
                ("latent_channels", "dim", "hidden", "width", "heads", "layers", "norm_groups"), NO_POSITIVE_COUNT
            ),
            "stem_stride": TRIPLE,
            "patch": TRIPLE,
            "filter_shape": ("box", None, 3),
            "cutoff_time": NO_CUTOFF,
            "cutoff_space": NO_CUTOFF,
        },
    ),
    config(
        PatchEncoderConfig,
        {"latent_channels": 4, "dim": 16, "width": 16, "patch": (1, 2, 2)},
        {**dict.fromkeys(("latent_channels", "dim", "width"), NO_POSITIVE_COUNT), "patch": TRIPLE},
    ),
    config(
        DitMemConfig,
        {"latent_channels": 4, "dim": 16, "heads": 2, "channels": (4, 8), "grid": (2, 2), "copies": 1},
        {
            **dict.fromkeys(("latent_channels", "dim", "heads", "copies"), NO_POSITIVE_COUNT),
            "channels": ((4,), (0, 8), (4, -8), "48", None, (4, 1.5), (NAN, 8)),
            "grid": ((2,), (0, 2), (2, -2), "22", None, (2, 1.5)),
            "resize_to": ((4, 4), (0, 4, 4), (4, 4, 1.5), "444", (NAN, 4, 4)),
        },
    ),
    config(
        QueryLayersConfig,
        {"dim": 16, "blocks": 2, "layers": 1},
        {
            **dict.fromkeys(("dim", "blocks", "layers"), NO_POSITIVE_COUNT),
            "query": ("x", None, 3, "learned"),
            "query_shape": ((4, 1, 2, 2), (4,), "4122"),
            "query_time": ("x", None, 3),
            "context_time": ("x", None, 3),
            "cameras": ((), "exact", (1,), None, ("a", "a"), ("a/b",), ("a.b",)),
        },
    ),
    config(
        QueryModuleConfig,
        {"layers": 1, "heads": 2, "head_dim": 8, "ffn_dim": 16, "channels": 4, "text_dim": 8},
        {
            **dict.fromkeys(("layers", "heads", "head_dim", "ffn_dim", "channels", "text_dim"), NO_POSITIVE_COUNT),
            "cameras": ((), "exact", (1,), ("a", "a")),
        },
    ),
    config(
        FrameContextConfig,
        {"dim": 16, "blocks": 2, "channels": 4},
        {
            **dict.fromkeys(("dim", "blocks", "channels"), NO_POSITIVE_COUNT),
            "patch_size": TRIPLE,
            "packing": (((1, 0),), ((0, 1),), ((1,),), (1, 1), "11", ((1.5, 1),), ((1, -2),), None, ((1, 1), (2, 3))),
            "keep_start": ("yes",),
            "cameras": ((), "exact", (1,), ("a", "a")),
        },
    ),
    config(
        PMRoPEConfig,
        {"layers": 2, "heads": 2, "head_dim": 8},
        {**dict.fromkeys(("layers", "heads", "head_dim"), NO_POSITIVE_COUNT), "mode": ("on", None, 3)},
    ),
    Api(
        "FrequencyEncoder(config)",
        lambda **sizes: FrequencyEncoder(FrequencyEncoderConfig(**sizes)).config,
        {**SMALL, "stem_stride": (1, 1, 1), "patch": (1, 2, 2)},
        {
            **dict.fromkeys(("dim", "hidden", "width", "layers", "latent_channels"), (10**9, HUGE, 2**70)),
            "patch": ((1, 10**9, 1),),
        },
        {
            "layers": ("memory", "large"),
            "dim": ("memory", "large"),
            "hidden": ("memory", "large"),
            "width": ("memory", "large"),
            "latent_channels": ("memory", "large"),
            "patch": ("memory", "large"),
        },
    ),
    Api(
        "FrequencyEncoder(...)",
        encoded,
        {"latents": CLIPS, "mask": None},
        {
            "latents": (
                CLIPS[0],
                CLIPS[:, :, :3],
                CLIPS[:, :0],
                CLIPS.long(),
                CLIPS * NAN,
                CLIPS * INF,
                CLIPS.double() * 1e300,
                CLIPS.to(torch.cfloat),
            ),
            "mask": (torch.ones(1, 2), torch.ones(1, 3).bool(), torch.ones(2).bool()),
        },
        {"latents": ("tokens",)},
    ),
    Api(
        "LowPass",
        lambda **given: filtered(LowPass, **given),
        {"x": seeded(1, 2, 4, 4, 4), "cutoff_time": 0.25, "cutoff_space": 0.25, "shape": "butterworth", "order": 4},
        {
            "cutoff_time": NO_CUTOFF,
            "cutoff_space": NO_CUTOFF,
            "shape": ("box", None, 3),
            "order": NO_POSITIVE_COUNT,
            "x": (seeded(4, 4), seeded(1, 2, 4, 4, 4).long(), seeded(1, 2, 0, 4, 4)),
        },
        {"x": ("shape", "input", "float", "size"), "cutoff_time": ("cut-off",), "cutoff_space": ("cut-off",)},
    ),
    Api(
        "HighPass",
        lambda **given: filtered(HighPass, **given),
        {"x": seeded(1, 2, 4, 4, 4), "cutoff_time": 0.25, "order": 4},
        {"cutoff_time": (NAN, 0, "1", None), "order": (0, NAN, "4", 1.5), "x": (seeded(4, 4),)},
        {"x": ("shape", "input", "size"), "cutoff_time": ("cut-off",)},
    ),
    Api(
        "MemoryGate",
        gate,
        {"num_layers": 2, "num_heads": 2, "start": 0.1},
        {"num_layers": SIZE, "num_heads": SIZE, "start": NO_NUMBER},
        {"num_layers": ("layers",), "num_heads": ("heads",)},
    ),
    Api(
        "make_encoder",
        made,
        {"name": "frequency", "size": "tiny", "dim": None, "latent_channels": None},
        {
            "name": ("x", "", "os:path", "no.such:Class", None, 3, "memkit.encoders:"),
            "size": ("x", None, 3),
            "dim": ("16", NAN, 0, -1, 1.5, HUGE),
            "latent_channels": ("16", NAN, 0, -1, 1.5),
        },
        {"name": ("encoder",), "dim": ("memory",)},
    ),
    Api(
        "load_encoder",
        loaded,
        {"folder": None, "encoder": None},
        {
            "folder": ("/proc/nowhere/at/all", "", "a\0b", "no/such/id", lambda: tempfile.mkdtemp()),
            "encoder": ("x", "os:path", "no.such:Class", 3),
        },
    ),
    Api(
        "load_dit_mem",
        released,
        {"source": None},
        {"source": ("/proc/nowhere", "", "/dev/null", tempfile.gettempdir(), {}, {"a": torch.zeros(1)}, [1], 3)},
        {"source": ("state dict", "checkpoint")},
    ),
    Api("save_pretrained", saved, {"folder": None}, {"folder": NO_PLACE}),
)

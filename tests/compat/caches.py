"""diffusers' caches, which skip computation that changes little between denoising steps.

Each is written out a second time, in a few lines of forward hooks on a plain model, as the reference: there every layer
runs, and what the cache would give in its place replaces its output.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import FasterCacheConfig, FirstBlockCacheConfig, MagCacheConfig, PyramidAttentionBroadcastConfig
from diffusers.hooks import SeaCacheConfig, TaylorSeerCacheConfig, TextKVCacheConfig
from torch import Tensor, nn

from tests.compat.declared import Refused

STEPS = 5
EVERYWHERE = (-1, 1001)
"""Timesteps at which a cache may skip."""


class Denoising:
    """The step and the pass that run, and what the reference of a cache keeps for each pass."""

    def __init__(self) -> None:
        self.step, self.name = 0, ""
        self._kept: dict[Any, dict[str, Any]] = {}

    def timestep(self) -> int:
        return 1000 - 100 * self.step

    def forget(self) -> None:
        """Denoising begins anew: nothing is kept of what ran before."""
        self.step = 0
        self._kept.clear()

    def kept(self, key: Any) -> dict[str, Any]:
        """What was kept for a module in this pass."""
        return self._kept.setdefault((self.name, key), {})


Reference = Callable[[Any, Denoising], None]


@dataclass(frozen=True)
class Cache:
    """A cache of diffusers, and forward hooks that do the same to a plain model."""

    title: str
    config: Callable[[Denoising], Any]
    reference: Reference
    by_pass: bool = True
    """Whether it keeps the passes of ``cache_context`` apart."""
    refused: Mapping[str, Refused] = field(default_factory=dict)
    note: str = ""


def replayed(skipped: Callable[[int], bool], line: float = 0.0) -> Reference:
    """Self-attention gives what it gave last, continued along the line through its last two outputs times ``line``."""

    def reference(model: Any, now: Denoising) -> None:
        def replay(attn: nn.Module, _: tuple, out: Tensor) -> Tensor | None:
            kept = now.kept(attn)
            if skipped(now.step):
                out = kept["last"] + (line * (kept["last"] - kept["before"]) if line else 0.0)
            kept["before"], kept["last"] = kept.get("last"), out
            return out

        for block in model.blocks:
            block.attn1.register_forward_hook(replay)

    return reference


def added(skipped: Callable[[int], bool], first_runs: bool) -> Reference:
    """Blocks do not run; all together add what they added when they last ran, the first one perhaps apart."""

    def reference(model: Any, now: Denoising) -> None:
        first, last = model.blocks[0], model.blocks[-1]

        def replay(block: nn.Module, args: tuple, out: Tensor) -> Tensor | None:
            kept = now.kept(model)
            if block is first:
                kept["start"] = out if first_runs else args[0]
                return kept["start"] + kept["added"] if skipped(now.step) else None
            if skipped(now.step):
                return args[0]
            if block is last:
                kept["added"] = out - kept["start"]
            return None

        for block in model.blocks:
            block.register_forward_hook(replay)

    return reference


def predicted(skipped: Callable[[int], bool]) -> Reference:
    """Every attention continues the line through its last two outputs that were computed, by steps."""

    def reference(model: Any, now: Denoising) -> None:
        def predict(attn: nn.Module, _: tuple, out: Tensor) -> Tensor | None:
            points = now.kept(attn).setdefault("points", [])
            if skipped(now.step):
                (step_0, out_0), (step_1, out_1) = points[-2:]
                return out_1 + (out_1 - out_0) / (step_1 - step_0) * (now.step - step_1)
            points.append((now.step, out))
            return None

        for block in model.blocks:
            block.attn1.register_forward_hook(predict)
            block.attn2.register_forward_hook(predict)

    return reference


def unchanged(model: Any, now: Denoising) -> None:
    """A cache that does nothing on Wan."""


QUERY_LAYERS = Refused(
    "needs every block to run",
    "Query layers collect the keys and values of the context in every block, and a cache skips blocks: call "
    "`transformer.disable_cache()`.",
)
STATES = Refused(
    "needs every block to run",
    "Recurrent memory advances its state in each of its blocks, and a cache skips blocks: call "
    "`transformer.disable_cache()`.",
)
HINTS = Refused(
    "needs every block to run",
    "They add to what each block passes on, which would be lost in a block that a cache skips: call "
    "`transformer.disable_cache()`.",
)
WHOLE = {"query_layers": QUERY_LAYERS, "state_space": STATES}
FURTHER = {"matrix_state": STATES, "control_branch": HINTS, "echo_memory": HINTS}
PASSES = Refused(
    "does not tell the passes of guidance apart",
    "The cache counts calls, and guided memory is visible to only one of the guidance passes: another pass would "
    "reuse attention that includes the memory, or the memory would be ignored. Use FirstBlockCache, MagCache, "
    "TaylorSeer or SeaCache.",
)

CACHES = {
    "pab": Cache(
        "PyramidAttentionBroadcast",
        lambda now: PyramidAttentionBroadcastConfig(
            spatial_attention_block_skip_range=2,
            spatial_attention_timestep_skip_range=EVERYWHERE,
            current_timestep_callback=now.timestep,
        ),
        replayed(lambda step: step % 2 == 1),
        by_pass=False,
        refused={**WHOLE, "guided_memory": PASSES},
    ),
    "first_block": Cache(
        "FirstBlockCache",
        lambda now: FirstBlockCacheConfig(threshold=1e9),
        added(lambda step: step > 0, first_runs=True),
        refused={**WHOLE, **FURTHER},
    ),
    "mag": Cache(
        "MagCache",
        lambda now: MagCacheConfig(1e9, max_skip_steps=1, retention_ratio=0, num_inference_steps=9, mag_ratios=[1] * 9),
        added(lambda step: step % 2 == 1, first_runs=False),
        refused=WHOLE,
    ),
    "taylor": Cache(
        "TaylorSeer",
        lambda now: TaylorSeerCacheConfig(
            cache_interval=2,
            disable_cache_before_step=2,
            taylor_factors_dtype=torch.float32,
            cache_identifiers=[r"blocks\.\d+\.attn\d"],
        ),
        predicted(lambda step: step > 1 and step % 2 == 0),
        refused=WHOLE,
        note="Its default patterns match no layer of Wan in diffusers 0.42: pass `cache_identifiers`.",
    ),
    "faster": Cache(
        "FasterCache",
        lambda now: FasterCacheConfig(
            is_guidance_distilled=True,
            spatial_attention_timestep_skip_range=(-1, 801),
            attention_weight_callback=lambda _: 0.5,
            current_timestep_callback=now.timestep,
        ),
        replayed(lambda step: step == 3, line=0.5),
        by_pass=False,
        refused={**WHOLE, "guided_memory": PASSES},
        note="With `is_guidance_distilled=True`. Otherwise it needs both guidance passes in one batch, but Wan's "
        "pipelines run them one after the other.",
    ),
    "sea": Cache(
        "SeaCache",
        lambda now: SeaCacheConfig(threshold=1e9, residual_order=0, max_consecutive_cached=1),
        added(lambda step: step % 2 == 1, first_runs=False),
        refused=WHOLE,
    ),
    "text_kv": Cache(
        "TextKVCache",
        lambda now: TextKVCacheConfig(),
        unchanged,
        refused=WHOLE,
        note="It has no effect on Wan, but counts as an enabled cache.",
    ),
}

"""`ClipAttention`: where in a generated video attention falls on memory, and on which moment of which clip."""

from __future__ import annotations

from typing import Any

import torch
from jaxtyping import Float
from torch import Tensor

from memkit.attention import grouped_attention
from memkit.backbones.base import VIDEO
from memkit.errors import InputError
from memkit.injectors.self_attention import SelfAttentionConcat
from memkit.memory import Memory


class ClipAttention(SelfAttentionConcat):
    """Memory tokens in every self-attention, as `SelfAttentionConcat`, with the attention on groups of them.

        memory = ClipAttention(tokens, clips=3, moments=5)
        with memory.attach(backbone):
            generate_video(backbone, prompt)
        memory.shares()  # of each token of the video, on each moment of each clip

    Args:
        memory: tokens of ``clips`` clips of equal size, as `FrequencyEncoder` orders them: by clip, branch, time and
            place; none masked.
        clips: number of clips.
        moments: number of moments in time that a branch has tokens for.

    Raises:
        InputError: there are masked tokens, or their number does not fit.
    """

    def __init__(self, memory: Memory, clips: int, moments: int) -> None:
        super().__init__(memory)
        count = memory.tokens.shape[1]
        if memory.mask is not None and not bool(memory.mask.all()):
            raise InputError("Some memory tokens are masked; give those of whole clips.")
        if count % (clips * 2 * moments):
            raise InputError(f"{count} tokens are not those of {clips} clips of two branches and {moments} moments.")
        index = torch.arange(clips * moments).reshape(clips, 1, moments, 1)
        self.clips, self.moments = clips, moments
        self.groups = index.expand(-1, 2, -1, count // (clips * 2 * moments)).flatten()
        self._sum, self._layers = torch.zeros(()), 0

    def shares(self) -> Float[Tensor, "tokens clips moments"]:
        """Mean shares over all layers, heads and calls so far, in [0, 1].

        Of a gated memory, which has a softmax of its own, the shares of the layer's output: the share of memory in it,
        |gate·y_memory| / (|y| + |gate·y_memory|) as in `AttentionRecorder`, times the attention within memory.
        """
        if not self._layers:
            raise InputError("No attention was recorded; call the model while the memory is attached.")
        return (self._sum / self._layers).unflatten(1, (self.clips, self.moments))

    def layer(self, *args: Any) -> Any:
        return _Watched(super().layer(*args), self)

    def attention(
        self, q: Tensor, kv: dict[str, tuple[Tensor, Tensor]], group: str, log_weight: dict[str, Tensor]
    ) -> Float[Tensor, "batch tokens heads groups"]:
        """The shares of one layer: attention to values that are 1 for one group of tokens and 0 elsewhere."""
        marks = torch.nn.functional.one_hot(self.groups).to(q.device).float()
        values = {name: k.new_zeros(*k.shape[:3], marks.shape[1], dtype=torch.float32) for name, (k, _) in kv.items()}
        values[group] += marks[None, :, None]
        keys = {name: (k.float(), values[name]) for name, (k, _) in kv.items()}
        return grouped_attention({VIDEO: q.float()}, keys, {VIDEO: tuple(kv)}, log_weight)[VIDEO]

    def add(self, shares: Float[Tensor, "batch tokens heads groups"]) -> None:
        """Add the shares of one layer to the mean."""
        self._sum = self._sum + shares.mean((0, 2)).cpu()
        self._layers += 1


class _Watched:
    """The injection of one layer, of which the attention is recorded before its outputs are combined."""

    def __init__(self, layer: Any, owner: ClipAttention) -> None:
        self.layer, self.owner = layer, owner

    def prepare(self, *args: Any) -> Any:
        return self.layer.prepare(*args)

    def extend(self, *args: Any) -> Any:
        return self.layer.extend(*args)

    def finish(self, table: Any, group: str, out: Any, prepared: Any) -> None:
        gate = self.owner.memory.gate
        seen = (group,) if gate is not None else table.sees[VIDEO]
        weights = {name: table.log_weight[name] for name in seen if name in table.log_weight}
        shares = self.owner.attention(table.q[VIDEO], {name: table.kv[name] for name in seen}, group, weights)
        if gate is not None:
            added = (self.layer.gate.to(out[group])[:, None] * out[group]).float().norm(dim=-1)
            shares = shares * (added / (added + out[VIDEO].float().norm(dim=-1)))[..., None]
        self.owner.add(shares)
        self.layer.finish(table, group, out, prepared)

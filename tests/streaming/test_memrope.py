"""MemRoPE as a preset against an independent rollout in float64, under original names of the weights."""

from dataclasses import replace

import torch

from memkit.generation.noise import frame_noise
from memkit.streaming import MEMORY_PRESETS
from tests.helpers.causal_wan import CausalWan, rollout, warped
from tests.helpers.original_wan import random_state
from tests.helpers.random_wan import random_pipeline
from tests.helpers.streams import PROMPTS, Short
from tests.helpers.wan_files import HEADS, load

SEEDS, CHUNKS, SINK, RECENT, RATES = (1, 2), 5, 3, 4, (0.01, 0.1)


class MemRoPEWan(CausalWan):
    """Keys before rotation: [sink 3 | long 1 | short 1 | recent 4 | chunk], rotated at each call to 0, 1, 2, …"""

    def __init__(self, state, heads):
        super().__init__(state, heads, window=12)
        self.sink, self.recent, self.averages = ([[] for _ in range(self.layers)] for _ in range(3))
        self.now = [None] * self.layers  # first frame of the running chunk, and its keys and values

    def finish(self, layer):
        """The running chunk becomes a part of the past."""
        for frame in zip(*(x.split(self.per_frame, 1) for x in self.now[layer][1:]), strict=True):
            (self.sink if len(self.sink[layer]) < SINK else self.recent)[layer].append(frame)
        gone = self.recent[layer][: max(0, len(self.recent[layer]) - RECENT)]
        del self.recent[layer][: len(gone)]
        if gone:
            means = [torch.cat([frame[i] for frame in gone], 1).mean(1, keepdim=True) for i in range(2)]
            old = self.averages[layer] or [means, means]
            self.averages[layer] = [
                [rate * m + (1 - rate) * e for m, e in zip(means, each, strict=True)]
                for rate, each in zip(RATES, old, strict=True)
            ]

    def self_attention(self, layer, y, grid, per_frame):
        name, self.per_frame = f"blocks.{layer}.self_attn", per_frame
        q, k, v = (self.linear(f"{name}.{part}", y) for part in "qkv")
        q, k = self.split(self.rms(q, f"{name}.norm_q")), self.split(self.rms(k, f"{name}.norm_k"))
        start, v = int(grid[0, 0]), self.split(v)
        if self.now[layer] is not None and self.now[layer][0] != start:
            self.finish(layer)
        self.now[layer] = (start, k, v)
        averages = [[x.expand(-1, per_frame, -1, -1) for x in each] for each in self.averages[layer]]
        past = [*self.sink[layer], *averages, *self.recent[layer]]
        frames = len(past) + k.shape[1] // per_frame
        slots = grid[:per_frame].repeat(frames, 1)
        slots[:, 0] = torch.arange(frames).repeat_interleave(per_frame)
        keys = self.rotate(torch.cat([*(f[0] for f in past), k], 1), slots)
        values = torch.cat([*(f[1] for f in past), v], 1)
        return self.attend(name, self.rotate(q, slots[-k.shape[1] :]), keys, values)


def test_it_is_the_rollout_of_the_method():
    state, pipe = random_state(), random_pipeline()
    pipe.transformer = load(state)
    backbone, shape = Short.from_pipeline(pipe), (16, 4, 4)
    memory = MEMORY_PRESETS["memrope"]()
    memory = replace(memory, config=replace(memory.config, timesteps=(1000, 500)))
    stream = memory.stream(backbone, list(SEEDS), size=(4, 4))
    made = torch.cat([stream.generate(PROMPTS) for _ in range(CHUNKS)], 2)
    noise, texts = frame_noise(SEEDS, "noise", range(3 * CHUNKS), shape), [backbone.encode_text(PROMPTS)] * CHUNKS
    model = MemRoPEWan(state, HEADS["num_attention_heads"])
    steps = warped([1000, 500], 5.0)
    want = rollout(model, noise, lambda i, at: frame_noise(SEEDS, f"step {i}", at, shape), texts, steps, 3)
    assert ((made - want).abs().amax((0, 1, 3, 4)) / want.abs().max() < 2e-4).all()
    assert model.averages[0] and stream.cache.branch().averages is not None

"""What a Wan costs, from its sizes: against PyTorch's own counter, on models that are run."""

from dataclasses import replace

import pytest
import torch
from diffusers import WanTransformer3DModel
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from memkit.backbones import PRESETS, VideoFormat
from memkit.backbones.cost import TEXT_TOKENS, WanCost
from memkit.errors import InputError
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory

SMALL = {"num_layers": 2, "num_attention_heads": 3, "attention_head_dim": 16, "ffn_dim": 80, "text_dim": 24}


@pytest.mark.parametrize("name", ["wan2.1-t2v-1.3b", "wan2.2-ti2v-5b"])
@pytest.mark.parametrize("memory_tokens", [0, 7])
def test_operations_are_those_that_pytorch_counts(name, memory_tokens):
    preset = PRESETS[name]()
    preset = replace(preset, transformer={**preset.transformer, **SMALL})
    cost = WanCost(preset, VideoFormat(9, 64, 96, 16.0))
    model = WanTransformer3DModel(**preset.transformer).eval()
    latents, text = torch.randn(1, *cost.latents), torch.randn(1, TEXT_TOKENS, 24)
    timestep = torch.full((1, cost.tokens), 500.0) if preset.expand_timesteps else torch.tensor([500.0])
    memory = SelfAttentionConcat(Memory(torch.randn(1, max(1, memory_tokens), cost.width)))

    def count() -> int:
        math = sdpa_kernel(SDPBackend.MATH)  # the counter does not know the fused attention of a CPU
        with math, FlopCounterMode(display=False) as counted, torch.no_grad():
            model(latents, timestep, text)
        return counted.get_total_flops()

    if memory_tokens:
        with memory.attach(model):
            assert count() == cost.operations(memory_tokens=memory_tokens)
    else:
        assert count() == cost.operations()
    assert cost.parameters == sum(p.numel() for p in model.parameters())


def test_cached_tokens_cost_attention_alone():
    cost = WanCost(PRESETS["wan2.1-t2v-1.3b"](), VideoFormat(81, 480, 832, 16.0))
    assert cost.operations(1560, cached_tokens=100) - cost.operations(1560) == 2 * 30 * 2 * 1560 * 100 * 1536


@pytest.mark.parametrize("form", [(82, 480, 832), (81, 488, 832), (81, 480, 840)])
def test_a_video_that_does_not_fit_is_refused(form):
    with pytest.raises(InputError, match="multiples of 16"):
        WanCost(PRESETS["wan2.1-t2v-1.3b"](), VideoFormat(*form, 16.0))

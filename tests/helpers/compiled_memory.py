"""Run by test_compile.py in an interpreter without the run-time shape checks, which torch.compile cannot trace.

Prints a JSON object of graph counts and largest differences to the uncompiled model.
"""

import gc
import json

import torch
import torch._dynamo

from memkit.cameras import CameraPath, Cameras
from memkit.generation import GuidedMemory
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory
from memkit.positions import PMRoPE, PMRoPEConfig
from tests.helpers.backbones import BACKBONES
from tests.helpers.random_wan import SMALL, random_transformer

SPLIT = {"cogvideox", "cogvideox_2b"}
"""Models with a hook on the model itself, which torch.compile traces apart from it."""
UNTRACEABLE = {"hunyuan_15"}
"""Models whose own forward torch.compile cannot trace as one graph."""


def counting(graphs):
    def backend(module, _inputs):
        graphs.append(module)
        return module

    return backend


def run(model):
    torch.manual_seed(1)
    latents, text = torch.randn(2, 16, 3, 4, 4), torch.randn(2, 6, SMALL["text_dim"])
    with torch.no_grad():
        return model(latents, torch.tensor([700.0, 150.0]), text, return_dict=False)[0]


def measure(layers, by_block, gate=None, mask=None):
    torch._dynamo.reset()
    model, graphs = random_transformer(num_layers=layers), []
    memory = Memory(torch.randn(2, 7, 48, generator=torch.Generator().manual_seed(2)), mask=mask, gate=gate)
    with SelfAttentionConcat(memory).attach(model):
        want = run(model)
        backend = counting(graphs)
        if by_block:
            for block in model.blocks:
                block.compile(backend=backend, fullgraph=True)
            got = run(model)
        else:
            got = run(torch.compile(model, backend=backend, fullgraph=True))
    return len(graphs), (got - want).abs().max().item()


def other(name):
    """Memory tokens in one graph of the whole of another model, of which the first blocks of each kind are enough."""
    torch._dynamo.reset()
    backbone, graphs = BACKBONES[name], []
    model = backbone.make()
    for blocks in model.children():
        if isinstance(blocks, torch.nn.ModuleList):
            del blocks[1:]
    memory = Memory(torch.randn(2, 7, 48, generator=torch.Generator().manual_seed(2)))
    with torch.no_grad(), SelfAttentionConcat(memory).attach(model):
        want = backbone.call(model)
        got = backbone.call(torch.compile(model, backend=counting(graphs), fullgraph=True))
    return len(graphs), (got - want).abs().max().item()


def cameras():
    """PM-RoPE in one graph of the whole model."""
    torch._dynamo.reset()
    model, graphs = random_transformer(), []
    positions = PMRoPE(PMRoPEConfig.of(model))
    for i, parameter in enumerate(positions.parameters()):
        parameter.data = 0.1 * torch.randn(parameter.shape, generator=torch.Generator().manual_seed(i))
    path = CameraPath.of(Cameras(torch.eye(4).repeat(1, 3, 1, 1), torch.full((1, 3, 4), 0.7)))
    with positions.attach(model) as posed, posed.chunk(path):
        want = run(model)
        got = run(torch.compile(model, backend=counting(graphs), fullgraph=True))
    return len(graphs), (got - want).abs().max().item()


def guided():
    """Memory that only the conditional pass sees: two graphs, one with it and one without, however many steps."""
    torch._dynamo.reset()
    model, graphs, worst = random_transformer(), [], 0.0
    memory = SelfAttentionConcat(Memory(torch.randn(2, 7, 48, generator=torch.Generator().manual_seed(2))))
    compiled = torch.compile(model, backend=counting(graphs))
    with GuidedMemory(memory, "conditional").attach(model):
        for _ in range(3):
            for name in ("cond", "uncond"):
                with model.cache_context(name):
                    worst = max(worst, (run(compiled) - run(model)).abs().max().item())
    return len(graphs), worst


if __name__ == "__main__":
    gc.disable()  # a tenth of the time; the process is short
    ragged = torch.tensor([[True] * 7, [True] * 4 + [False] * 3])
    absent = torch.tensor([[True] * 7, [False] * 7])
    print(
        json.dumps(
            {
                "whole": measure(2, False),
                "whole, absent": measure(2, False, mask=absent),
                "whole, gated": measure(2, False, gate=torch.zeros(2, 2)),
                "whole, cameras": cameras(),
                **{
                    f"{'split' if name in SPLIT else 'whole'}, {name}": other(name)
                    for name in BACKBONES
                    if name not in UNTRACEABLE and name != "wan"  # which is measured above
                },
                "guided": guided(),
                "1 block": measure(1, True, mask=ragged),
                "3 blocks": measure(3, True, mask=ragged),
            }
        )
    )

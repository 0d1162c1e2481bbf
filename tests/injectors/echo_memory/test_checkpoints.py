"""Echo-Memory's checkpoints: their layouts, what they compute, and that the model is the same afterwards."""

from __future__ import annotations

import pytest
import torch
from safetensors.torch import save_file

from memkit.backbones import WanBackbone
from memkit.errors import InputError, MemkitError
from memkit.injectors import KVCache
from memkit.injectors.echo_memory import ROWS, EchoConfig, EchoMemory, load_echo_memory
from tests.helpers import original_wan
from tests.helpers.attachables import call, seeded
from tests.helpers.echo_memory import HEADS, checkpoint, forward
from tests.helpers.random_wan import random_transformer

SMALL = {"num_attention_heads": HEADS, "attention_head_dim": 24}
COUNTS = {  # of the public files
    "context_k1": (1185, 1_702_987_840),
    "framepack_len_r8": (1185, 1_702_987_840),
    "block_wise_ssm_causal_v2": (1249, 1_759_684_680),
}
CONTEXT = {"context_k1": 1, "framepack_len_r8": 13, "block_wise_ssm_causal_v2": 2}


def inputs(k: int, seed: int = 3) -> dict[str, torch.Tensor]:
    return {
        "latents": seeded(2, 16, 3, 8, 8, seed=seed),
        "timestep": torch.tensor([812.0, 40.0]),
        "text": seeded(2, 5, 32, seed=seed + 1),
        "poses": seeded(2, 3, 12, seed=seed + 2),
        "context": seeded(1, 16, k, 8, 8, seed=seed + 3).expand(2, -1, -1, -1, -1),
        "context_poses": seeded(1, k, 12, seed=seed + 4).expand(2, -1, -1),
    }


@pytest.mark.parametrize("row", ROWS)
def test_the_layouts_have_the_names_shapes_and_counts_of_the_public_files(row, monkeypatch) -> None:
    monkeypatch.setattr(original_wan, "normal", lambda *shape, generator: torch.empty(*shape, device="meta"))
    state = checkpoint(row, dim=1536, heads=12, ffn=8960, layers=30, text=4096)
    assert (len(state), sum(x.numel() for x in state.values())) == COUNTS[row]
    with torch.device("meta"):
        memory = EchoMemory(ROWS[row]())
    own = {name: x.shape for name, x in memory.state_dict().items()}
    assert own == {name: state[name].shape for name in own}
    assert len(own) == COUNTS[row][0] - 825


@torch.no_grad()
@pytest.mark.parametrize("row", ROWS)
def test_a_checkpoint_computes_what_is_described(row, tmp_path) -> None:
    state = checkpoint(row)
    (tmp_path / row).mkdir()
    save_file(state, tmp_path / row / "epoch-0.safetensors")
    model, memory = load_echo_memory(tmp_path / row / "epoch-0.safetensors", config=SMALL)  # the folder names the row
    given = inputs(CONTEXT[row])
    x, t, text, poses, context, context_poses = given.values()
    base = model(x, t, text, return_dict=False)[0]
    with memory.attach(model) as attached:
        with attached.chunk(poses, context[:1], context_poses[:1]):
            got = model(x, t, text).sample
        with attached.chunk(poses):
            alone = model(x, t, text, return_dict=False)[0]
    assert torch.equal(model(x, t, text, return_dict=False)[0], base)
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    assert not any("memkit" in name or "action" in name for name in model.state_dict())
    want = forward(state, row, **given)
    torch.testing.assert_close(got.double(), want, rtol=0, atol=1e-5 * float(want.abs().max()))
    want = forward(state, row, x, t, text, poses)
    torch.testing.assert_close(alone.double(), want, rtol=0, atol=1e-5 * float(want.abs().max()))
    memory.save_pretrained(tmp_path / "memory")
    with EchoMemory.from_pretrained(tmp_path / "memory").attach(model) as attached, attached.chunk(poses):
        assert torch.equal(model(x, t, text, return_dict=False)[0], alone)


def test_a_new_one_changes_no_bit_and_is_trained_through_checkpointed_blocks() -> None:
    model = random_transformer().train()
    config = EchoConfig(dim=48, blocks=3, heads=2)
    poses, context, context_poses = seeded(1, 3, 12), seeded(1, 16, 1, 4, 4, seed=2), seeded(1, 1, 12, seed=3)
    with torch.no_grad(), EchoMemory(config).attach(model) as attached, attached.chunk(poses):
        assert torch.equal(call(model), call(random_transformer()))
    found = []
    for checkpointing in (False, True):
        torch.manual_seed(1)
        memory = EchoMemory(EchoConfig(dim=48, blocks=3, heads=2, place="prefix", state_every=2))
        for i, parameter in enumerate(memory.parameters()):
            parameter.data = parameter.data + 0.1 * seeded(*parameter.shape, seed=20 + i)
        if checkpointing:
            model.enable_gradient_checkpointing()
        with memory.attach(model) as attached, attached.chunk(poses, context, context_poses):
            call(model).square().mean().backward()
        found.append([parameter.grad for parameter in memory.parameters()])
    assert all(g is not None and g.abs().max() > 0 for g in found[0])
    for a, b in zip(*found, strict=True):
        torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-7)


def test_wrong_checkpoints_and_wrong_use_are_refused() -> None:
    state = checkpoint("context_k1")
    with pytest.raises(InputError, match="row is None.*context_k1, framepack_len_r8"):
        load_echo_memory(state, config=SMALL)
    with pytest.raises(InputError, match="not of the row 'block_wise_ssm_causal_v2'"):
        load_echo_memory(state, "block_wise_ssm_causal_v2", SMALL)
    with pytest.raises(InputError, match="spatial_memory_module.*not built"):
        load_echo_memory({**state, "spatial_memory_module.p": torch.zeros(1)}, "context_k1", SMALL)
    older = {n: x for n, x in checkpoint("block_wise_ssm_causal_v2").items() if "residual_logit" not in n}
    with pytest.raises(InputError, match="older recurrence"):
        load_echo_memory(older, "block_wise_ssm_causal_v2", SMALL)
    with pytest.raises(InputError, match="lacks blocks.0.action_mlp.proj.bias"):
        load_echo_memory({n: x for n, x in state.items() if n != "blocks.0.action_mlp.proj.bias"}, "context_k1", SMALL)
    model, memory = load_echo_memory(state, "context_k1", SMALL, torch_dtype=torch.bfloat16)
    assert memory.blocks[0].action_mlp.proj.weight.dtype == torch.bfloat16 == WanBackbone(model).transformer.dtype
    model, memory = load_echo_memory(state, "context_k1", SMALL)
    x, t, text, poses, context, context_poses = inputs(1).values()
    with memory.attach(model) as attached:
        with pytest.raises(MemkitError, match="outside a chunk"):
            model(x, t, text)
        with pytest.raises(InputError, match="poses of 3 target frames, and latents of 2"), attached.chunk(poses):
            model(x[:, :, :2], t, text)
        with pytest.raises(InputError, match="no timesteps per token"), attached.chunk(poses, context, context_poses):
            model(x, t[:, None].expand(2, 48), text)
        with pytest.raises(InputError, match="sets the frames"):
            KVCache(10**7).attach(model)
    with pytest.raises(InputError, match="no Wan|this memory is for"):
        memory.attach(random_transformer())

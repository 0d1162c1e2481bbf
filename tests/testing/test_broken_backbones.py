"""Models and adapters with one fault each: the suite names the property that fails."""

import pytest
import torch

from memkit.backbones import Sizes, WanAdapter, WanBackbone
from memkit.errors import InputError, MemkitError
from memkit.testing import CheckFailed, check_backbone
from tests.helpers.random_wan import random_pipeline, random_transformer


class DrawsNoise(WanBackbone):
    def velocity(self, latents, timestep, text_embeds):
        return super().velocity(latents + 1e-3 * torch.randn_like(latents), timestep, text_embeds)


class ModulatesWithoutScale(WanAdapter):
    def modulate(self, block, tokens, temb):
        return block.norm1(tokens.float()) + (block.scale_shift_table + temb.float())[:, :1]


class ForgetsTheNorm(WanAdapter):
    def project_kv(self, attn, hidden):
        return attn.to_k(hidden).unflatten(2, (attn.heads, -1)), attn.to_v(hidden).unflatten(2, (attn.heads, -1))


class SwapsQueryAndKey(WanAdapter):
    def project(self, attn, hidden):
        q, k, v = super().project(attn, hidden)
        return k, q, v


class RotatesTheOtherWay(WanAdapter):
    def tables(self, rotary):
        return rotary[0], -rotary[1]

    def own_rotary(self, carrier):
        return carrier.cos, -carrier.sin


class ShiftsFrames(WanAdapter):
    def rotary_at(self, model, positions, grid):
        return super().rotary_at(model, [p + 1 for p in positions], grid)


class ClaimsWhatItCannot(WanAdapter):
    def rotary_at(self, model, positions, grid):
        raise MemkitError("not this one")


class MissesABlock(WanAdapter):
    def blocks(self, model):
        return tuple(model.blocks)[:-1]


class WrongWidth(WanAdapter):
    def sizes(self, model):
        found = super().sizes(model)
        return Sizes(found.layers, found.heads, found.head_dim + 2, found.channels, found.patch_size)


class LeavesAHook(WanAdapter):
    def watch(self, model, begin):
        model.register_forward_hook(lambda *_: None)
        return super().watch(model, begin)


class ScalesTheOutput(WanAdapter):
    def output(self, attn, video, text):
        return 1.01 * super().output(attn, video, text)


BROKEN = {
    ModulatesWithoutScale: r"modulate\(\) is what a block does",
    ForgetsTheNorm: r"project_kv\(\) gives the keys",
    SwapsQueryAndKey: r"project_kv\(\) gives the keys|attention by the adapter",
    RotatesTheOtherWay: "attention by the adapter is the model's own",
    ScalesTheOutput: "attention by the adapter is the model's own",
    ShiftsFrames: r"rotary_at\(\) gives the model's own tables",
    ClaimsWhatItCannot: r"what needs rotary_at\(\) is unsupported",
    MissesABlock: "every block is reached, with all of its tokens' could not be measured",
    WrongWidth: "sizes are those of the blocks",
    LeavesAHook: "detached, the model is as before",
}


@pytest.mark.parametrize("kind", BROKEN, ids=lambda kind: kind.__name__)
def test_a_broken_adapter_is_named_by_its_property(kind):
    model = random_transformer()
    model.memkit_adapter = kind()
    with pytest.raises(CheckFailed, match=BROKEN[kind]):
        check_backbone(model)


def test_a_velocity_that_depends_on_the_global_random_state_is_found():
    with pytest.raises(CheckFailed, match="equal inputs give equal outputs"):
        check_backbone(DrawsNoise(random_transformer()))
    with pytest.raises(CheckFailed, match="equal inputs give equal outputs"):
        check_backbone(random_transformer(), lambda model: torch.randn(2, 16, 3, 4, 4))


def test_a_sound_one_has_all_properties_whatever_it_is_given_in():
    model = random_transformer().train()
    reports = [check_backbone(each) for each in (model, WanBackbone(model))]
    assert reports[0] == reports[1] and len(reports[0].properties) == 13 and model.training
    assert len(check_backbone(random_pipeline()).properties) == 13
    with pytest.raises(InputError, match="memkit_adapter"):
        check_backbone(torch.nn.Linear(2, 2))

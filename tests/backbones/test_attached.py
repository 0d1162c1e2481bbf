"""The one attach mechanism, over everything that attaches: what it refuses, and what it leaves behind."""

from __future__ import annotations

import copy
import io
import itertools
import pickle
import threading

import pytest
import torch
from accelerate.utils import send_to_device
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memkit.backbones import WanBackbone
from memkit.backbones.attached import attached_to
from memkit.backbones.base import Carrier
from memkit.backbones.unwrap import transformers_of
from memkit.errors import InputError, MemkitError
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory
from tests.helpers.attachables import ATTACHABLES, call, seeded
from tests.helpers.random_wan import random_pipeline, random_transformer

PLACE_FRAMES = {"kv_cache", "frame_context", "query_layers", "teacher_forcing"}


@pytest.fixture
def model():
    return random_transformer()


def assert_untouched(model) -> None:
    """No hook, attribute or processor of ours is left."""
    assert attached_to(model) == () and not [name for name in vars(model) if "memkit" in name]
    assert not any(module._forward_pre_hooks or module._forward_hooks for module in model.modules())
    for block in model.blocks:
        assert type(block.attn1.processor) is type(block.attn2.processor) is WanAttnProcessor
    assert "cache_context" not in vars(model)


@torch.no_grad()
@pytest.mark.parametrize("name", ATTACHABLES)
def test_a_second_of_its_kind_is_refused(model, name):
    one, two = ATTACHABLES[name](), ATTACHABLES[name]()
    with pytest.raises(InputError, match="each once"):
        one.thing.attach(model, model)
    with one.thing.attach(model) as attached:
        before = one.forward(model, attached)
        with pytest.raises(InputError, match="attached already"):
            one.thing.attach(model)
        if name != "memory_tokens":  # of which there may be several
            with pytest.raises(InputError, match="attached already"):
                two.thing.attach(random_transformer(1), model)
        assert torch.equal(one.forward(model, attached), before)
    assert_untouched(model)


@pytest.mark.parametrize("pair", list(itertools.permutations(sorted(PLACE_FRAMES), 2)))
def test_two_things_that_place_the_frames_are_refused(model, pair):
    first, second = (ATTACHABLES[name]().thing for name in pair)
    with first.attach(model), pytest.raises(InputError, match="positions in time"):
        second.attach(model)
    assert_untouched(model)


@torch.no_grad()
@pytest.mark.parametrize("name", ATTACHABLES)
def test_processors_that_are_replaced_meanwhile_are_an_error_and_stay(model, name):
    class Mine(WanAttnProcessor):
        pass

    one, base = ATTACHABLES[name](), call(model)
    with one.thing.attach(model) as attached:
        model.set_attn_processor(Mine())
        with pytest.raises(MemkitError, match="were replaced"):
            one.forward(model, attached)
        with pytest.raises(InputError, match="Mine"):
            SelfAttentionConcat(Memory(seeded(1, 2, 48))).attach(model)
    assert all(type(block.attn1.processor) is type(block.attn2.processor) is Mine for block in model.blocks)
    model.set_attn_processor(WanAttnProcessor())
    assert torch.equal(call(model), base)
    assert_untouched(model)


@pytest.mark.parametrize("name", ATTACHABLES)
def test_an_attached_model_is_not_copied_or_pickled(model, name):
    with ATTACHABLES[name]().thing.attach(model):
        for copied in (copy.deepcopy, pickle.dumps, lambda it: torch.save(it, io.BytesIO())):
            for what in (model, model.blocks[0]):
                with pytest.raises(MemkitError, match="cannot be copied or pickled"):
                    copied(what)
        assert model.state_dict().keys() == random_transformer().state_dict().keys()
    assert torch.equal(call(copy.deepcopy(model)), call(model))


@torch.no_grad()
def test_two_threads_on_one_transformer_are_refused(model):
    inside, go_on, failed = threading.Event(), threading.Event(), []

    def wait(*_) -> None:
        inside.set()
        go_on.wait(20)

    with SelfAttentionConcat(Memory(seeded(1, 5, 48))).attach(model):
        before = call(model)
        hook = model.blocks[0].register_forward_pre_hook(wait)
        thread = threading.Thread(target=lambda: failed.append(call(model)))
        thread.start()
        inside.wait(20)
        with pytest.raises(MemkitError, match="Two threads"):
            call(model)
        go_on.set()
        thread.join()
        hook.remove()
        assert torch.equal(failed[0], before) and torch.equal(call(model), before)


# -- what is attached to -----------------------------------------------------------------------------------------------


@torch.no_grad()
@pytest.mark.parametrize("name", ATTACHABLES)
@pytest.mark.parametrize("wrapper", ["compiled", "parallel", "peft"])
def test_wrapped_models(model, name, wrapper):
    one = ATTACHABLES[name]()
    with one.thing.attach(model) as attached:
        want = one.forward(model, attached)
    if wrapper == "compiled":
        wrapped = torch.compile(model, backend="eager")
    elif wrapper == "parallel":
        wrapped = torch.nn.DataParallel(model, device_ids=[])
    else:
        peft = pytest.importorskip("peft")
        config = peft.LoraConfig(r=2, target_modules=["to_q", "to_k", "to_v"], init_lora_weights=True)
        wrapped = peft.get_peft_model(model, config).eval()
    with one.thing.attach(wrapped) as attached:
        got = one.forward(model if wrapper == "compiled" else wrapped, attached)
    torch.testing.assert_close(got, want, rtol=0, atol=1e-6)


def test_a_pipeline_and_a_backbone_stand_for_their_experts():
    pipe = random_pipeline(boundary_ratio=0.8)
    experts = [pipe.transformer, pipe.transformer_2]
    for model in (pipe, WanBackbone.from_pipeline(pipe)):
        assert transformers_of([model], "memory tokens") == experts
        with SelfAttentionConcat(Memory(seeded(1, 5, 48))).attach(model):
            assert all(len(attached_to(expert)) == 1 for expert in experts)
        with pytest.raises(InputError, match="each once"):
            transformers_of([model, pipe.transformer], "memory tokens")
    with pytest.raises(InputError, match="not to Linear"):
        transformers_of([torch.nn.Linear(2, 2)], "memory tokens")


# -- the carrier -------------------------------------------------------------------------------------------------------


def test_the_carrier_survives_code_that_rebuilds_tuples():
    state = object()
    carrier = Carrier(seeded(2), seeded(3), {"a thing": state}, grad=True, temb=seeded(4))
    again = send_to_device((carrier, [carrier]), "cpu")[1][0]
    assert type(again) is Carrier and again.state("a thing") is state and again.grad
    assert all(map(torch.equal, (*again.rotary, again.temb), (*carrier.rotary, carrier.temb)))
    with pytest.raises(MemkitError, match="another thing"):
        again.state("another thing")


# -- any order ---------------------------------------------------------------------------------------------------------


class Orders(RuleBasedStateMachine):
    """Memory tokens, camera positions and one thing that places the frames, on and off in any order."""

    @initialize(placing=st.sampled_from([None, "kv_cache", "query_layers", "teacher_forcing"]))
    def begin(self, placing):
        self.model, self.on = random_transformer(), {}
        names = ["memory_tokens", "guided_memory", *([placing] if placing else ["pm_rope"])]
        self.things = {name: ATTACHABLES[name]() for name in names}
        self.base = call(self.model)

    @rule(data=st.data())
    def put_on(self, data):
        if off := [name for name in self.things if name not in self.on]:
            name = data.draw(st.sampled_from(off))
            self.on[name] = self.things[name].thing.attach(self.model)

    @precondition(lambda self: self.on)
    @rule(data=st.data())
    def take_off(self, data):
        self.on.pop(data.draw(st.sampled_from(sorted(self.on)))).detach()

    @invariant()
    def attached_is_what_is_on(self):
        if hasattr(self, "on"):
            assert set(attached_to(self.model)) >= set(self.on.values())
            if not self.on:
                assert torch.equal(call(self.model), self.base)
                assert_untouched(self.model)


TestOrders = Orders.TestCase
TestOrders.settings = settings(max_examples=20, stateful_step_count=12, deadline=None)

"""Injectors with one fault each: the suite names the property that fails."""

import pytest
import torch

from memkit.backbones import VIDEO, Attached, Injection, adapter_of, transformers_of
from memkit.errors import InputError
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory
from memkit.testing import CheckFailed, check_injector
from tests.helpers.attachables import seeded
from tests.helpers.random_wan import random_transformer


class Concat:
    """An injector that has every property but those of masked memory: memory joins each self-attention."""

    def __init__(self, memory):
        self.memory = memory

    def attach(self, *models):
        return AttachedConcat(self, transformers_of(models, AttachedConcat.kind))


class AttachedConcat(Attached):
    kind = "memory of a test"

    def part(self, model, layer):
        return Layer(adapter_of(model), self.owner)


class Layer:
    def __init__(self, adapter, owner):
        self.adapter, self.owner = adapter, owner

    def prepare(self, block, hidden, temb, carrier):
        tokens = self.owner.memory.tokens.expand(len(hidden), -1, -1)
        return self.adapter.modulate(block, tokens, temb).type_as(hidden)

    def extend(self, table, attn, prepared):
        table.kv["mine"] = self.adapter.project_kv(attn, prepared)
        table.sees[VIDEO] = (*table.sees[VIDEO], "mine")
        return "mine"

    def finish(self, table, group, out, prepared):
        return None


def attached_by(kind, layer=Layer):
    """A version of `Concat` with another class of attachment, or of layer."""

    class Own(kind):
        def part(self, model, index):
            return layer(adapter_of(model), self.owner)

    class Broken(Concat):
        def attach(self, *models):
            return Own(self, transformers_of(models, Own.kind))

    return Broken


class LeavesAHook(AttachedConcat):
    def install(self, model):
        model.blocks[0].register_forward_hook(lambda *_: None)  # its handle is not kept


class LeavesAnAttribute(AttachedConcat):
    def install(self, model):
        model.my_memory = self.owner


class ChangesAWeight(AttachedConcat):
    def install(self, model):
        model.proj_out.bias.data += 1e-3


class AddsAModule(AttachedConcat):
    def install(self, model):
        model.add_module("mine", torch.nn.Linear(2, 2))

    def detach(self):
        for model in self.models:
            model.__dict__["_modules"].pop("mine", None)
        super().detach()


class StaysAfterAnError(AttachedConcat):
    def __exit__(self, kind, *_):
        if kind is None:
            self.detach()


class ReplacesProcessors:
    """Without `Attached`: a processor of its own, which forgets what was attached before, or is attached twice."""

    def __init__(self, memory):
        self.memory = memory

    def attach(self, model):
        self.model, self.before = model, [block.attn1.processor for block in model.blocks]
        for block in model.blocks:
            inner = block.attn1.processor
            block.attn1.processor = type(inner)() if isinstance(inner, Scaled) else Scaled(type(inner))
        return self

    def __enter__(self):
        return self

    def __exit__(self, *_):
        self.detach()

    def detach(self):
        for block, processor in zip(self.model.blocks, self.before, strict=True):
            block.attn1.processor = processor


class Scaled:
    _attention_backend = _parallel_config = None

    def __init__(self, kind):
        self.inner = kind()

    def __call__(self, *args, **kwargs):
        return 1.5 * self.inner(*args, **kwargs)


class Replaces(Layer):
    """Replaces what the video sees, also what others added."""

    def extend(self, table, attn, prepared):
        table.kv["mine"] = self.adapter.project_kv(attn, prepared)
        table.sees[VIDEO] = (VIDEO, "mine")
        return "mine"


class SlicesWeights(Layer):
    """Copies a weight when it is attached, which may be elsewhere by then."""

    def extend(self, table, attn, prepared):
        if not hasattr(self, "weight"):
            self.weight = attn.to_v.weight
        k, _ = self.adapter.project_kv(attn, prepared)
        table.kv["mine"] = k, (prepared @ self.weight.T).unflatten(2, (attn.heads, -1))
        table.sees[VIDEO] = (*table.sees[VIDEO], "mine")
        return "mine"


class ReadsAtAttach(AttachedConcat):
    def install(self, model):
        self.owner.scale = float(model.blocks[0].scale_shift_table.abs().mean())


class Scales(Layer):
    def prepare(self, block, hidden, temb, carrier):
        return self.owner.scale * super().prepare(block, hidden, temb, carrier)


class Counts(Layer):
    """Grows with every call: another output when a block runs again, or the injector is attached again."""

    def prepare(self, block, hidden, temb, carrier):
        self.owner.calls = getattr(self.owner, "calls", 0) + 1
        return super().prepare(block, hidden, temb, carrier) * self.owner.calls


class CountsGradients(Layer):
    """The same, while gradients are computed: checkpointing runs each block twice."""

    def __init__(self, adapter, owner):
        super().__init__(adapter, owner)
        self.runs = 0

    def prepare(self, block, hidden, temb, carrier):
        self.runs += torch.is_grad_enabled()
        return super().prepare(block, hidden, temb, carrier) * max(self.runs, 1)


class Unused(Layer):
    def extend(self, table, attn, prepared):
        return VIDEO


class AlsoTwice(Concat):
    """Attaches a copy, so that no second attachment is noticed."""

    def attach(self, *models):
        return Several(Concat(self.memory), transformers_of(models, Several.kind))


class Several(AttachedConcat):
    several = True

    def part(self, model, layer):
        return Named(adapter_of(model), self.owner)


class Named(Layer):
    def extend(self, table, attn, prepared):
        name = f"mine {len(table.kv)}"
        table.kv[name] = self.adapter.project_kv(attn, prepared)
        table.sees[VIDEO] = (*table.sees[VIDEO], name)
        return name


BROKEN = {
    "leaves a hook": (attached_by(LeavesAHook), "detached, the model is as before"),
    "leaves an attribute": (attached_by(LeavesAnAttribute), "detached, the model is as before"),
    "changes a weight": (attached_by(ChangesAWeight), "detached, the model is as before"),
    "adds a module": (attached_by(AddsAModule), "adds nothing to the state dict"),
    "stays after an error": (attached_by(StaysAfterAnError), "after an error, the model is as before"),
    "replaces processors": (ReplacesProcessors, "a second attachment is refused"),
    "replaces the table": (attached_by(AttachedConcat, Replaces), "composes with memory tokens in either order"),
    "slices weights": (attached_by(AttachedConcat, SlicesWeights), "offloaded"),
    "reads weights at attach": (attached_by(ReadsAtAttach, Scales), "offloaded"),
    "counts": (attached_by(AttachedConcat, Counts), "attached again, it gives the same bits"),
    "counts gradients": (attached_by(AttachedConcat, CountsGradients), "gradient checkpointing changes no gradient"),
    "unused": (attached_by(AttachedConcat, Unused), "changes the output"),
    "twice": (AlsoTwice, "a second attachment is refused"),
}


@pytest.mark.parametrize("name", BROKEN)
def test_a_broken_injector_is_named_by_its_property(name):
    kind, says = BROKEN[name]
    with pytest.raises(CheckFailed, match=says):
        check_injector(kind(Memory(seeded(1, 5, 48))), random_transformer())


MASKED = {
    "reads masked tokens": (Concat, "fully masked memory changes no bit"),
    "reads some": (
        lambda m: Concat(m if m.mask is None or m.mask.any() else _shown(m)),
        "masked tokens are never read",
    ),
    "counts zeros": (lambda m: SelfAttentionConcat(_zeros(m)), "a sample without memory keeps its output"),
    "one token for all": (lambda m: SelfAttentionConcat(_shown(m)), "memory changes the output"),
}


def _shown(memory):
    """No memory at all."""
    return Memory(memory.tokens[:, :0])


def _zeros(memory):
    """Masked tokens are zeros, and seen, unless all are masked or absent."""
    if memory.mask is None or not memory.mask.any() or memory.mask.all():
        return memory
    return Memory(memory.tokens.masked_fill(~memory.mask[..., None], 0.0))


@pytest.mark.parametrize("name", MASKED)
def test_masked_memory_that_counts_is_found(name):
    with_memory, says = MASKED[name]
    sound = SelfAttentionConcat(Memory(seeded(1, 5, 48)))
    with pytest.raises(CheckFailed, match=says):
        check_injector(sound, random_transformer(), with_memory=with_memory)


def test_a_sound_one_has_all_properties_and_leaves_the_model_alone():
    model = random_transformer().train()
    state = {name: value.clone() for name, value in model.state_dict().items()}
    injector = Concat(Memory(seeded(1, 5, 48)))
    assert isinstance(Layer(None, injector), Injection)
    report = check_injector(injector, model)
    assert len(report.properties) == 11 and report == check_injector(injector, model)
    assert model.training and all(torch.equal(value, state[name]) for name, value in model.state_dict().items())
    assert not any(m._forward_hooks or m._forward_pre_hooks for m in model.modules())
    with pytest.raises(InputError, match="attached already"), injector.attach(model):
        injector.attach(model)

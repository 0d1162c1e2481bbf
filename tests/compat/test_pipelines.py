"""Everything that attaches to a model, in diffusers' pipelines.

A cell holds if every call that the pipeline makes of a transformer gives what a plain transformer of the same weights
gives with the attachment for the same inputs, and nothing is left after detaching.
"""

from __future__ import annotations

from contextlib import ExitStack, nullcontext
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from memkit.errors import InputError, MemkitError
from memkit.generation import GuidedMemory
from memkit.injectors import SelfAttentionConcat
from memkit.memory import Memory
from tests.compat.pipelines import PIPELINES, PROMPTS, SHORT, SMALLEST, Pipeline, from_text, seed
from tests.helpers.attachables import ATTACHABLES, Attachable, seeded
from tests.helpers.random_wan import random_pipeline


class Together(nn.Module):
    """The experts of a pipeline as one model, all of which run in a call, on as many videos as the pipeline does."""

    def __init__(self, pipeline: Pipeline, experts: list[Any]) -> None:
        super().__init__()
        self.pipeline, self.experts = pipeline, nn.ModuleList(experts)

    def forward(self, *args: Tensor, **kwargs: Any) -> Any:
        args = tuple(x[: self.pipeline.videos] for x in args)
        return [expert(*args, **kwargs, **self.pipeline.more) for expert in self.experts][-1]


def experts_of(pipe: Any) -> list[Any]:
    return [x for x in (pipe.transformer, getattr(pipe, "transformer_2", None)) if x is not None]


def inside(pipeline: Pipeline, name: str, one: Attachable, experts: list[Any], attached: Any) -> Any:
    """What the attachment needs around the calls; the pipelines name the passes of guidance themselves."""
    return nullcontext() if name == "guided_memory" else one.inside(Together(pipeline, experts), attached)


class Calls:
    """The calls of transformers: which expert, its arguments and its output."""

    def __init__(self, stack: ExitStack, experts: list[Any]) -> None:
        self.made: list[tuple[int, tuple, dict, Tensor]] = []
        for i, expert in enumerate(experts):
            arguments: list[tuple[tuple, dict]] = []

            def before(_: nn.Module, args: tuple, kwargs: dict, found: list = arguments) -> None:
                found.append((args, dict(kwargs)))

            def after(_: nn.Module, _args: tuple, out: Any, found: list = arguments, i: int = i) -> None:
                self.made.append((i, *found[0], out[0]))
                found.clear()  # an attachment may call the model within a call

            stack.callback(expert.register_forward_pre_hook(before, prepend=True, with_kwargs=True).remove)
            stack.callback(expert.register_forward_hook(after).remove)


@torch.no_grad()
@pytest.mark.parametrize("name", ATTACHABLES)
@pytest.mark.parametrize("row", PIPELINES)
def test_cell(row: str, name: str) -> None:
    pipeline, one = PIPELINES[row], ATTACHABLES[name](**PIPELINES[row].changes)
    pipe = pipeline.make()
    experts, without = experts_of(pipe), pipeline.call(pipe)
    if name in pipeline.refused:
        with (
            pytest.raises(MemkitError, match=pipeline.refused[name].match),
            one.thing.attach(pipe) as attached,
            inside(pipeline, name, one, experts, attached),
        ):
            pipeline.call(pipe)
        return
    with one.thing.attach(pipe) as attached, inside(pipeline, name, one, experts, attached), ExitStack() as stack:
        calls = Calls(stack, experts)
        got = pipeline.call(pipe)
    assert torch.equal(pipeline.call(pipe), without) and not torch.equal(got, without)
    replayed(pipeline, name, experts, calls)


def replayed(pipeline: Pipeline, name: str, experts: list[Any], calls: Calls) -> None:
    """Make the calls again on plain transformers."""
    one, plain = ATTACHABLES[name](**pipeline.changes), []
    for expert in experts:
        plain.append(pipeline.transformer(**pipeline.changes))
        plain[-1].load_state_dict(expert.state_dict())
    assert len(calls.made) == 4  # two passes in two steps
    assert {i for i, *_ in calls.made} == set(range(len(experts)))
    with one.thing.attach(*plain) as attached, inside(pipeline, name, one, plain, attached):
        for n, (i, args, kwargs, out) in enumerate(calls.made):
            with plain[i].cache_context(("cond", "uncond")[n % 2]):
                assert torch.equal(plain[i](*args, **kwargs)[0], out)


# -- prompts with their own memories ---------------------------------------------------------------------------------


def memories() -> Memory:
    """One memory per prompt, of which the second has fewer tokens."""
    mask = torch.tensor([[True] * 5, [True] * 3 + [False] * 2])
    return Memory(seeded(2, 5, 48, seed=4), mask)


@torch.no_grad()
@pytest.mark.parametrize("guided", [False, True])
def test_a_batch_of_prompts_gives_each_its_own_memory(guided: bool) -> None:
    def thing(memory: Memory) -> Any:
        return GuidedMemory(SelfAttentionConcat(memory), 2.0) if guided else SelfAttentionConcat(memory)

    pipe, memory = random_pipeline(), memories()
    with thing(memory).attach(pipe):
        both = from_text(pipe)
    for i, prompt in enumerate(PROMPTS):
        about = {"guidance_scale": 3.0, "generator": seed(i), "output_type": "latent"}
        with thing(memory.rows(torch.tensor([i]))).attach(pipe):
            alone = pipe(prompt, **SMALLEST, **SHORT, **about).frames
        torch.testing.assert_close(both[i : i + 1], alone, rtol=0, atol=1e-5)


@torch.no_grad()
def test_several_videos_per_prompt_have_the_memory_of_their_prompt() -> None:
    pipe, memory = random_pipeline(), memories()
    about = {**SMALLEST, **SHORT, "guidance_scale": 3.0, "output_type": "latent"}

    def two_each() -> Tensor:
        return pipe(PROMPTS, num_videos_per_prompt=2, generator=[*map(seed, range(4))], **about).frames

    with SelfAttentionConcat(memory).attach(pipe), pytest.raises(InputError, match=r"repeat_interleave\(2\)"):
        two_each()
    with SelfAttentionConcat(memory.repeat_interleave(2)).attach(pipe):
        got = two_each()
    for i in range(4):
        with SelfAttentionConcat(memory.rows(torch.tensor([i // 2]))).attach(pipe):
            alone = pipe(PROMPTS[i // 2], generator=seed(i), **about).frames
        torch.testing.assert_close(got[i : i + 1], alone, rtol=0, atol=1e-5)

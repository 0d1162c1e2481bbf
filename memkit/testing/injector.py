"""`check_injector`: what an injector promises about the model that it is attached to."""

from __future__ import annotations

import copy
import tempfile
from collections.abc import Callable
from typing import Any

import torch
from accelerate import cpu_offload
from hypothesis import strategies as st
from torch import Tensor, nn

from memkit.backbones.wan import WanBackbone
from memkit.checks import shown
from memkit.errors import InputError
from memkit.injectors.self_attention import SelfAttentionConcat
from memkit.memory import Memory
from memkit.testing.measures import apart, largest, normal, unequal
from memkit.testing.memory import check_masked_memory
from memkit.testing.models import call, differences, evaluating, state_of, width_of
from memkit.testing.report import Properties, Report

Forward = Callable[[Any, Any], Tensor]
Plain = Callable[[Any], Tensor]
ERROR = 1e-5
"""Largest difference between outputs that are equal but for rounding, in shares of the largest value."""
CPU = torch.device("cpu")


def check_injector(
    injector: Any,
    model: Any = None,
    *,
    forward: Forward | None = None,
    plain: Plain | None = None,
    with_memory: Callable[[Memory], Any] | None = None,
    trains: bool = True,
    seed: int = 0,
) -> Report:
    """Check an injector, an object whose ``attach(model)`` returns a context manager with ``detach()``, on a model.

    While it is attached, it must change the output of the model, but not the keys of its state dict. After it is
    detached, or after an error in the model, the model must have its own hooks, attributes, attention processors and
    outputs again, bit for bit; attached again, it must give the same output as before. It must compose with
    `SelfAttentionConcat`, attached and detached in either order; give the same output on a model whose weights are
    offloaded; and the same gradients with gradient checkpointing. A second attachment of the same object is refused
    with an error. If the injector takes a `Memory`, masked memory changes no bit of the output, whatever it contains.

    Args:
        injector: the injector, whose parameters, if any, must not be zero, as the output would not change.
        model: a transformer on the CPU; by default that of tiny-wan. It is as before after the check.
        forward: ``forward(model, attached)`` runs the model once with the injector attached and returns the output,
            where this needs more than a call of the model: ``with attached.chunk(...): ...``.
        plain: ``plain(model)`` runs the model once without the injector on two samples; by default a call with random
            latents, for transformers of Wan's signature.
        with_memory: creates an injector of this kind for a `Memory` of the model's width, if it takes one. ``forward``
            is then also called without an attachment, as ``forward(model, None)``.
        trains: whether gradients flow through a forward with the injector.
        seed: determines the inputs.

    Raises:
        CheckFailed: a property does not hold.
        InputError: the injector has no ``attach``.
    """
    if not callable(getattr(injector, "attach", None)):
        raise InputError(f"The injector is {shown(injector)}; give an object with attach(model).")
    model = WanBackbone.tiny().transformer if model is None else model
    properties = Properties("check_injector", type(injector).__name__, seed, examples=4, shrink=False)
    alone = plain or (lambda model: call(model, seed))
    run = forward or (lambda model, _: alone(model))
    with evaluating(model):
        with torch.no_grad():
            _check_attachment(properties, injector, model, run, alone)
            _check_composition(properties, injector, model, run, alone)
            _check_offloading(properties, injector, model, run)
            if with_memory is None:
                properties.skip("masked memory (give with_memory=)")
            else:
                check_masked_memory(properties, with_memory, model, run)
        if trains:
            _check_checkpointing(properties, injector, model, run)
        else:
            properties.skip("checkpointing (trains=False)")
    return properties.report


def _check_attachment(properties: Properties, injector: Any, model: Any, run: Forward, plain: Plain) -> None:
    base, before, keys = plain(model), state_of(model), set(model.state_dict())

    def change() -> float:
        with injector.attach(model) as attached:
            return apart(run(model, attached), base)

    def added() -> int:
        with injector.attach(model):
            return len(set(model.state_dict()) ^ keys)

    def left() -> int:
        return unequal(plain(model), base) + differences(before, state_of(model))

    def second() -> int:
        with injector.attach(model) as attached:
            one = run(model, attached)
        with injector.attach(model) as attached:
            return unequal(run(model, attached), one)

    def taken_twice() -> int:
        with injector.attach(model):
            try:
                injector.attach(model).detach()
            except ValueError:
                return 0
        return 1

    def after_error() -> int:
        layers = [module for module in model.modules() if isinstance(module, nn.Linear)]
        breaks = layers[len(layers) // 2].register_forward_hook(_fail)
        try:
            with injector.attach(model) as attached:
                run(model, attached)
        except _OnPurpose:
            breaks.remove()
            return left()
        breaks.remove()
        return 1

    remove = (
        "Remove every hook in detach() and put back the processors that were there: inherit from "
        "memkit.backbones.Attached, register hooks in install() and pass their handles to keep()."
    )
    properties.at_least(
        "changes the output",
        1e-3,
        change,
        "With the injector attached, the output is that of the model: check that forward= uses it, and give its "
        "parameters values other than zero.",
    )
    properties.none("adds nothing to the state dict", added, "Keep parameters outside of the model's modules.")
    properties.none("detached, the model is as before, bit for bit", left, remove)
    properties.none("attached again, it gives the same bits", second, "Keep no state from one attachment to the next.")
    properties.none(
        "a second attachment is refused", taken_twice, "Raise memkit.InputError if the object is attached already."
    )
    properties.none("after an error, the model is as before", after_error, f"Detach in __exit__ in any case. {remove}")


def _check_composition(properties: Properties, injector: Any, model: Any, run: Forward, plain: Plain) -> None:
    base = plain(model)
    other = SelfAttentionConcat(Memory(normal(properties.report.seed + 2, 1, 5, width_of(model))))
    with injector.attach(model) as attached:
        alone = run(model, attached)

    def by_order() -> float:
        with injector.attach(model) as attached, other.attach(model):
            first = run(model, attached)
        with other.attach(model), injector.attach(model) as attached:
            return apart(run(model, attached), first)

    def one_left(leaves_first: bool) -> float:
        attached, tokens = injector.attach(model), other.attach(model)
        if leaves_first:
            attached.detach()
            tokens.detach()
            return float(unequal(plain(model), base))
        tokens.detach()
        error = apart(run(model, attached), alone)
        attached.detach()
        return error + unequal(plain(model), base)

    properties.at_most(
        "composes with memory tokens in either order",
        ERROR,
        by_order,
        "Extend what is there instead of replacing it; an Injection adds groups to the table that it is given.",
    )
    properties.at_most(
        "detached in either order, what is left is as if alone",
        ERROR,
        one_left,
        "detach() removes what this attachment added and nothing else.",
        leaves_first=st.booleans(),
    )


def _check_offloading(properties: Properties, injector: Any, model: Any, run: Forward) -> None:
    with injector.attach(model) as attached:
        wanted = run(model, attached)

    def sequential(first: bool) -> int:
        moved = copy.deepcopy(model)
        if first:
            cpu_offload(moved, execution_device=CPU)
        with injector.attach(moved) as attached:
            if not first:
                cpu_offload(moved, execution_device=CPU)
            return unequal(run(moved, attached), wanted)

    def grouped() -> int:
        moved = copy.deepcopy(model)
        with tempfile.TemporaryDirectory() as folder:
            moved.enable_group_offload(CPU, CPU, offload_type="leaf_level", offload_to_disk_path=folder)
            with injector.attach(moved) as attached:
                return unequal(run(moved, attached), wanted)

    remedy = (
        "Read weights through the model's own modules, inside the self-attention (Injection.prepare), when offloaded "
        "weights are there; never slice or copy a weight in attach()."
    )
    properties.none("sequentially offloaded weights", sequential, remedy, first=st.booleans())
    properties.none("weights offloaded to disk by groups", grouped, remedy)


def _check_checkpointing(properties: Properties, injector: Any, model: Any, run: Forward) -> None:
    def gradients(checkpointing: bool) -> list[Tensor]:
        own = copy.deepcopy(model).train().requires_grad_(True)
        if checkpointing:
            own.enable_gradient_checkpointing()
        with injector.attach(own) as attached:
            run(own, attached).square().mean().backward()
        return [torch.zeros_like(p) if p.grad is None else p.grad for p in own.parameters()]

    def changed() -> float:
        plain, checkpointed = gradients(False), gradients(True)
        return max(largest(a - b) / max(largest(b), 1e-6) for a, b in zip(checkpointed, plain, strict=True))

    properties.at_most(
        "gradient checkpointing changes no gradient",
        1e-6,
        changed,
        "A block runs twice: keep no state between its runs, and put what a forward computes into the Carrier.",
    )


class _OnPurpose(Exception):
    pass


def _fail(*_: Any) -> None:
    raise _OnPurpose

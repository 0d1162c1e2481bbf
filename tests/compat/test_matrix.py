"""Everything that attaches to a model, with every feature of diffusers and torch that changes how a model runs.

A cell of this matrix holds if the model with the feature and the attachment gives what a plain model of the same
weights gives with the attachment, in either order of attaching and applying; or if it is refused by a typed error.
"""

from __future__ import annotations

from functools import cache
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest
import torch
from diffusers import attention_backend
from torch import Tensor

from memkit.errors import MemkitError
from tests.compat.declared import Feature, unchanged
from tests.compat.execution import EXECUTION
from tests.compat.weights import LORA, OFFLOADING, WEIGHTS
from tests.helpers.attachables import ATTACHABLES, EVERYTHING, FURTHER, REPRESENTATIVE_ROWS, Attachable, call
from tests.helpers.random_wan import random_transformer

FEATURES: dict[str, Feature] = {**LORA, **WEIGHTS, **OFFLOADING, **EXECUTION}
CELLS = [
    pytest.param(feature, name, first, id=f"{name}-{feature}-{'attached' if first == 'thing' else 'applied'}_first")
    for feature in FEATURES
    for name in ATTACHABLES
    for first in (("feature", "thing") if FEATURES[feature].both_orders else ("feature",))
]
CELLS += [
    pytest.param(feature, name, "feature", id=f"{name}-{feature}-applied_first")
    for feature in REPRESENTATIVE_ROWS
    for name in FURTHER
]


@pytest.mark.parametrize(("row", "name", "first"), CELLS)
def test_cell(row: str, name: str, first: str, tmp_path: Any) -> None:
    feature = FEATURES[row]
    if name in feature.refused:
        with pytest.raises(MemkitError, match=feature.refused[name].match):
            run(feature, name, first, tmp_path)
        return
    got, without = run(feature, name, first, tmp_path)
    own, want = reference(row), reference(row, name)
    assert (without - own).abs().max() <= feature.atol, "without memory it is not what the plain model gives"
    assert (got - want).abs().max() <= feature.atol
    if want.shape == own.shape:
        assert (want - own).abs().max() > 10 * feature.atol, "memory changes no more than the tolerance"


@cache
def plain(row: str) -> Any:
    """A stock model that computes what a model with the feature computes."""
    feature = FEATURES[row]
    if feature.plain is unchanged:
        return random_transformer(**feature.changes)
    with TemporaryDirectory() as folder:
        featured = feature.apply(random_transformer(**feature.changes), Path(folder))
        return feature.plain(featured, **feature.changes)


@cache
def reference(row: str, name: str | None = None) -> Tensor:
    """The output of the plain model, with something attached or without."""
    feature, model = FEATURES[row], plain(row)
    with attention_backend("native"):  # a model's own choice is one of the whole process in diffusers
        if name is None:
            return observed(feature, model)
        one = EVERYTHING[name](**feature.changes)
        with one.thing.attach(model) as attached:
            return observed(feature, model, one, attached)


def run(feature: Feature, name: str, first: str, folder: Any) -> tuple[Tensor, Tensor]:
    """The output of a model with the feature and the attachment, and after that is detached."""
    model: Any = random_transformer(**feature.changes)
    one = EVERYTHING[name](**feature.changes)
    called = feature.apply(model, folder) if first == "feature" else model
    with one.thing.attach(called) as attached:
        called = feature.apply(model, folder) if first == "thing" else called
        with feature.around():
            got = observed(feature, called, one, attached)
    with feature.around():
        return got, observed(feature, called)


def observed(feature: Feature, model: Any, one: Attachable | None = None, attached: Any = None) -> Tensor:
    """What the feature compares of a forward, with or without something attached."""
    with torch.set_grad_enabled(feature.gradients):
        if one is None:
            return feature.observe(model, call(model))
        with one.inside(model, attached):
            return feature.observe(model, call(model, *(one.inputs or ())))

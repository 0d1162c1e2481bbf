"""Everything that attaches has the properties of an injector: the suite that users run on their own."""

from __future__ import annotations

import pytest

from memkit.generation import GuidedMemory
from memkit.injectors import SelfAttentionConcat
from memkit.testing import check_injector
from tests.helpers.attachables import ATTACHABLES, call
from tests.helpers.random_wan import random_transformer

NO_TRAINING = {"guided_memory", "kv_cache"}  # guidance is for generation; a cache's chunk must be open still
WITH_MEMORY = {
    "memory_tokens": SelfAttentionConcat,
    "guided_memory": lambda memory: GuidedMemory(SelfAttentionConcat(memory), "conditional"),
}


@pytest.mark.parametrize("name", ATTACHABLES)
def test_it_has_the_properties_of_an_injector(name):
    one = ATTACHABLES[name]()
    report = check_injector(
        one.thing,
        random_transformer(),
        forward=one.forward,
        plain=call,
        with_memory=WITH_MEMORY.get(name),
        trains=name not in NO_TRAINING,
    )
    assert len(report.properties) + 4 * (name not in WITH_MEMORY) + (name in NO_TRAINING) == 15

"""The clips of the laws world by id: which names they have, and what their captions say."""

from __future__ import annotations

import pytest
import torch

from memkit.errors import InputError
from memkit.worlds.constants import MATERIALS, PLANETS, SUBSTANCES
from memkit.worlds.law_clips import INVENTED_NAMES, clip_ids, constants_of, law_of, names_of, same_constants


def test_no_name_of_training_is_one_that_the_backbone_knows_or_that_tests() -> None:
    laws = [law_of(id) for id in clip_ids("train", 4 * 48 * 6, 0)]
    named = {}
    for law in laws:
        for name, constant in zip(names_of(law), list(constants_of(law).values())[::-1], strict=True):
            assert named.setdefault(name, constant) == constant  # a name stands for one constant
    assert len(named) == len(set(named.values())) == 24 + 12 + 13
    tables = (PLANETS, MATERIALS, SUBSTANCES)
    assert not set(named) & {name for table in tables for split in ("train", "test") for name in table[split]}
    assert not set(INVENTED_NAMES.values()) & {name for table in tables for names in table.values() for name in names}
    test = [law_of(id) for id in clip_ids("test", 4 * 8 * 4, 0)]
    assert {name for law in test for name in names_of(law)} == {name for table in tables for name in table["test"]}
    pairs = [names_of(law) for law in test if len(names_of(law)) == 2]
    assert {pairs.count(pair) for pair in pairs} == {4}  # every material on every planet, as often


def test_the_clips_of_a_law_are_what_its_caption_says() -> None:
    for id in clip_ids("train", 40, 3):
        law = law_of(id)
        assert all(name in law.caption.split() for name in names_of(law))
        assert names_of(law) == names_of(law_of(id)) and set(constants_of(law)) == set(law.constants)
        if law.kind == "toss":
            state = law.state(torch.linspace(0, 2 * law.lift / law.gravity, 200, dtype=torch.float64))
            assert 1.79 < (state["z"].max() - law.half) < 2.71  # no lighter a planet, no higher a toss


def test_a_clip_is_a_function_of_its_id() -> None:
    assert law_of("train-0-00003") == law_of("train-0-00003") != law_of("train-1-00003")
    with pytest.raises(InputError, match="no clip of the laws world"):
        law_of("my-video")


def test_clips_of_the_same_constants_are_of_any_names() -> None:
    ids = clip_ids("test", 24, 0)
    for law in (law_of("test-0-00000"), law_of("test-0-00003")):  # a fall and a process
        found = same_constants(law, ids)
        assert {id in found for id in ids} == {True, False}
        assert {law_of(id).constants for id in found} == {law.constants}
        assert len({names_of(law_of(id)) for id in found}) > 1

"""No constant, name or room of the test split is in anything that a model is trained on."""

import random

import pytest

from memkit.worlds import sample_interruption, sample_law
from memkit.worlds.clip_set import SUITES, draw
from memkit.worlds.constants import MATERIALS, PLANETS, SPLITS, SUBSTANCES
from memkit.worlds.law_clips import clip_ids, constants_of, law_of, names_of
from memkit.worlds.rooms import Room
from recipes.tiny_wan.data import DataConfig

NAMES = {split: {*PLANETS[split], *MATERIALS[split], *SUBSTANCES[split]} for split in SPLITS}
HELD_OUT = NAMES["memory"] | NAMES["test"]


@pytest.mark.parametrize("constants", [PLANETS, MATERIALS, SUBSTANCES])
def test_the_splits_share_neither_a_name_nor_a_value(constants):
    names = [name for split in SPLITS for name in constants[split]]
    values = [value for split in SPLITS for value in constants[split].values()]
    assert len(set(names)) == len(names) and len(set(values)) == len(values)


def test_no_name_is_part_of_another():
    """So that looking for one in a caption finds it and nothing else."""
    names = sorted(name for split in SPLITS for name in NAMES[split])
    assert not [(a, b) for a in names for b in names if a != b and a.lower() in b.lower()]


@pytest.mark.parametrize("split", SPLITS)
def test_events_are_drawn_from_their_split_and_use_all_of_it(split):
    events = [sample_law(random.Random(i), split) for i in range(400)]
    events += [sample_interruption(random.Random(i), split).event for i in range(400)]
    for kind, constants in (("planet", PLANETS), ("material", MATERIALS), ("substance", SUBSTANCES)):
        assert {getattr(event, kind) for event in events if hasattr(event, kind)} == set(constants[split])
    for event in events:
        if hasattr(event, "planet"):
            assert event.gravity == PLANETS[split][event.planet]
        if hasattr(event, "material"):
            constants = MATERIALS[split][event.material]
            assert (event.restitution, event.friction) == (constants.restitution, constants.friction)
        if hasattr(event, "substance"):
            assert event.rate == SUBSTANCES[split][event.substance]


def test_nothing_of_memory_or_test_is_in_the_rows_that_tiny_wan_is_trained_on():
    config = DataConfig()
    assert config.split == "train"
    rows = [draw(config, suite, i).row for suite in SUITES for i in range(250 if suite != "rooms" else 20)]
    said = {word for row in rows for word in row["caption"].split()}
    assert not said & HELD_OUT and said & NAMES["train"]
    assert {row["source"].split("-")[0] for row in rows if row["kind"] == "room"} == {"train"}
    held_out = [draw(DataConfig(split="test"), suite, i).row for suite in SUITES for i in range(20)]
    assert {row["source"].split("-")[0] for row in held_out if row["kind"] == "room"} == {"test"}
    assert not {row["id"] for row in rows} & {row["id"] for row in held_out}
    assert not {row["source"] for row in rows} & {row["source"] for row in held_out}


def test_rooms_of_different_splits_are_different_rooms():
    for number in ("00003", "04711"):
        rooms = [Room.named(f"{split}-{number}") for split in SPLITS]
        sizes = {(room.stations, room.wall_x, tuple(room.furniture), tuple(room.pillars)) for room in rooms}
        assert len(sizes) == 3


def test_the_encoder_of_dit_mem_sees_no_planet_of_the_test_bank():
    training = [law_of(id) for id in clip_ids("train", 240, 42)]
    test = [law_of(id) for id in clip_ids("test", 60, 42)]
    seen, asked = ({name for law in laws for name in names_of(law)} for laws in (training, test))
    assert asked <= HELD_OUT and asked & set(PLANETS["test"]) and not seen & asked
    assert not seen & NAMES["train"]  # which tiny-wan has learnt
    constants = [
        {(key, value) for law in laws for key, value in constants_of(law).items()} for laws in (training, test)
    ]
    assert not constants[0] & constants[1]

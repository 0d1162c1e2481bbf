"""A walk: what comes back looks as before with memory, a step that was stopped has changed nothing; and the command."""

from __future__ import annotations

import re
import subprocess
import sys

import pytest
import torch
import tyro

from memkit.app import App
from memkit.app.stop import Stopped, Switch
from memkit.app.walk import Room, Walk
from memkit.app.walk_memories import make_memory
from memkit.app.walk_view import now_html, whole_html
from memkit.errors import InputError
from tests.helpers.type_checks import unchecked
from tests.helpers.unchecked import build


@pytest.fixture(scope="module")
def room():
    return Room.load()


def test_what_comes_back_looks_as_before_with_memory_and_a_stop_changes_nothing(room):
    walk, twin, switch = Walk(room, gallery=0), Walk(room, gallery=0), Switch()
    first = walk.step("left", "past")
    assert torch.equal(first.truth[0], walk.truth[32]) and len(walk.truth) == 49
    assert len(now_html(walk, None)) < len(now_html(walk, first))
    # the twin is stopped in its last call of the model, and takes the same step after that
    with pytest.raises(Stopped):
        twin.step("left", "past", switch, lambda share: switch.ask() if share > 0.6 else None)
    assert twin.moves == [] and len(twin.truth) == 33 and not room.backbone.transformer._forward_pre_hooks
    assert torch.equal(twin.step("left", "past").with_memory, first.with_memory)
    back = walk.step("right", "past")
    assert back.scores[0].again > 0.7 and back.scores[1].again < 0.4
    assert torch.equal(walk.with_memory[48], first.with_memory[-1])
    alone = twin.step("right", "none")  # the same noise: no memory is the column without it
    assert torch.equal(alone.without, back.without)
    shown = whole_html(walk, [first, back])
    assert re.findall(r"<li>(turn \w+): ", shown) == ["turn left", "turn right"] and shown.count("<video") == 3


def test_moves_that_lead_nowhere_are_refused(room):
    walk = Walk(room, steps=2)
    with pytest.raises(InputError, match="fly.*left"):
        unchecked(Walk.step)(walk, "fly", "past")
    with pytest.raises(InputError, match="all.*past"):
        unchecked(make_memory)("all", room.context)
    walk.step("forward", "view")
    with pytest.raises(InputError, match="turn around"):
        walk.step("forward", "view")
    assert walk.moves == ["forward"]
    for wrong, match in (({"gallery": -1}, "gallery"), ({"seen": "all"}, "first view"), ({"steps": 0}, "steps")):
        with pytest.raises(InputError, match=match):
            build(Walk, room=room, **wrong)


def test_the_command_names_what_is_missing():
    assert tyro.cli(App, args=["--port", "8000"]) == App(port=8000)
    code = "import sys; sys.modules['gradio'] = None; from memkit.cli import main; sys.exit(main(['app']))"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.returncode == 2 and 'pip install "memkit[app]"' in done.stderr
    code = "import sys, memkit.app; assert not {'torch', 'gradio', 'diffusers'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)

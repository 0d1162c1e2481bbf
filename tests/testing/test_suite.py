"""The strategies, the reports, and what is said where hypothesis is not installed."""

import subprocess
import sys

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.attention import grouped_attention
from memkit.cameras import check_rigid
from memkit.errors import MemkitError
from memkit.memory import Memory
from memkit.testing import CheckFailed, Report, cameras, clips, latents, memories, tables
from memkit.testing.report import Properties

few = settings(max_examples=20)


@few
@given(latents(channels=3, batch=2), clips(channels=4, count=3))
def test_latents_and_clips(x, some):
    assert x.ndim == 5 and x.shape[0] <= 2 and x.shape[1] == 3 and x.isfinite().all()
    assert some.latents.shape[:2] == some.mask.shape and some.latents.shape[2] == 4 and some.latents.shape[1] <= 3
    assert some.mask.dtype == torch.bool and some.mask.any(dim=1).all()


@few
@given(memories(dim=6, batch=2, gate=(3, 2)))
def test_memories(memory):
    assert isinstance(memory, Memory) and memory.tokens.shape[::2] == (2, 6) and 1 <= memory.tokens.shape[1] <= 7
    assert memory.gate.shape == (3, 2) and memory.gate.abs().max() < 1


@few
@given(cameras(frames=4), cameras(frames=2, batch=3))
def test_cameras(path, batch):
    assert path.c2w.shape == (4, 4, 4) and batch.intrinsics.shape == (3, 2, 4)
    check_rigid(path.c2w, "the cameras")
    check_rigid(batch.c2w, "the cameras")
    assert (path.intrinsics > 0).all() and path.c2w[:, :3, 3].abs().max() <= 8


@few
@given(tables())
def test_tables_fit_the_primitive(table):
    assert grouped_attention(*table).keys() == table.q.keys()


def test_what_the_strategies_draw_is_as_various_as_they_say():
    seen = set()

    @settings(max_examples=100)
    @given(memories(dim=2), clips(channels=1))
    def look(memory, some):
        seen.add(("mask", memory.mask is None))
        seen.add(("weight", memory.log_weight is None))
        seen.add(("all real", bool(some.mask.all())))

    look()
    assert len(seen) == 6


def run(properties, **inputs):
    properties.at_most("small", 3.0, lambda x: x, "Make it smaller.", "cm", x=st.integers(0, inputs.get("largest", 3)))


def test_a_report_has_the_worst_figures():
    properties = Properties("check_thing", "Thing()", seed=4, examples=50)
    run(properties)
    properties.at_least("large", -1.0, lambda x: -x, "Make it larger.", x=st.integers(0, 1))
    properties.none("sound", lambda: 0, "Repair it.")
    properties.skip("the rest (give rest=)")
    report = properties.report
    assert report.figures == {"small": 3.0, "large": -1.0, "sound": 0.0} and report.seed == 4
    assert repr(report).splitlines() == [
        "check_thing(Thing()), seed 4: 3 properties hold",
        "  small  3 cm (at most 3 cm)",
        "  large  -1 (at least -1)",
        "  sound  0 violations",
        "  not checked: the rest (give rest=)",
    ]


def test_a_failure_says_what_with_which_input_and_what_to_do_about_it():
    properties = Properties("check_thing", "Thing()", seed=0, examples=50)
    properties.none("sound", lambda: 0, "Repair it.")
    with pytest.raises(CheckFailed) as caught:
        run(properties, largest=100)
    assert str(caught.value) == (
        "check_thing(Thing()): 'small' does not hold: 4 cm (at most 3 cm), for x 4. Make it smaller."
    )
    assert caught.value.failed.figure == 4 and isinstance(caught.value, MemkitError)
    assert isinstance(caught.value.report, Report) and list(caught.value.report.figures) == ["sound"]
    with pytest.raises(CheckFailed, match="nan"):
        properties.at_most("a number", 1.0, lambda: float("nan"), "Divide by something.")


def test_a_fault_that_comes_and_goes_is_a_failure_too():
    calls = iter(range(1000))
    properties = Properties("check_thing", "Thing()", seed=0, examples=20)
    with pytest.raises(CheckFailed, match="'steady' does not hold"):
        properties.none("steady", lambda x: next(calls) == 5, "Keep no state.", x=st.integers())


def test_without_hypothesis_it_says_what_to_install():
    code = "import sys; sys.modules['hypothesis'] = None\ntry:\n    import memkit.testing\nexcept Exception as e:\n"
    code += "    print(type(e).__name__, e)"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert "MemkitError" in out and "pip install 'memkit[testing]'" in out
    code = "import sys; sys.modules['hypothesis'] = None; import memkit; memkit.make_encoder('patch', 'tiny')"
    subprocess.run([sys.executable, "-c", code], check=True)

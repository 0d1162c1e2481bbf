"""``memkit plan``: bytes and time from sizes."""

import re

import pytest

from memkit.cli import main


def figure(text, name):
    (found,) = re.findall(rf"{re.escape(name)}\s+([\d.,]+)", text)
    return float(found.replace(",", ""))


def test_a_plan_states_the_sizes_of_the_model_and_of_its_memory(capsys):
    assert main(["plan", "--memory", "5", "--cached", "21"]) == 0
    text = capsys.readouterr().out
    assert "1.42 billion parameters" in text and "21 latent frames of 60×104, 32,760 tokens" in text
    assert figure(text, "memory tokens of 5 clips (1260 tokens)") == 3.9
    assert figure(text, "KV cache of 21 latent frames") == 12.1  # two branches, see docs/kv-cache.md
    assert "7 chunks of 3 latent frames" in text and "51 steps" in text


def test_without_memory_there_are_no_operations_for_it(capsys):
    assert main(["plan", "--memory", "0"]) == 0
    assert figure(capsys.readouterr().out, "of these, for the memory tokens") == 0.0


@pytest.mark.parametrize(
    ("arguments", "message"),
    [(["--tflops", "nan"], "--tflops"), (["--steps", "0"], "--steps"), (["--height", "481"], "multiples of 16")],
)
def test_what_cannot_be_planned_is_refused(arguments, message, capsys):
    assert main(["plan", *arguments]) == 2
    assert message in capsys.readouterr().err

"""What commands print: no bars and remarks of libraries, singular and plural, names that may have been meant."""

from __future__ import annotations

import subprocess
import sys

import pytest

from memkit.display import counted, size_of
from memkit.errors import InputError, nearest


def test_numbers_have_their_nouns_and_units() -> None:
    assert [counted(n, "clip") for n in (0, 1, 2, 1234)] == ["0 clips", "1 clip", "2 clips", "1,234 clips"]
    assert counted(2, "gallery", "galleries") == "2 galleries"
    sizes = ["0 B", "999 B", "1.0 kB", "26.0 MB", "3.2 GB"]
    assert [size_of(n) for n in (0, 999, 1000, 26_000_000, 3_250_000_000)] == sizes


def test_the_nearest_name_is_offered_and_none_that_is_far() -> None:
    assert nearest("frequncy", ("patch", "frequency")) == " Did you mean 'frequency'?"
    assert nearest("TINY", ("tiny", "wan2.1-1.3b")) == " Did you mean 'tiny'?"
    assert nearest("zebra", ("patch", "frequency")) == nearest(3, ("patch",)) == ""


def _preset(name: str) -> None:
    from recipes.remind.presets import Command, parse

    parse(Command, None, ["--preset", name])


def _encoder(name: str) -> None:
    from memkit.encoders import make_encoder

    make_encoder(name, "tiny", dim=8, latent_channels=16)


def _weights(name: str) -> None:
    from memkit.training import find_trained
    from recipes.remind.presets import SHIPPED, tiny

    find_trained(tiny().out, name, SHIPPED)


@pytest.mark.parametrize(
    ("take", "wrong", "right"),
    [
        (_preset, "tinny", "tiny"),
        (_encoder, "frequncy", "frequency"),
        (_weights, "tiny-galery", "tiny-gallery"),
    ],
)
def test_errors_offer_the_nearest_name(take, wrong, right) -> None:
    with pytest.raises(InputError, match=rf"Did you mean '{right}'\?"):
        take(wrong)


def test_a_command_prints_nothing_of_other_libraries(random_folder, tmp_path) -> None:
    """As a user runs it, in a process of its own, as loggers and bars are set up once."""
    flags = ["--smoke", "--model", str(random_folder), "--out", str(tmp_path), "--memory", "none"]
    code = [sys.executable, "-m", "recipes.dit_mem.generate", *flags]
    done = subprocess.run(code, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr
    lines = [line for line in done.stderr.replace("\r", "\n").splitlines() if line.strip()]
    assert lines[0] == "1 video to generate, 0 exist already"
    assert len(lines) > 1 and all(line.startswith("generate: ") for line in lines[1:]), done.stderr
    assert done.stdout.splitlines()[-1] == f"Results are in {tmp_path / 'videos-none'}."

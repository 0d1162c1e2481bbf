"""Whose low tokens follow slow content and whose high tokens fast content: memkit's encoder, and not the release's."""

import re

import pytest
import torch

from memkit.encoders import DitMemConfig, DitMemEncoder, FrequencyEncoder, FrequencyEncoderConfig, make_encoder
from memkit.errors import InputError
from memkit.testing import CheckFailed, check_disentanglement


def build(name, seed):
    torch.manual_seed(seed)
    return make_encoder(name, "tiny")


@pytest.mark.parametrize("shape", ["butterworth", "gaussian"])
@pytest.mark.parametrize("seed", range(2))
def test_the_branches_of_our_encoder_are_separate(seed, shape):
    torch.manual_seed(seed)
    config = FrequencyEncoderConfig.tiny()
    encoder = FrequencyEncoder(FrequencyEncoderConfig(**{**vars(config), "filter_shape": shape}))
    report = check_disentanglement(encoder, seed=seed)
    assert all(figure >= 6 for figure in report.figures.values()) and len(report.figures) == 3


@pytest.mark.parametrize("name", ["dit_mem", "no-filter", "lowpass-only", "highpass-only"])
@pytest.mark.parametrize("seed", range(2))
def test_those_of_the_release_and_of_the_controls_are_not(seed, name):
    with pytest.raises(CheckFailed, match="selectivity of the (low|high) tokens") as caught:
        check_disentanglement(build(name, seed), seed=seed)
    assert caught.value.failed.figure < 6
    mean = float(re.findall(r"their mean (-?\d+\.\d) dB", str(caught.value))[0])
    assert mean < 3.5 if name == "dit_mem" else abs(mean) < 1  # two equal branches have none at all


@pytest.mark.parametrize(("frames", "slow", "fast"), [(21, 0.04, (0.375, 0.5)), (32, 0.04, (0.09, 0.125))])
def test_the_releases_filters_fail_also_without_resizing(frames, slow, fast):
    """At the size of its clips, and for frequencies that its strides in time can represent."""
    torch.manual_seed(0)
    encoder = DitMemEncoder(DitMemConfig(channels=(32, 48), grid=(2, 2), dim=64))
    with pytest.raises(CheckFailed, match="selectivity"):
        check_disentanglement(encoder, size=(frames, 32, 32), slow=slow, fast=fast)


def test_swapped_branches_are_found():
    encoder = build("frequency", 0)

    def swapped(memory):
        return encoder.low_and_high(memory)[::-1]

    with pytest.raises(CheckFailed, match="selectivity of the low tokens' does not hold: -"):
        check_disentanglement(encoder, split=swapped)


def test_the_seed_decides_and_the_mode_stays():
    encoder = build("dit_mem", 0).train()
    figures = [check_disentanglement(encoder, seed=s, least_db=-99.0).figures for s in (1, 1, 2)]
    assert figures[0] == figures[1] != figures[2] and encoder.training


def test_what_does_not_fit_is_named():
    with pytest.raises(InputError, match="low_and_high"):
        check_disentanglement(build("patch", 0))
    with pytest.raises(InputError, match="no frequency from 0.375"):
        check_disentanglement(build("frequency", 0), size=(2, 8, 8), fast=(0.375, 0.4))

"""Every adapter of memkit has the properties that users check of their own."""

import pytest

from memkit.testing import CheckFailed, check_backbone
from tests.helpers.backbones import BACKBONES

BEYOND = {
    "hunyuan_token_replace": r"modulate\(\) is what a block does",  # its first frame is modulated as at t = 0
    "anyflow_far": "every block is reached once",  # attention is once per chunk, each of which sees memory
}
"""Models for which a property cannot hold, which the suite says."""


@pytest.mark.parametrize("name", [name for name in BACKBONES if name not in BEYOND])
def test_an_adapter_describes_its_model(name):
    report = check_backbone(BACKBONES[name].make(), BACKBONES[name].call)
    assert len(report.properties) == 13 and not report.not_checked


@pytest.mark.parametrize("name", BEYOND)
def test_where_a_property_cannot_hold_the_suite_says_which(name):
    with pytest.raises(CheckFailed, match=BEYOND[name]):
        check_backbone(BACKBONES[name].make(), BACKBONES[name].call)

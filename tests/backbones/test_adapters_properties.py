"""Every adapter of memkit has the properties that users check of their own."""

import pytest

from memkit.testing import check_backbone
from tests.helpers.backbones import BACKBONES


@pytest.mark.parametrize("name", BACKBONES)
def test_an_adapter_describes_its_model(name):
    report = check_backbone(BACKBONES[name].make(), BACKBONES[name].call)
    assert len(report.properties) == 13 and not report.not_checked

"""Every adapter of memkit has the properties that users check of their own."""

import pytest

from memkit.testing import check_backbone
from tests.helpers.backbones import BACKBONES


@pytest.mark.parametrize("name", BACKBONES)
def test_an_adapter_describes_its_model(name):
    tiny = BACKBONES[name]
    report = check_backbone(tiny.make(), tiny.call, exact=tiny.exact)
    assert len(report.properties) + len(report.not_checked) == 13
    assert not report.not_checked or name == "anyflow_far"  # its rotary tables are no grid's

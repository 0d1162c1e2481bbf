"""The model of the tests of streams."""

import pytest

from tests.helpers.random_wan import random_pipeline
from tests.helpers.streams import Short


@pytest.fixture(scope="module")
def backbone():
    return Short.from_pipeline(random_pipeline())

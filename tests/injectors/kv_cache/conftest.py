"""The model that the tests of KVCache attach to."""

import pytest

from tests.helpers.random_wan import random_transformer


@pytest.fixture
def model():
    return random_transformer()

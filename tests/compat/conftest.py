"""diffusers' ``set_attention_backend`` is of the whole process: each test puts back what it found."""

from __future__ import annotations

from collections.abc import Iterator

import pytest
from diffusers import attention_backend


@pytest.fixture(autouse=True)
def own_backend() -> Iterator[None]:
    with attention_backend("native"):
        yield

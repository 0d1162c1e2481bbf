"""Shapes in signatures are checked at run time in the tests; hubs are never asked."""

import os
import sys
from pathlib import Path

import pytest
from jaxtyping import install_import_hook

os.environ["HF_HUB_OFFLINE"] = "1"
sys.path.insert(0, str(Path(__file__).parent))
install_import_hook("memkit", "beartype.beartype")


@pytest.fixture(scope="session")
def random_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A diffusers pipeline folder with random weights; width 48, 9 frames of 32×32."""
    from random_wan import write_random_pipeline

    return write_random_pipeline(tmp_path_factory.mktemp("random-wan"))

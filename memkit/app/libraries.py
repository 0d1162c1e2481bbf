"""Gradio, the library of the page, set to send nothing."""

from __future__ import annotations

import os
from typing import Any

from memkit.errors import MemkitError


def import_gradio() -> Any:
    """The module ``gradio``, set to send nothing anywhere. Raises `MemkitError` where it is not installed."""
    os.environ["GRADIO_ANALYTICS_ENABLED"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    try:
        import gradio  # pyright: ignore[reportMissingImports]
    except ImportError as error:
        raise MemkitError(f'The page needs Gradio ({error}); install it: pip install "memkit[app]"') from error
    return gradio

"""The demo: a bank from clips, retrieval, and generation with and without memory."""

from memkit.demo.bank import CLIPS
from memkit.demo.demo import Demo, main

__all__ = ["CLIPS", "Demo", "main"]

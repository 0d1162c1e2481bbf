"""Reports of generation with memory: self-contained pages and sheets of frames."""

from memkit.report.html import Comparison, HitClip, render_report
from memkit.report.rollouts import ContextAttention, GeneratedVideo, RolloutSection, render_rollouts
from memkit.report.sheet import contact_sheet, filmstrip

__all__ = [
    "Comparison",
    "ContextAttention",
    "GeneratedVideo",
    "HitClip",
    "RolloutSection",
    "contact_sheet",
    "filmstrip",
    "render_report",
    "render_rollouts",
]

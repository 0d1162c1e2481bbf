"""What a generation with memory looks like: one self-contained page, and one sheet of frames."""

from memkit.report.html import Comparison, HitClip, render_report
from memkit.report.rollouts import MadeVideo, RolloutSection, Watched, render_rollouts
from memkit.report.sheet import contact_sheet, filmstrip

__all__ = [
    "Comparison",
    "HitClip",
    "MadeVideo",
    "RolloutSection",
    "Watched",
    "contact_sheet",
    "filmstrip",
    "render_report",
    "render_rollouts",
]

"""Metrics of generated videos: quality, revisits, states and laws, with confidence intervals."""

from memkit.metrics.bootstrap import Interval, bootstrap, bootstrap_runs, correlation
from memkit.metrics.evolution import StateScore, evolution_score, hidden_state_error, state_evolution
from memkit.metrics.fit import Fit, fit_event
from memkit.metrics.hidden_process import HiddenProcess, measure_hidden_process
from memkit.metrics.laws import LawMeasure, body_found, measure_law
from memkit.metrics.quality import Lpips, mean_psnr, psnr, ssim
from memkit.metrics.revisit import Comparison, compare, revisit_pairs
from memkit.metrics.states import measure_state
from memkit.metrics.track import Track, track_body
from memkit.metrics.twin import TwinComparison, compare_with_twin, scene_distance

__all__ = [
    "Comparison",
    "Fit",
    "HiddenProcess",
    "Interval",
    "LawMeasure",
    "Lpips",
    "StateScore",
    "Track",
    "TwinComparison",
    "body_found",
    "bootstrap",
    "bootstrap_runs",
    "compare",
    "compare_with_twin",
    "correlation",
    "evolution_score",
    "fit_event",
    "hidden_state_error",
    "mean_psnr",
    "measure_hidden_process",
    "measure_law",
    "measure_state",
    "psnr",
    "revisit_pairs",
    "scene_distance",
    "ssim",
    "state_evolution",
    "track_body",
]

"""Metrics: what a claim is measured by."""

from memkit.metrics.bootstrap import Interval, bootstrap, correlation
from memkit.metrics.laws import LawMeasure, measure_law

__all__ = ["Interval", "LawMeasure", "bootstrap", "correlation", "measure_law"]

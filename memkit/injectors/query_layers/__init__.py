"""Query layers: query tokens that learn to fetch context inside the model."""

from memkit.injectors.query_layers.layers import QueryLayers, QueryLayersConfig
from memkit.injectors.query_layers.monitor import QueryMonitor, attend_with

__all__ = ["QueryLayers", "QueryLayersConfig", "QueryMonitor", "attend_with"]

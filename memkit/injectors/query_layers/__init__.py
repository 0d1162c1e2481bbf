"""Query layers: query tokens that learn to retrieve context inside the model."""

from memkit.injectors.query_layers.attachment import AttachedQueries
from memkit.injectors.query_layers.attend import attend_with
from memkit.injectors.query_layers.config import QueryLayersConfig
from memkit.injectors.query_layers.layers import QueryLayers

__all__ = ["AttachedQueries", "QueryLayers", "QueryLayersConfig", "attend_with"]

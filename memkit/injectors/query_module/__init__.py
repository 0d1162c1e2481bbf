"""Query module: query tokens in a separate module beside the model."""

from memkit.injectors.query_module.module import QueryModule, QueryModuleConfig, query_module_loss

__all__ = ["QueryModule", "QueryModuleConfig", "query_module_loss"]

"""The adapters of diffusers' video transformers, one per file."""

from memkit.backbones.adapters.choice import ADAPTERS, adapter_of
from memkit.backbones.adapters.wan import WanAdapter

__all__ = ["ADAPTERS", "WanAdapter", "adapter_of"]

"""Camera positions in the self-attention of a model: PM-RoPE and PRoPE."""

from memkit.positions.pm_rope import PMRoPE, PMRoPEConfig
from memkit.positions.prope import PRoPE

__all__ = ["PMRoPE", "PMRoPEConfig", "PRoPE"]

"""Positions in the self-attention of a model: of cameras (PM-RoPE and PRoPE), and of tokens that are moved."""

from memkit.positions.pm_rope import PMRoPE, PMRoPEConfig
from memkit.positions.prope import PRoPE
from memkit.positions.token_positions import TokenPositions, moved_box

__all__ = ["PMRoPE", "PMRoPEConfig", "PRoPE", "TokenPositions", "moved_box"]

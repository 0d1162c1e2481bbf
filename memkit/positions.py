"""Positions: of frames in time, by rotation as in Wan, and of cameras, by `PMRoPE`.

The rotation itself is below the backbones (`memkit.rotary`), what attaches cameras to a model is above them.
"""

from memkit.camera_path import CameraPath
from memkit.pm_rope import PMRoPE, PMRoPEConfig
from memkit.prope import PRoPE
from memkit.rotary import checked_positions, rotary_at, rotate

__all__ = ["CameraPath", "PMRoPE", "PMRoPEConfig", "PRoPE", "checked_positions", "rotary_at", "rotate"]

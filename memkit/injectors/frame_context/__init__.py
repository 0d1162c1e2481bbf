"""Frame context: frames of the past in the model's own sequence."""

from memkit.injectors.frame_context.context import FrameContext, FrameContextConfig
from memkit.injectors.frame_context.packing import Packing, plan_frames

__all__ = ["FrameContext", "FrameContextConfig", "Packing", "plan_frames"]

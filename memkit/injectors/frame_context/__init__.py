"""Frame context: past frames in the model's own token sequence."""

from memkit.injectors.frame_context.attachment import AttachedFrames
from memkit.injectors.frame_context.config import FrameContextConfig
from memkit.injectors.frame_context.context import FrameContext
from memkit.injectors.frame_context.packing import Packing, plan_frames

__all__ = ["AttachedFrames", "FrameContext", "FrameContextConfig", "Packing", "plan_frames"]

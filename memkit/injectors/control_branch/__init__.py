"""Control branch: blocks beside those of a model, which read control latents and add hints to its hidden states."""

from memkit.injectors.control_branch.attachment import AttachedControl
from memkit.injectors.control_branch.branch import ControlBranch
from memkit.injectors.control_branch.config import ControlBranchConfig

__all__ = ["AttachedControl", "ControlBranch", "ControlBranchConfig"]

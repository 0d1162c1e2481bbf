"""Echo-Memory (arXiv 2606.09803): camera actions, context frames and a recurrence for Wan2.1, with its checkpoints."""

from memkit.injectors.echo_memory.attachment import AttachedEcho
from memkit.injectors.echo_memory.checkpoint import load_echo_memory
from memkit.injectors.echo_memory.config import ROWS, EchoConfig
from memkit.injectors.echo_memory.module import EchoMemory

__all__ = ["AttachedEcho", "EchoConfig", "EchoMemory", "ROWS", "load_echo_memory"]

"""Recurrent memory: a state of constant size that is carried from chunk to chunk."""

from memkit.injectors.recurrent.attachment import AttachedStates
from memkit.injectors.recurrent.chunk import StateChunk
from memkit.injectors.recurrent.state import RecurrentState

__all__ = ["AttachedStates", "RecurrentState", "StateChunk"]

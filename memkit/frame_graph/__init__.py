"""Frame graphs: what the chunks of a clip are to each other, and curricula that change it."""

from memkit.frame_graph.curriculum import (
    CleanMix,
    Compose,
    FrontierContinuation,
    NodeDrop,
    NoisyMemory,
    ReferenceCache,
    Transform,
)
from memkit.frame_graph.graph import FrameGraph
from memkit.frame_graph.layout import StreamLayout
from memkit.frame_graph.node import Node, Role
from memkit.frame_graph.picture import draw_graph

__all__ = [
    "CleanMix",
    "Compose",
    "FrameGraph",
    "FrontierContinuation",
    "Node",
    "NodeDrop",
    "NoisyMemory",
    "ReferenceCache",
    "Role",
    "StreamLayout",
    "Transform",
    "draw_graph",
]

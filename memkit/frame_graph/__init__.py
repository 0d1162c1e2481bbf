"""Frame graphs: the role and the visibility of each chunk of a clip, and curricula that change them."""

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
from memkit.frame_graph.interrupted import chunk_spans, interrupted_graph
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
    "chunk_spans",
    "draw_graph",
    "interrupted_graph",
]

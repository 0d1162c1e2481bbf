"""Random frame graphs: gaps, negative times, all roles, chunks of several lengths."""

from hypothesis import strategies as st

from memkit.frame_graph import FrameGraph, Node
from memkit.frame_graph.node import ROLES


@st.composite
def graphs(draw, max_chunks=6, disturbed=True):
    """``disturbed``: with chunks already dropped and noised."""
    nodes, time = [], draw(st.integers(-60, 60))
    for _ in range(draw(st.integers(1, max_chunks))):
        time += draw(st.sampled_from([0, 0, 1, 40]))
        frames, role = draw(st.integers(1, 3)), draw(st.sampled_from(ROLES))
        free = disturbed and role != "anchor"
        node = Node(
            time=time,
            frames=frames,
            camera=draw(st.none() | st.integers(0, 50)),
            role=role,
            sigma=draw(st.sampled_from([0.0, 0.25, 1.0])) if free else 0.0,
            dropped=draw(st.booleans()) if free else False,
            conditioning_frames=draw(st.integers(1 if role == "seed" else 0, frames)),
            source=draw(st.integers(0, 50)) if time < 0 else draw(st.none() | st.integers(0, 50)),
        )
        nodes.append(node)
        time = node.stop
    return FrameGraph(tuple(nodes))

"""Small rendered worlds with exact states, for experiments that need ground truth."""

from memkit.worlds.event import Event
from memkit.worlds.interruptions import Interrupted, Interruption, sample_interruption
from memkit.worlds.laws import LAWS, sample_law
from memkit.worlds.render import Render, render
from memkit.worlds.scene import Body, Scene, body

__all__ = [
    "LAWS",
    "Body",
    "Event",
    "Interrupted",
    "Interruption",
    "Render",
    "Scene",
    "body",
    "render",
    "sample_interruption",
    "sample_law",
]

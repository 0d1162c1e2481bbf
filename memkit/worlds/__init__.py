"""Small rendered worlds with exact states, for claims that need the truth to be known."""

from memkit.worlds.laws import Law, bounce_height, sample_law
from memkit.worlds.render import Render, Scene, render

__all__ = ["Law", "Render", "Scene", "bounce_height", "render", "sample_law"]

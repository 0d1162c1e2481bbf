"""The page to play with: retrieved clips with and without memory, and a room to walk through.

What the page does is in plain functions and classes (`Clips`, `Walk`), which need no Gradio; `memkit.app.page` puts
controls around them.
"""

from memkit.app.command import App

__all__ = ["App"]

"""The page: two tabs around `Clips` and `Walk`. Only this room's ``build`` functions touch Gradio."""

from __future__ import annotations

from importlib import resources
from typing import Any

from memkit.app.clips import Clips
from memkit.app.clips_tab import build_clips_tab
from memkit.app.libraries import import_gradio
from memkit.app.session import Session
from memkit.app.walk import Room
from memkit.app.walk_tab import build_walk_tab


def build_page(clips: Clips, room: Room) -> Any:
    """The page as a ``gradio.Blocks``; serve it with `launch_options`.

    The models are shared, and one visitor's work runs at a time; the state of each visitor is apart.
    """
    gr = import_gradio()
    with gr.Blocks(title="memkit: a video model with a memory", analytics_enabled=False) as page:
        session = gr.State(Session())
        gr.Markdown("# A video model with a memory")
        with gr.Tabs():
            with gr.Tab("A room to walk", id="walk"):
                build_walk_tab(gr, room, session, page)
            with gr.Tab("Clips", id="clips"):
                build_clips_tab(gr, clips, session)
    return page


def launch_options() -> dict[str, Any]:
    """Arguments of ``page.launch``: the look, and no request to any other host."""
    gr = import_gradio()
    here, report = resources.files("memkit.app"), resources.files("memkit.report")
    scripts = (report / "play.js.j2", here / "keys.js")
    styles = (here / "style.css", report / "player.css.j2")
    return {
        "css": "\n".join(file.read_text(encoding="utf-8") for file in styles),
        "head": "".join(f"<script>{file.read_text(encoding='utf-8')}</script>" for file in scripts),
        "theme": gr.themes.Base(font=["system-ui", "sans-serif"], font_mono=["ui-monospace", "monospace"]),
        "footer_links": [],
        "quiet": True,
        "share": False,
        "ssr_mode": False,
    }

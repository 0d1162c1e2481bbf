"""``memkit app``: a page in the browser, on this machine.

memkit app
memkit app --port 8000
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

from memkit.errors import InputError

# The command imports what it needs when it runs, so that --help does not wait for torch.


@dataclass(frozen=True)
class App:
    """Open a page to play with on this machine: memory from clips, and a room to walk through. Ctrl-C ends it."""

    host: str = "127.0.0.1"
    """Address to serve the page at; the default is reached from this machine alone, 0.0.0.0 from its network."""
    port: int = 7860
    """Port of the page."""
    bank: Path = Path("out/demo/bank")
    """Folder of the demo's bank, which is built if it is not there."""
    model: Path | None = None
    """Folder of a Wan pipeline for the clips; by default tiny-wan, which comes with memkit. The room has a model of its
    own."""
    encoder: Path | None = None
    """Folder of a FrequencyEncoder that was trained for the model."""
    steps: int = 8
    """Number of denoising steps per video of a prompt."""
    guidance_scale: float = 1.0
    """Scale of classifier-free guidance for prompts; 1 switches it off."""

    def run(self) -> int:
        """Serve the page until it is interrupted, and return the exit code.

        Raises `MemkitError` if Gradio is not installed, or a folder, a setting or the port cannot be used.
        """
        from memkit.app.libraries import import_gradio

        import_gradio()
        if not 1 <= self.port <= 65535:
            raise InputError(f"--port is {self.port}; give a port from 1 to 65535.")
        from memkit.app.clips import Clips
        from memkit.app.page import build_page, launch_options
        from memkit.app.walk import Room

        print("loading the models", flush=True)
        clips = Clips.load(self.bank, self.model, self.encoder, self.steps, self.guidance_scale)
        page = build_page(clips, Room.load())
        try:
            page.launch(server_name=self.host, server_port=self.port, prevent_thread_lock=True, **launch_options())
        except OSError as error:
            raise InputError(
                f"Port {self.port} of {self.host} cannot be used: {error}; give another --port."
            ) from error
        print(f"http://{self.host}:{self.port}  (Ctrl-C ends it)", flush=True)
        page.block_thread()
        return 0

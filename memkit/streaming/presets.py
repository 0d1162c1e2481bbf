"""How published causal Wan models are streamed: one function per method, each of which returns a `StreamConfig`.

    backbone = WanBackbone.from_original("self_forcing_dmd.pt")
    pipe = WanPipeline.from_pretrained("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", transformer=backbone.transformer)
    stream = Stream(WanBackbone.from_pipeline(pipe), seeds=[1], config=STREAM_PRESETS["self-forcing"]())

All are distilled from Wan2.1-T2V-1.3B by distribution matching, in a few steps and without guidance. A chunk attends to
its frames and to the cached ones at the positions at which they were generated; cached keys and values are those of the
finished chunk at timestep 0. Where a number is our reading rather than the method's code, it says so.
"""

from __future__ import annotations

from memkit.streaming.config import StreamConfig

_WAN_WINDOW = 21
"""Latent frames of the clips that Wan2.1 was trained on, and of the cache of the methods without a window."""


def self_forcing() -> StreamConfig:
    """Self-Forcing (arXiv 2506.08009; configs/self_forcing_dmd.yaml and pipeline/causal_inference.py of its code).

    Chunks of 3 frames; the steps 1000, 750, 500 and 250 of the schedule with shift 5; ``context_noise`` 0; a cache of
    32,760 tokens, which are 21 frames of 480×832. Its videos have 21 frames; that longer ones let go of the oldest
    frame, without a sink, is our reading.
    """
    return StreamConfig(
        chunk=3, steps=4, shift=5.0, guidance_scale=1.0, timesteps=(1000, 750, 500, 250), window=_WAN_WINDOW, sink=0
    )


def causal_forcing() -> StreamConfig:
    """Causal-Forcing, its chunk-wise checkpoint. It builds on the code of Self-Forcing; that steps, shift and cache are
    those of Self-Forcing is our reading."""
    return self_forcing()


def causal_forcing_framewise() -> StreamConfig:
    """Causal-Forcing, its frame-wise checkpoint: chunks of one frame. The rest is our reading, as for
    `causal_forcing`."""
    return StreamConfig(
        chunk=1, steps=4, shift=5.0, guidance_scale=1.0, timesteps=(1000, 750, 500, 250), window=_WAN_WINDOW, sink=0
    )


def causvid() -> StreamConfig:
    """CausVid (arXiv 2412.07772; configs/wan_causal_dmd.yaml of its code).

    Chunks of 3 frames; the timesteps 1000, 757 and 522, which contain the shift already, so that there is none here
    (the final 0 of its list is for training alone); a cache of 21 frames. The noise level of a timestep t is t / 1000
    here, and the nearest one of a grid of 1000 there, at most 0.0003 away. That longer videos let go of the oldest
    frame is our reading: its code starts again from the last frames instead.
    """
    return StreamConfig(
        chunk=3, steps=3, shift=None, guidance_scale=1.0, timesteps=(1000, 757, 522), window=_WAN_WINDOW, sink=0
    )


def longlive() -> StreamConfig:
    """LongLive 1 (arXiv 2509.22622): `self_forcing` with a window of 12 frames, of which the first 3 of the video are
    the sink. Load its LoRA on top of its base: ``WanBackbone.from_original(base, lora=lora)``.

    At a new prompt its code writes the cache anew under that prompt; here cached frames keep their keys and values.
    """
    return StreamConfig(
        chunk=3, steps=4, shift=5.0, guidance_scale=1.0, timesteps=(1000, 750, 500, 250), window=12, sink=3
    )


STREAM_PRESETS = {
    "self-forcing": self_forcing,
    "causal-forcing": causal_forcing,
    "causal-forcing-framewise": causal_forcing_framewise,
    "causvid": causvid,
    "longlive": longlive,
}

"""How published causal Wan models are streamed: one function per method, each of which returns a `StreamConfig`.

    backbone = WanBackbone.from_original("self_forcing_dmd.pt")
    pipe = WanPipeline.from_pretrained("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", transformer=backbone.transformer)
    stream = Stream(WanBackbone.from_pipeline(pipe), seeds=[1], config=STREAM_PRESETS["self-forcing"]())

All are distilled from Wan2.1-T2V-1.3B by distribution matching, to a few steps without guidance. A chunk attends to
its frames and to the cached ones at the positions at which they were generated; cached keys and values are those of the
finished chunk at timestep 0. Where a number is our reading rather than stated by the method, it says so.
"""

from __future__ import annotations

from dataclasses import replace

from memkit.streaming.config import StreamConfig


def self_forcing() -> StreamConfig:
    """Self-Forcing (arXiv 2506.08009).

    Chunks of 3 frames; the timesteps 1000, 750, 500 and 250 of the schedule with shift 5 (``warp_denoising_step``,
    ``timestep_shift`` in its configuration); ``context_noise`` 0; a cache of 32,760 tokens, which are 21 frames of
    480×832 and its whole video. That longer videos let go of the oldest frames, without a sink, is our reading.
    """
    return StreamConfig(
        chunk=3,
        steps=4,
        shift=5.0,
        guidance_scale=1.0,
        context_sigma=0.0,
        timesteps=(1000, 750, 500, 250),
        window=21,
        sink=0,
    )


def causal_forcing() -> StreamConfig:
    """Causal-Forcing, its chunk-wise checkpoint. Its code builds on that of Self-Forcing; that chunk, timesteps, shift
    and cache are the same is our reading."""
    return self_forcing()


def causal_forcing_framewise() -> StreamConfig:
    """Causal-Forcing, its frame-wise checkpoint: chunks of 1 frame. The rest is our reading, as in `causal_forcing`."""
    return replace(self_forcing(), chunk=1)


def causvid() -> StreamConfig:
    """CausVid (arXiv 2412.07772).

    Chunks of 3 frames; the timesteps 1000, 757 and 522, which contain a shift of 8 already, so that there is none here;
    21 frames, which are the whole video. These numbers are our reading of its configuration, whose list of timesteps
    ends in a 0 for training alone. Its noise level of a timestep t is the nearest on a grid of 1000, at most 0.0003 off
    the t / 1000 here. That longer videos let go of the oldest frames is our reading too.
    """
    return replace(self_forcing(), steps=3, shift=None, timesteps=(1000, 757, 522))


def longlive() -> StreamConfig:
    """LongLive 1 (arXiv 2509.22622): Self-Forcing with a window of 12 frames, of which the first 3 of the video are the
    sink; that timesteps and shift are those of Self-Forcing is our reading. Load its LoRA on top of its base:
    ``WanBackbone.from_original(base, lora=lora)``.

    At a new prompt its code writes the cache anew under that prompt; here cached frames keep their keys and values, but
    with ``recache=True``, see `memkit.streaming.memories`.
    """
    return replace(self_forcing(), window=12, sink=3)


STREAM_PRESETS = {
    "self-forcing": self_forcing,
    "causal-forcing": causal_forcing,
    "causal-forcing-framewise": causal_forcing_framewise,
    "causvid": causvid,
    "longlive": longlive,
}

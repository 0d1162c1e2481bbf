"""Generation: videos of a fixed length from a prompt, with memory, guidance and conditioning frames."""

from memkit.generation.conditioning import conditioning_frames, write_conditioning_frames
from memkit.generation.frame_sampler import FrameSampler
from memkit.generation.frame_schedules import (
    draw_independent,
    draw_monotone,
    draw_partitions,
    lagged,
    staircase,
    synchronous,
)
from memkit.generation.generate import generate_latents, generate_video, generate_videos
from memkit.generation.guidance import GuidedMemory, MemoryGuidance
from memkit.generation.negative_prompt import WAN_NEGATIVE_PROMPT
from memkit.generation.noise import frame_noise, permuted_noise
from memkit.generation.overlapping import overlapping_velocity
from memkit.generation.scheduler import make_scheduler
from memkit.generation.short_text import embed_short, short_texts
from memkit.generation.text_cache import TextCache
from memkit.generation.video_job import VideoJob

__all__ = [
    "WAN_NEGATIVE_PROMPT",
    "FrameSampler",
    "GuidedMemory",
    "MemoryGuidance",
    "TextCache",
    "VideoJob",
    "conditioning_frames",
    "draw_independent",
    "draw_monotone",
    "draw_partitions",
    "embed_short",
    "frame_noise",
    "generate_latents",
    "generate_video",
    "generate_videos",
    "lagged",
    "make_scheduler",
    "overlapping_velocity",
    "permuted_noise",
    "short_texts",
    "staircase",
    "synchronous",
    "write_conditioning_frames",
]

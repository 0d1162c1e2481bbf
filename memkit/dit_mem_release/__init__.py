"""The files of DiT-Mem's release: which clip is which, and their latents."""

from memkit.dit_mem_release.clips import find_released_clips, match_released_clips
from memkit.dit_mem_release.latents import ReleasedLatents, read_released_latents

__all__ = ["ReleasedLatents", "find_released_clips", "match_released_clips", "read_released_latents"]

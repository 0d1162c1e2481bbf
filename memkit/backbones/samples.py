"""Errors about batches whose samples do not go with those of a pipeline."""

from __future__ import annotations


def several_videos(rows: int, batch: int, remedy: str) -> str:
    """The end of an error about ``rows`` samples of something in a batch of which each prompt has several videos.

    ``remedy`` says what to repeat, with ``{n}`` for the number of videos; the result is empty in other cases.
    """
    videos, rest = divmod(batch, rows)
    if rest or videos < 2:
        return ""
    return f" For num_videos_per_prompt={videos}, the batch is ordered prompt by prompt: {remedy.format(n=videos)}."

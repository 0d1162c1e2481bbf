"""`WanPipeline`: diffusers' own, which generates at the size of its model where a call gives none."""

from __future__ import annotations

import functools
import inspect
from typing import Any

import diffusers

from memkit.backbones.presets import VideoFormat

_CALL = inspect.signature(diffusers.WanPipeline.__call__)


class WanPipeline(diffusers.WanPipeline):
    """The stock pipeline with other defaults: ``height``, ``width`` and ``num_frames`` are those of ``video_format``.

    diffusers' defaults are 81 frames of 480×832 pixels for every Wan. The class has the name of the stock one, so that
    ``save_pretrained`` writes a folder that diffusers loads.
    """

    video_format: VideoFormat

    @functools.wraps(diffusers.WanPipeline.__call__)
    def __call__(self, *args: Any, **kwargs: Any) -> Any:
        call = _CALL.bind(self, *args, **kwargs)
        for name in ("height", "width", "num_frames"):
            call.arguments.setdefault(name, getattr(self.video_format, name))
        return super().__call__(*call.args[1:], **call.kwargs)

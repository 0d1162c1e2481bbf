"""`adapter_of`: the adapter of a transformer, which is its own or that of its class."""

from __future__ import annotations

from memkit.backbones.adapters.anyflow import AnyFlowAdapter
from memkit.backbones.adapters.anyflow_far import AnyFlowFARAdapter
from memkit.backbones.adapters.cogvideox import CogVideoXAdapter
from memkit.backbones.adapters.hunyuan_video import HunyuanVideoAdapter
from memkit.backbones.adapters.hunyuan_video15 import HunyuanVideo15Adapter
from memkit.backbones.adapters.ltx import LTXVideoAdapter
from memkit.backbones.adapters.skyreels_v2 import SkyReelsV2Adapter
from memkit.backbones.adapters.wan import WAN
from memkit.backbones.adapters.wan_animate import WanAnimateAdapter
from memkit.backbones.adapters.wan_vace import WanVACEAdapter
from memkit.backbones.protocol import BackboneAdapter, Model
from memkit.errors import InputError

ADAPTERS: tuple[BackboneAdapter, ...] = (
    WAN,
    WanVACEAdapter(),
    WanAnimateAdapter(),
    SkyReelsV2Adapter(),
    LTXVideoAdapter(),
    CogVideoXAdapter(),
    HunyuanVideoAdapter(),
    HunyuanVideo15Adapter(),
    AnyFlowAdapter(),
    AnyFlowFARAdapter(),
)
"""The adapters that come with memkit."""

OWN = "memkit_adapter"
"""Attribute of a model (or of its class) with an adapter of its own, which goes before those of memkit."""


def adapter_of(model: Model) -> BackboneAdapter:
    """The adapter of an unwrapped transformer: its attribute ``memkit_adapter``, or memkit's own for its class.

    Raises:
        InputError: there is none.
    """
    own = getattr(model, OWN, None)
    if own is not None:
        if not isinstance(own, BackboneAdapter):
            raise InputError(
                f"{OWN} of the {type(model).__name__} is of type {type(own).__name__}; give it an instance of a "
                "subclass of memkit.backbones.BackboneAdapter."
            )
        return own
    for adapter in ADAPTERS:
        if isinstance(model, adapter.model_class):
            return adapter
    known = ", ".join(adapter.model_class.__name__ for adapter in ADAPTERS)
    raise InputError(
        f"Memory attaches to a pipeline, a WanBackbone or a diffusers transformer of these classes: {known}; not to "
        f"{type(model).__name__}. Give pipe or pipe.transformer, or write a BackboneAdapter for this model and set it "
        f"as model.{OWN}."
    )

"""`BACKBONES`: a tiny random model for every adapter, for tests over all of them."""

from __future__ import annotations

from tests.helpers.tiny_anyflow import ANYFLOW, ANYFLOW_FAR
from tests.helpers.tiny_backbones import LTX, SKYREELS_V2, WAN, WAN_ANIMATE, WAN_VACE, TinyBackbone
from tests.helpers.tiny_joint import COGVIDEOX, COGVIDEOX_2B, HUNYUAN, HUNYUAN_15, HUNYUAN_TOKEN_REPLACE

BACKBONES: dict[str, TinyBackbone] = {
    "wan": WAN,
    "wan_vace": WAN_VACE,
    "wan_animate": WAN_ANIMATE,
    "skyreels_v2": SKYREELS_V2,
    "ltx": LTX,
    "cogvideox": COGVIDEOX,
    "cogvideox_2b": COGVIDEOX_2B,
    "hunyuan": HUNYUAN,
    "hunyuan_token_replace": HUNYUAN_TOKEN_REPLACE,
    "hunyuan_15": HUNYUAN_15,
    "anyflow": ANYFLOW,
    "anyflow_far": ANYFLOW_FAR,
}

"""What acts on frames, on every class of model: where it has no effect it is the stock model, and it can have one."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import Tensor

from memkit.encoders import LowPass
from memkit.errors import InputError
from memkit.injectors import BlockLayer, BlockLayers, FrameVisibility, FrequencyBlend, sliding_window
from memkit.positions import TokenPositions
from tests.helpers.backbones import BACKBONES
from tests.helpers.tiny_backbones import FRAMES


class Halved(BlockLayer):
    def leave(self, hidden: Tensor, out: Tensor, context: Any) -> Tensor:
        return out / 2


def things(tokens: int) -> dict[str, tuple[Any, Any]]:
    """Each without effect, and with one; for so many tokens per frame."""
    all_frames, alone, low = sliding_window(FRAMES), sliding_window(1), LowPass(0.1, 0.1)
    own = torch.arange(tokens).repeat(FRAMES, 1)
    return {
        "visibility": (FrameVisibility(all_frames), FrameVisibility(alone)),
        "blend": (FrequencyBlend(all_frames, low), FrequencyBlend(alone, low)),
        "layers": (BlockLayers({0: BlockLayer()}), BlockLayers({0: Halved()})),
        "positions": (TokenPositions(own), TokenPositions(own.flip(1).cumsum(0) % tokens)),
    }


@pytest.mark.parametrize("name", [name for name in BACKBONES if name != "anyflow_far"])
def test_they_act_on_each_model_or_are_refused(name):
    backbone = BACKBONES[name]
    model = backbone.make()
    with torch.no_grad():
        plain = backbone.call(model)
        for kind, (nothing, something) in things(16 if name == "ltx" else 4).items():
            if backbone.joint and kind in ("visibility", "layers"):
                with pytest.raises(InputError, match="jointly"):
                    nothing.attach(model)
                continue
            if name == "cogvideox_2b" and kind == "positions":
                with pytest.raises(InputError, match="patch embedding"):
                    nothing.attach(model)
                continue
            with nothing.attach(model):
                torch.testing.assert_close(backbone.call(model), plain, atol=1e-5, rtol=1e-5)
            with something.attach(model):
                assert not torch.allclose(backbone.call(model), plain, atol=1e-5), kind
        assert torch.equal(backbone.call(model), plain)


def test_a_call_without_rotary_tables_has_no_positions_to_be_moved():
    backbone = BACKBONES["cogvideox"]
    model = backbone.make()
    with things(4)["positions"][1].attach(model), pytest.raises(InputError, match="no rotary tables"):
        backbone.call(model, image_rotary_emb=None)


def test_a_model_that_does_not_tell_its_frames_refuses_them_in_the_call():
    model = BACKBONES["anyflow_far"].make()
    for nothing, _ in things(4).values():
        with nothing.attach(model), pytest.raises(InputError, match="number and size of its frames"):
            BACKBONES["anyflow_far"].call(model)

"""Wrong use of FrameContext raises an error that names it."""

from __future__ import annotations

import dataclasses

import pytest
import torch
from jaxtyping import TypeCheckError
from torch import Tensor

from memkit.errors import InputError, MemkitError
from memkit.injectors import FrameContext, FrameContextConfig
from tests.helpers.random_wan import random_transformer
from tests.injectors.frame_context.common import CLOSE, CONFIG, FRAMES, PACKED, PAST, call, context, stock_on_all_frames


def test_what_does_not_fit_a_configuration_or_a_model_is_named(model) -> None:
    assert FrameContextConfig.of(model) == CONFIG
    for changes, message in (
        ({"packing": ((3, 2),)}, "multiple of the scale"),
        ({"keep_start": True}, "goes with a packing"),
        ({"patch_size": (2, 2, 2)}, "single frames"),
    ):
        with pytest.raises(InputError, match=message):
            dataclasses.replace(CONFIG, **changes)
    for changes in ({"dim": 64}, {"blocks": 4}, {"channels": 36}, {"patch_size": (1, 4, 4)}):
        frames = FrameContext(dataclasses.replace(PACKED, **changes))
        for use in (frames.attach, frames.initialise):
            with pytest.raises(InputError, match=r"\(48, 3, 16, \(1, 2, 2\)\)"):
                use(model)
    with pytest.raises(InputError, match="call initialise"):
        FrameContext(PACKED).attach(model)
    frames = context()
    for models in ((), (model, model)):
        with pytest.raises(InputError, match="each once"):
            frames.attach(*models)
    with frames.attach(model), pytest.raises(InputError, match="attached already"):
        context().attach(model)


def test_what_does_not_fit_a_chunk_is_named(model, inputs) -> None:
    frames, c = context(), inputs["c"]
    with frames.attach(model) as attached:
        with pytest.raises(MemkitError, match="outside a chunk"):
            call(model, inputs)
        for bad in (
            {"context_positions": [1]},
            {"context_cameras": torch.zeros(1, 1, 12)},
            {"context_timesteps": torch.zeros(1, 1)},
        ):
            with pytest.raises(InputError, match="6 frames"):
                attached.chunk(c, **bad)
        with pytest.raises(InputError, match="0 frames"):
            attached.chunk(None, context_cameras=inputs["context_cameras"])
        with pytest.raises(InputError, match="no encoder"):
            attached.chunk(c, cameras=inputs["cameras"], annotation="guessed")
        with pytest.raises(InputError, match="finite"):
            attached.chunk(c, history_guidance=float("nan"))
        # the run-time type check looks at one random item; where that is the wrong one, it raises first
        with pytest.raises((InputError, TypeCheckError), match="whole numbers|violates type hint|Type-check"):
            attached.chunk(c, context_positions=[0.5, *range(5)])
        for latents, arguments, message in (
            (c[:, :, :, :2], {}, "same channels"),
            (c[:, :8], {}, "same channels"),
            (c[:1].expand(3, -1, -1, -1, -1), {}, "same channels"),
            (c, {"positions": [0]}, "2 frames"),
            (None, {"cameras": inputs["cameras"][:, :1]}, "2 frames"),
            (c, {"cameras": torch.zeros(3, FRAMES, 12)}, "poses of 3 clips"),
            (c, {"context_cameras": torch.zeros(3, PAST, 12)}, "poses of 3 clips"),
            (c, {"context_timesteps": torch.zeros(3, PAST)}, "timesteps of 3 clips"),
        ):
            with attached.chunk(latents, **arguments), pytest.raises(InputError, match=message):
                call(model, inputs)
        with attached.chunk(c), pytest.raises(MemkitError, match="do not nest"):
            attached.chunk(c).__enter__()
        with attached.chunk(c), torch.no_grad():  # the model still works afterwards
            torch.testing.assert_close(call(model, inputs), copy_on_all_frames(model, inputs), **CLOSE)


def copy_on_all_frames(model, inputs) -> Tensor:
    """`stock_on_all_frames` of a model with the same weights that nothing is attached to."""
    other = random_transformer()
    other.load_state_dict(model.state_dict())
    return stock_on_all_frames(other, inputs)

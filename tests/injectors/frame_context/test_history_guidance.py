"""History guidance: its formula, its cost, and its use in the stock pipeline."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

from memkit.errors import InputError
from tests.helpers.random_wan import random_pipeline
from tests.injectors.frame_context.common import CLOSE, context, run


@pytest.mark.parametrize("dictionary", [False, True])
@torch.no_grad()
def test_history_guidance_is_its_formula_at_its_cost(model, inputs, dictionary) -> None:
    frames, runs = context(cameras=0.3), []
    hook = model.norm_out.register_forward_hook(lambda *_: runs.append(1))
    try:
        shown, without = (run(model, frames, inputs, c, cameras=inputs["cameras"]) for c in (inputs["c"], None))
        for omega, cost in ((0, 1), (1, 1), (1.5, 2), (-0.5, 2)):
            runs.clear()
            chunk = {"cameras": inputs["cameras"], "history_guidance": omega}
            with frames.attach(model) as attached, attached.chunk(inputs["c"], **chunk):
                out = model(inputs["p"], inputs["t"], inputs["text"], return_dict=dictionary)
            assert hasattr(out, "sample") is dictionary and len(runs) == cost
            torch.testing.assert_close(out[0], without + omega * (shown - without), **CLOSE)
    finally:
        hook.remove()


@torch.no_grad()
def test_with_noise_in_place_of_no_context_it_is_dfots(model, inputs) -> None:
    frames, noise = context(cameras=0.3), torch.randn_like(inputs["c"])
    posed = {"cameras": inputs["cameras"], "context_cameras": inputs["context_cameras"]}
    times = torch.full(inputs["c"].shape[:3:2], 1000.0)
    shown = run(model, frames, inputs, inputs["c"], **posed)
    empty = run(model, frames, inputs, noise, context_timesteps=times, **posed)
    for omega in (0, 1, 1.5):
        out = run(model, frames, inputs, inputs["c"], history_guidance=omega, history_noise=noise, **posed)
        torch.testing.assert_close(out, empty + omega * (shown - empty), **CLOSE)
    plain = run(model, frames, inputs, inputs["c"], history_guidance=1.5, **posed)
    assert (plain - out).abs().max() > 1e-3  # with no context at all
    with pytest.raises(InputError, match="shape of the context"):
        run(model, frames, inputs, None, history_noise=noise)


@torch.no_grad()
def test_the_stock_pipeline_guides_each_branch_of_the_text(inputs) -> None:
    pipe, frames = random_pipeline(), context()
    pipe.set_progress_bar_config(disable=True)
    words, none, start = inputs["text"][:1], inputs["text"][1:], torch.randn(1, 16, 2, 4, 4)
    c = inputs["c"][:1, ..., :4]

    def guided(x: Tensor, t: Tensor, text: Tensor) -> Tensor:
        shown, without = (run(pipe.transformer, frames, {"p": x, "t": t, "text": text}, past) for past in (c, None))
        return without + 1.5 * (shown - without)

    with frames.attach(pipe.transformer) as attached, attached.chunk(c, history_guidance=1.5):
        output = pipe(
            prompt_embeds=words, negative_prompt_embeds=none, latents=start, height=32, width=32, num_frames=5,
            num_inference_steps=3, guidance_scale=4.0, output_type="latent",
        ).frames  # fmt: skip
    pipe.scheduler.set_timesteps(3)
    x = start
    for t in pipe.scheduler.timesteps:
        v, empty = (guided(x, t.expand(1), text) for text in (words, none))
        x = pipe.scheduler.step(empty + 4.0 * (v - empty), t, x, return_dict=False)[0]
    torch.testing.assert_close(output, x, atol=1e-4, rtol=0)

"""An attached TeacherForcing: the model is left as it was, and wrong use raises an error that names it."""

import pytest
import torch

from memkit.errors import InputError, MemkitError
from memkit.frame_graph import FrameGraph, Node
from memkit.injectors import KVCache, TeacherForcing, stream_cameras
from tests.helpers.random_wan import random_transformer
from tests.injectors.teacher_forcing.common import PLAIN, TOKENS, assert_untouched, cameras, clip, seeded, text


def test_detached_it_leaves_nothing_behind(model):
    x, keys = seeded(2, 16, 3, 4, 4), list(model.state_dict())

    def run():
        with torch.no_grad():
            return model(x, torch.tensor([700.0, 1.0]), text(), return_dict=False)[0]

    base = run()
    with TeacherForcing().attach(model):
        assert list(model.state_dict()) == keys
    assert torch.equal(run(), base)
    assert_untouched(model)


def test_the_timestep_of_a_frame_is_embedded_once_for_all_its_tokens(model):
    """Stock Wan embeds that of each token; the modulation that its blocks receive is the same."""
    embedder, frames, seen = model.condition_embedder, 2 * PLAIN.num_frames, {}
    embedder.time_proj.register_forward_hook(lambda _module, args, _out: seen.update(embedded=args[0].shape[1]))
    model.blocks[0].register_forward_pre_hook(lambda _block, args: seen.update(temb=args[2]))
    times = torch.rand(2, frames, generator=torch.Generator().manual_seed(3)) * 1000
    with torch.no_grad(), TeacherForcing().attach(model) as teacher, teacher.chunk(PLAIN):
        model(seeded(2, 16, frames, 4, 4), times, text())
    assert seen["embedded"] == frames
    per_token = times.repeat_interleave(TOKENS, 1)
    with torch.no_grad():
        stock = embedder(per_token.flatten(), text(), timestep_seq_len=per_token.shape[1])[1]
    assert seen["embedded"] == frames * TOKENS
    torch.testing.assert_close(seen["temb"].flatten(2), stock, rtol=1e-6, atol=1e-6)


def test_wrong_use_is_named_and_leaves_the_model_alone(model):
    forcing, parts = TeacherForcing(), clip(PLAIN)
    with pytest.raises(InputError, match="each once"):
        forcing.attach()
    with pytest.raises(InputError, match="patches latent frames"):
        forcing.attach(random_transformer(patch_size=(2, 2, 2)))
    with forcing.attach(model) as teacher:
        with pytest.raises(MemkitError, match="teacher forcing ran outside a chunk"):
            model(seeded(2, 16, 8, 4, 4), torch.zeros(2, 8), text())
        with pytest.raises(InputError, match="attached already"):
            TeacherForcing().attach(model)
        with teacher.chunk(PLAIN) as step:
            with pytest.raises(MemkitError, match="do not nest"), teacher.chunk(PLAIN):
                pass
            with pytest.raises(InputError, match="8 frames, the latents 7"):
                step.velocity(model, parts[0][:, :, :7], parts[1][:, :, :7], 0.5, text())
            with pytest.raises(InputError, match="16 frames, the latents 8"):
                model(parts[0], torch.zeros(2, 8), text())
            with pytest.raises(InputError, match="timestep for each frame"):
                model(torch.cat([parts[0]] * 2, 2), torch.zeros(2), text())
            with pytest.raises(InputError, match="3 prompts for 4 chunks"):
                step.velocity(model, parts[0], parts[1], 0.5, text(chunks=3))
            with pytest.raises(InputError, match="3 samples for a batch of 2"):
                step.velocity(model, parts[0], parts[1], torch.ones(3), text())
            with pytest.raises(InputError, match="in \\[0, 1\\]"):
                step.velocity(model, parts[0], parts[1], 1.5, text())
    with pytest.raises(InputError, match="none carries loss"):
        forcing.attach(random_transformer()).chunk(FrameGraph((Node(0, 2, conditioning_frames=2),)), for_loss=True)
    with pytest.raises(InputError, match="at 0 has no camera"):
        stream_cameras(PLAIN, cameras(9))
    assert_untouched(model)


@pytest.mark.parametrize("cache_first", [True, False])
def test_a_cache_beside_it_is_refused(model, cache_first):
    both = [TeacherForcing(), KVCache(10**6)]
    with both[cache_first].attach(model), pytest.raises(InputError, match="positions in time"):
        both[not cache_first].attach(model)
    assert_untouched(model)

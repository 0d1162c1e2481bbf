"""What a stream remembers: its budget, pinned and packed frames, and sessions on disk."""

import gc
import json

import pytest
import torch

from memkit.errors import InputError
from memkit.injectors import RecurrentState, StateSpaceConfig, StateSpaceMemory
from memkit.injectors.kv_cache import SlotCache
from memkit.streaming import Stream, StreamConfig, read_everything, read_packed, read_window
from tests.helpers.differ import differ
from tests.helpers.edited_files import edit_json
from tests.helpers.streams import GUIDED, PROMPTS, cameras, seeded, stream, trained


def test_memory_is_flat_past_the_budget_and_pinned_chunks_stay(backbone):
    it, sizes = stream(backbone, GUIDED, frames=6), []
    for i in range(15):  # 30 latent frames: 117 frames of video
        it.generate(PROMPTS, pin=i == 0)
        if i in (3, 14):
            gc.collect()
            tensors = [x for x in gc.get_objects() if type(x) is torch.Tensor]
            sizes.append(sum(x.nbytes for x in tensors if x.layout == torch.strided))
    held = [it.cache.branch(name) for name in it.cache.branches]
    assert sizes[0] == sizes[1] and sum(branch.nbytes for branch in held) <= it.cache.budget_bytes
    assert [branch.positions for branch in held] == [(0, 1, 26, 27, 28, 29)] * 2


def test_a_chunk_can_be_made_again_and_a_gap_left(backbone):
    it = stream(backbone)
    first, second = it.generate(PROMPTS), it.generate(PROMPTS)
    it.position = 2
    assert torch.equal(it.generate(PROMPTS), second) and it.position == 4
    it.position = 40
    far = it.generate(PROMPTS)
    it.position = 4
    near = it.generate(PROMPTS)
    assert it.cache.branch("cond").positions == (0, 1, 2, 3, 4, 5, 40, 41)
    assert differ(far, near, rtol=1e-5) and differ(first, second)


def test_one_may_read_less(backbone):
    def own(held, chunk):
        return held.positions

    outs = {}
    for name, read in {
        "all": read_everything,
        "own": own,
        "wide": read_window(6),
        "narrow": read_window(2),
        "packed": read_packed(first=1, anchors=[2], previous=2),
        "none": read_window(0),
    }.items():
        outs[name] = stream(backbone, read=read).generate_all([PROMPTS] * 4)
    assert all(torch.equal(outs["all"], outs[name]) for name in ("own", "wide"))
    different = [outs[name][:, :, 6:] for name in ("all", "narrow", "packed", "none")]
    assert all(differ(a, b, rtol=1e-5) for i, a in enumerate(different) for b in different[:i])


def test_the_packed_subset_is_first_anchors_previous_and_pinned():
    held = SlotCache(10**6)
    held.update(range(12), [(torch.zeros(1, 12, 1, 1),) * 2])
    assert read_packed(1, [3, 4, 20], 3)(held, [12, 13, 14]) == (0, 3, 4, 9, 10, 11)
    held.pin([6])
    assert read_packed(0, [3, 9], 2)(held, [8, 9]) == (3, 6, 7)
    assert read_window(1)(held, [4]) == (3,) and read_everything(held, [3, 4]) == (0, 1, 2)
    with pytest.raises(InputError, match="-1"):
        read_packed(first=-1)
    with pytest.raises(InputError, match="-1"):
        read_window(-1)


@pytest.mark.parametrize("guidance", [1.0, 3.0])
def test_a_saved_stream_goes_on_to_the_bit(backbone, tmp_path, guidance):
    config = StreamConfig(chunk=2, first=1, steps=2, guidance_scale=guidance)
    more = {"positions": trained(backbone), "cameras": cameras(20)}
    it = stream(backbone, config, frames=5, **more)
    it.generate_all([PROMPTS] * 2, seeded(1, 16, 1, 4, 4))
    it.save(tmp_path / "a")
    it.generate(PROMPTS, pin=True)
    it.save(tmp_path / "a")
    it.save(tmp_path / "a")
    want = it.generate_all([PROMPTS, PROMPTS[::-1]])
    again = Stream.load(tmp_path / "a", backbone, **more)
    assert again.config == config and again.position == 5
    assert torch.equal(again.generate_all([PROMPTS, PROMPTS[::-1]]), want)
    assert again.cache.branch("cond").pinned == (3, 4)
    assert sorted(p.name for p in (tmp_path / "a").iterdir()) == ["a.safetensors", "stream.json"]


def test_a_cache_of_another_stream_is_refused(backbone, tmp_path):
    for name, frames in (("one", 1), ("other", 2)):
        it = stream(backbone)
        for _ in range(frames):
            it.generate(PROMPTS)
        it.save(tmp_path / name)
    Stream.load(tmp_path / "one", backbone)
    (tmp_path / "other/a.safetensors").replace(tmp_path / "one/a.safetensors")
    with pytest.raises(InputError, match="is not the cache that .*stream.json was saved with"):
        Stream.load(tmp_path / "one", backbone)


def test_what_is_no_saved_stream_is_named(backbone, tmp_path):
    with pytest.raises(InputError, match="no saved stream at"):
        Stream.load(tmp_path, backbone)
    stream(backbone).save(tmp_path)
    content = json.loads((tmp_path / "stream.json").read_text())
    for change, message in (
        ({"version": 2}, "^.*no memkit-stream of version 1"),
        ({"config": {"x": 1}}, "damaged"),
        ({"size": 3}, "stream.json has size = 3"),
    ):
        edit_json(tmp_path / "stream.json", **content | change)
        with pytest.raises(InputError, match=message):
            Stream.load(tmp_path, backbone)
    (tmp_path / "stream.json").write_text("{")
    with pytest.raises(InputError, match="damaged"):
        Stream.load(tmp_path, backbone)


@torch.no_grad()
def test_recurrent_memory_goes_on_with_a_stream(backbone, tmp_path):
    """Each branch of guidance has the state of its own clean pass; stream and state, saved together, continue."""
    model, apart = backbone.transformer, StateSpaceMemory(StateSpaceConfig.of(backbone.transformer, every=1))
    for i, parameter in enumerate(apart.parameters()):
        parameter.data = 0.3 * seeded(*parameter.shape, seed=i)
    state, it = RecurrentState(("cond", "uncond")), stream(backbone, GUIDED, read=lambda held, chunk: ())
    with apart.attach(model, state=state) as attached:
        with attached.chunk(write=True):
            first = it.generate(PROMPTS)
        it.save(tmp_path / "stream")
        state.save(tmp_path / "state.safetensors")
        with attached.chunk(write=True):
            second = it.generate(PROMPTS)
    own = RecurrentState(("cond", "uncond"))
    with apart.attach(model, state=own) as attached:
        for x in (first, second):
            with attached.chunk(write=True):
                for name, prompts in (("cond", PROMPTS), ("uncond", ["", ""])):
                    with model.cache_context(name):
                        model(x, torch.zeros(2), backbone.encode_text(prompts))
    for name in own.branches:
        written, by_hand = (each.branch(name)[1].tensors for each in (state, own))
        assert written.keys() == by_hand.keys()
        assert all(torch.allclose(x, by_hand[key], atol=1e-5) for key, x in written.items())
    assert state.frames == own.frames == 4
    again = Stream.load(tmp_path / "stream", backbone, read=lambda held, chunk: ())
    with apart.attach(model, state=RecurrentState.load(tmp_path / "state.safetensors")) as attached, attached.chunk():
        assert torch.equal(again.generate(PROMPTS), second)
    again = Stream.load(tmp_path / "stream", backbone, read=lambda held, chunk: ())
    assert differ(again.generate(PROMPTS), second)

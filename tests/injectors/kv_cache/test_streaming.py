"""Streaming with a KVCache against one dense masked forward of the whole sequence."""

import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.helpers.differ import differ
from tests.helpers.random_wan import random_transformer
from tests.injectors.kv_cache.common import TIGHT, dense, earlier, latents, new_cache, run, stream


@st.composite
def sessions(draw):
    """Chunks at distinct positions, and for each the earlier positions that it reads."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    positions = draw(st.lists(st.integers(-3000, 3000), min_size=sum(sizes), max_size=sum(sizes), unique=True))
    chunks = [positions[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(len(sizes))]
    reads = [draw(st.lists(st.sampled_from(past), unique=True)) if past else [] for past in earlier(chunks)]
    return chunks, reads


@settings(max_examples=25, deadline=None)
@given(sessions())
def test_any_packed_subset_at_any_positions_equals_the_full_sequence_with_dropped_columns(session):
    chunks, reads = session
    x, model = latents(sum(map(len, chunks))), random_transformer()
    cache = new_cache(model)
    with cache.attach(model) as attached:
        out = stream(model, attached, x, chunks, reads)
    torch.testing.assert_close(out, dense(x, chunks, reads), **TIGHT)


def test_streaming_equals_the_block_causal_full_sequence(model):
    chunks = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    x, cache = latents(9), new_cache(model)
    with cache.attach(model) as attached:
        out = stream(model, attached, x, chunks)
    torch.testing.assert_close(out, dense(x, chunks, earlier(chunks)), **TIGHT)
    assert differ(out[:, :, 3:], dense(x, chunks, [[], [], []])[:, :, 3:], atol=1e-3)


def test_a_gap_of_40_equals_a_reference_40_frames_in_the_past(model):
    x, outs = latents(6), []
    for chunks in ([[0, 1, 2], [43, 44, 45]], [[-40, -39, -38], [3, 4, 5]], [[0, 1, 2], [3, 4, 5]]):
        cache = new_cache(model)
        with cache.attach(model) as attached:
            outs.append(stream(model, attached, x, chunks))
    torch.testing.assert_close(outs[0], outs[1], **TIGHT)
    assert (outs[0] - outs[2]).abs().max() > 1e-3


def test_a_rolling_window_with_a_sink_goes_on_past_the_models_table_in_the_same_memory(model):
    x, chunks = latents(40, batch=1), [[p, p + 1] for p in range(1000, 1040, 2)]  # Wan's rotary table ends at 1024
    cache = new_cache(model, frames=8, batch=1)
    slots, out = cache.branch(), []
    with cache.attach(model) as attached, torch.no_grad():
        for i, positions in enumerate(chunks):
            with attached.chunk(positions, write=True, pin=i == 0) as chunk:
                out.append(run(model, x[:, :, 2 * i : 2 * i + 2]))
            if i == 0:
                allocated = slots.nbytes, slots.get(0)[0].data_ptr()
            assert chunk.evicted == ((1002 + 2 * (i - 4), 1003 + 2 * (i - 4)) if i >= 4 else ())
        assert (slots.nbytes, slots.get(0, [1000])[0].data_ptr()) == allocated
    assert slots.nbytes <= cache.budget_bytes and slots.positions == (1000, 1001, *range(1034, 1040))
    reads = [[p for c in ([chunks[0]] if i else []) + chunks[max(1, i - 3) : i] for p in c] for i in range(20)]
    torch.testing.assert_close(torch.cat(out, 2), dense(x, chunks, reads), **TIGHT)


def test_a_replaced_chunk_is_as_if_it_had_been_so_from_the_start(model):
    first, other, last = latents(3), latents(3, seed=5), latents(3, seed=6)
    cache, fresh = new_cache(model), new_cache(model)
    with cache.attach(model) as attached:
        stream(model, attached, torch.cat([latents(3, seed=3), first], 2), [[0, 1, 2], [3, 4, 5]])
        replaced = stream(model, attached, other, [[3, 4, 5]])
        got = stream(model, attached, last, [[6, 7, 8]])
        history = cache.branch().window(9, before=3)
        assert history == (0, 1, 2)
        assert torch.equal(stream(model, attached, other, [[3, 4, 5]], [history]), replaced)
        sees_all = stream(model, attached, other, [[3, 4, 5]])  # by default also what came after
        assert differ(sees_all, replaced)
    with fresh.attach(model) as attached:
        stream(model, attached, torch.cat([latents(3, seed=3), other], 2), [[0, 1, 2], [3, 4, 5]])
        assert torch.equal(stream(model, attached, last, [[6, 7, 8]]), got)

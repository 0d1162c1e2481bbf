"""KVCache: its slots against a plain list, and streaming against one dense masked forward of the whole sequence."""

import json
import math

import pytest
import torch
from diffusers import WanTransformer3DModel
from diffusers.models.transformers.transformer_wan import WanAttnProcessor
from hypothesis import given, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from safetensors import safe_open
from safetensors.torch import save_file

from memkit.errors import InputError, MemkitError
from memkit.injectors import AttentionRecorder, BudgetError, KVCache, SelfAttentionConcat, frame_bytes
from memkit.injectors.kv_cache import SlotCache
from memkit.memory import Memory
from tests.helpers.random_wan import SMALL, random_pipeline, random_transformer

TOKENS = 4  # of a latent frame of 4×4
TIGHT = {"rtol": 0, "atol": 1e-5}


@pytest.fixture
def model():
    return random_transformer()


def latents(frames, batch=2, seed=1):
    return torch.randn(batch, 16, frames, 4, 4, generator=torch.Generator().manual_seed(seed))


def text(batch=2):
    return torch.randn(batch, 6, SMALL["text_dim"], generator=torch.Generator().manual_seed(9))


def run(model, x, timestep=(700.0, 150.0), prompt=None):
    return model(x, torch.tensor(timestep)[: len(x)], text(len(x)) if prompt is None else prompt, return_dict=False)[0]


def a_cache(model, frames=64, batch=2, branches=("main",)):
    return KVCache(frames * len(branches) * frame_bytes(model, 4, 4, batch), branches)


def stream(model, attached, x, chunks, reads=None, **more):
    """Each chunk of positions written with what it reads; the outputs in order."""
    outs, start = [], 0
    with torch.no_grad():
        for i, positions in enumerate(chunks):
            read = None if reads is None else reads[i]
            with attached.chunk(positions, read=read, write=True, **more):
                outs.append(run(model, x[:, :, start : start + len(positions)]))
            start += len(positions)
    return torch.cat(outs, dim=2)


class Dense(WanAttnProcessor):
    """Self-attention of the whole sequence by its definition: all logits in float64, one mask, complex rotation."""

    def __init__(self, positions, allowed):
        super().__init__()
        dim, side = SMALL["attention_head_dim"], 2 * (SMALL["attention_head_dim"] // 6)
        grid = torch.meshgrid(torch.tensor(positions), torch.arange(2), torch.arange(2), indexing="ij")
        parts = [
            p.reshape(-1, 1).double() * 10000.0 ** (-torch.arange(0, d, 2).double() / d)
            for p, d in zip(grid, (dim - 2 * side, side, side), strict=True)
        ]
        self.turn = torch.polar(torch.ones(()).double(), torch.cat(parts, 1))[:, None]
        self.allowed = allowed.repeat_interleave(TOKENS, 0).repeat_interleave(TOKENS, 1)

    def __call__(self, attn, hidden, *_):
        q, k, v = attn.norm_q(attn.to_q(hidden)), attn.norm_k(attn.to_k(hidden)), attn.to_v(hidden)
        q, k, v = (x.unflatten(-1, (attn.heads, -1)).double() for x in (q, k, v))
        q, k = (
            torch.view_as_real(torch.view_as_complex(x.unflatten(-1, (-1, 2))) * self.turn).flatten(-2) for x in (q, k)
        )
        logits = torch.einsum("bqhd,bkhd->bhqk", q, k) / math.sqrt(q.shape[-1])
        weights = logits.masked_fill(~self.allowed, -torch.inf).softmax(-1)
        return attn.to_out[0](torch.einsum("bhqk,bkhd->bqhd", weights, v).flatten(2).float())


def dense(x, chunks, reads, seed=0):
    """The whole sequence in one forward; chunk i sees itself and the positions reads[i]."""
    positions = [p for chunk in chunks for p in chunk]
    allowed = torch.zeros(len(positions), len(positions), dtype=torch.bool)
    row = 0
    for chunk, read in zip(chunks, reads, strict=True):
        seen = [positions.index(p) for p in (*chunk, *read)]
        for _ in chunk:
            allowed[row, seen] = True
            row += 1
    model = random_transformer(seed)
    for block in model.blocks:
        block.attn1.set_processor(Dense(positions, allowed))
    with torch.no_grad():
        return run(model, x)


def before(chunks):
    return [[p for chunk in chunks[:i] for p in chunk] for i in range(len(chunks))]


# -- streaming is the masked full sequence -----------------------------------------------------------------------------


@st.composite
def sessions(draw):
    """Chunks at any distinct positions, each with some of the earlier frames to read."""
    sizes = draw(st.lists(st.integers(1, 3), min_size=1, max_size=4))
    positions = draw(st.lists(st.integers(-3000, 3000), min_size=sum(sizes), max_size=sum(sizes), unique=True))
    chunks = [positions[sum(sizes[:i]) : sum(sizes[: i + 1])] for i in range(len(sizes))]
    reads = [draw(st.lists(st.sampled_from(past), unique=True)) if past else [] for past in before(chunks)]
    return chunks, reads


@settings(max_examples=25, deadline=None)
@given(sessions())
def test_any_packed_subset_at_any_positions_equals_the_full_sequence_with_dropped_columns(session):
    chunks, reads = session
    x, model = latents(sum(map(len, chunks))), random_transformer()
    cache = a_cache(model)
    with cache.attach(model) as attached:
        out = stream(model, attached, x, chunks, reads)
    torch.testing.assert_close(out, dense(x, chunks, reads), **TIGHT)


def test_streaming_equals_the_block_causal_full_sequence(model):
    chunks = [[0, 1, 2], [3, 4, 5], [6, 7, 8]]
    x, cache = latents(9), a_cache(model)
    with cache.attach(model) as attached:
        out = stream(model, attached, x, chunks)
    torch.testing.assert_close(out, dense(x, chunks, before(chunks)), **TIGHT)
    assert not torch.allclose(out[:, :, 3:], dense(x, chunks, [[], [], []])[:, :, 3:], atol=1e-3)


def test_a_gap_of_40_equals_a_reference_40_frames_in_the_past(model):
    x, outs = latents(6), []
    for chunks in ([[0, 1, 2], [43, 44, 45]], [[-40, -39, -38], [3, 4, 5]], [[0, 1, 2], [3, 4, 5]]):
        cache = a_cache(model)
        with cache.attach(model) as attached:
            outs.append(stream(model, attached, x, chunks))
    torch.testing.assert_close(outs[0], outs[1], **TIGHT)
    assert (outs[0] - outs[2]).abs().max() > 1e-3


def test_a_rolling_window_with_a_sink_goes_on_past_the_models_table_in_the_same_memory(model):
    x, chunks = latents(40, batch=1), [[p, p + 1] for p in range(1000, 1040, 2)]  # Wan's table ends at 1024
    cache = a_cache(model, frames=8, batch=1)
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


def test_the_window_is_the_newest_and_the_pinned(model):
    slots = a_cache(model).branch()
    write(slots, [7, -3, 0, 40, 12])
    slots.pin([-3])
    assert slots.window(2) == (-3, 12, 40)
    assert slots.window(2, before=12) == (-3, 0, 7)
    assert slots.window(0) == (-3,) and slots.window(9) == (-3, 0, 7, 12, 40)
    with pytest.raises(InputError, match="-1 frames"):
        slots.window(-1)


def test_a_replaced_chunk_is_as_if_it_had_been_so_from_the_start(model):
    first, other, last = latents(3), latents(3, seed=5), latents(3, seed=6)
    cache, fresh = a_cache(model), a_cache(model)
    with cache.attach(model) as attached:
        stream(model, attached, torch.cat([latents(3, seed=3), first], 2), [[0, 1, 2], [3, 4, 5]])
        replaced = stream(model, attached, other, [[3, 4, 5]])
        got = stream(model, attached, last, [[6, 7, 8]])
        history = cache.branch().window(9, before=3)
        assert history == (0, 1, 2)
        assert torch.equal(stream(model, attached, other, [[3, 4, 5]], [history]), replaced)
        assert not torch.equal(
            stream(model, attached, other, [[3, 4, 5]]), replaced
        )  # sees what came after, if not told
    with fresh.attach(model) as attached:
        stream(model, attached, torch.cat([latents(3, seed=3), other], 2), [[0, 1, 2], [3, 4, 5]])
        assert torch.equal(stream(model, attached, last, [[6, 7, 8]]), got)


# -- what it promises about the model ----------------------------------------------------------------------------------


def test_an_empty_cache_and_a_detached_one_are_bit_identical(model):
    x = latents(5)
    with torch.no_grad():
        base, cache = run(model, x), a_cache(model)
        with cache.attach(model) as attached:
            with attached.chunk(range(5)):
                assert torch.equal(run(model, x), base)
            with attached.chunk([p + 1 for p in range(5)]):
                shifted = run(model, x)
            assert not torch.equal(shifted, base)
            assert not cache.branch().positions and cache.branch().nbytes == 0  # nothing was written
        assert torch.equal(run(model, x), base)
    assert type(model.blocks[0].attn1.processor) is WanAttnProcessor
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())


def test_inside_the_stock_pipeline(model):
    pipe = random_pipeline()
    pipe.set_progress_bar_config(disable=True)

    def generate():
        arguments = {"height": 32, "width": 32, "num_frames": 9, "num_inference_steps": 2, "guidance_scale": 3.0}
        return pipe("a ball", generator=torch.Generator().manual_seed(0), output_type="latent", **arguments).frames

    base, cache = generate(), a_cache(pipe.transformer, batch=1)
    with cache.attach(pipe.transformer) as attached:
        with attached.chunk([0, 1, 2]):
            assert torch.equal(generate(), base)
        with attached.chunk([0, 1, 2], write=True), torch.no_grad():
            run(pipe.transformer, base, prompt=text(1))
        with attached.chunk([3, 4, 5]):
            assert not torch.equal(generate(), base)
    assert torch.equal(generate(), base)


@pytest.mark.parametrize("cache_first", [True, False])
@pytest.mark.parametrize("ragged", [True, False])
def test_with_memory_tokens_the_chunk_sees_both(model, cache_first, ragged):
    """Heavy memory drowns out the cache, hidden memory leaves it alone: with both each counts, in either order."""
    mask = torch.tensor([[True] * 3, [not ragged] * 3])
    memory = Memory(torch.randn(2, 3, 48, generator=torch.Generator().manual_seed(4)), mask=mask)
    x, cache, recorder = latents(6), a_cache(model), AttentionRecorder()
    outs = []
    for order in (cache_first, not cache_first):
        cache.reset()
        recorder = AttentionRecorder()
        injectors = [cache, SelfAttentionConcat(memory, recorder=recorder)]
        with injectors[0 if order else 1].attach(model) as a, injectors[1 if order else 0].attach(model) as b:
            outs.append(stream(model, a if order else b, x, [[0, 1, 2], [3, 4, 5]]))
        alone, with_history = recorder.shares()
        assert (with_history < alone)[alone > 0].all() and (with_history > 0.01)[alone > 0].all()
    torch.testing.assert_close(outs[0], outs[1], **TIGHT)
    other = a_cache(model)
    with other.attach(model) as attached:
        without = stream(model, attached, x, [[0, 1, 2], [3, 4, 5]])
    assert not torch.equal(outs[0][0], without[0])
    assert torch.equal(outs[0][1], without[1]) == ragged


# -- what is written, and when -----------------------------------------------------------------------------------------


def filled(model, attached):
    with torch.no_grad(), attached.chunk([0, 1, 2], write=True):
        run(model, latents(3))


def test_only_the_last_forward_of_a_writing_chunk_is_written_and_only_at_its_end(model):
    cache, want = a_cache(model), a_cache(model)
    with cache.attach(model) as attached, torch.no_grad(), attached.chunk([0, 1, 2], write=True):
        run(model, latents(3, seed=7))
        run(model, latents(3))
        assert cache.branch().positions == ()
    with want.attach(model) as attached:
        filled(model, attached)
    assert same(cache.branch(), want.branch())


def same(a, b):
    if a.positions != b.positions or a.pinned != b.pinned or a.layers != b.layers:
        return False
    return all(torch.equal(x, y) for i in range(a.layers) for x, y in zip(a.get(i), b.get(i), strict=True))


def test_what_raises_writes_nothing(model):
    cache = a_cache(model)
    with cache.attach(model) as attached:
        with pytest.raises(ZeroDivisionError), torch.no_grad(), attached.chunk([0, 1, 2], write=True):
            run(model, latents(3))
            raise ZeroDivisionError
        with pytest.raises(MemkitError, match="did not run"), attached.chunk([0, 1, 2], write=True):
            pass
        handle = model.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
        with pytest.raises(MemkitError, match="did not run"), torch.no_grad(), attached.chunk([0, 1, 2], write=True):
            handle.remove()
            run(model, latents(3))
            handle = model.blocks[2].register_forward_pre_hook(lambda *_: 1 / 0)
            with pytest.raises(ZeroDivisionError):
                run(model, latents(3))  # of this one only the first layers are there
        handle.remove()
        assert cache.branch().positions == ()
        filled(model, attached)  # and it goes on
    assert cache.branch().positions == (0, 1, 2)


def test_gradient_checkpointing_changes_neither_what_is_written_nor_the_gradients(model):
    caches, grads = [], []
    for checkpointing in (False, True):
        if checkpointing:
            model.enable_gradient_checkpointing()
            model.train()
        cache, x = a_cache(model), latents(3, seed=8).requires_grad_()
        with cache.attach(model) as attached:
            filled(model, attached)
            with attached.chunk([3, 4, 5], write=True):
                run(model, x).pow(2).mean().backward()
                assert cache.branch().positions == (0, 1, 2)
        caches.append(cache.branch())
        grads.append(x.grad)
    assert same(*caches) and caches[0].positions == (0, 1, 2, 3, 4, 5)
    assert grads[0].abs().min() > 0
    torch.testing.assert_close(grads[0], grads[1], rtol=0, atol=0)
    assert not any(x.requires_grad for x in caches[0].get(0))


@pytest.mark.parametrize("reentrant", [True, False])
def test_a_block_is_not_run_again_in_another_chunk(model, reentrant):
    def checkpoint(function, *args):
        return torch.utils.checkpoint.checkpoint(function, *args, use_reentrant=reentrant)

    model.enable_gradient_checkpointing(checkpoint)
    model.train()
    cache = a_cache(model)
    with cache.attach(model) as attached:
        filled(model, attached)
        for later in (None, [6, 7, 8]):
            with attached.chunk([3, 4, 5]):
                loss = run(model, latents(3).requires_grad_()).sum()
            if later is None:
                with pytest.raises(MemkitError, match="has ended"):
                    loss.backward()
            else:
                with pytest.raises(MemkitError, match="has ended"), attached.chunk(later):
                    loss.backward()
        with attached.chunk([3, 4, 5]):
            run(model, latents(3).requires_grad_()).sum().backward()


def test_a_cache_first_written_in_inference_mode_can_be_written_outside_of_it(model):
    cache = a_cache(model)
    with cache.attach(model) as attached:
        with torch.inference_mode():
            filled(model, attached)
        filled(model, attached)
        with torch.inference_mode():
            filled(model, attached)
    assert cache.branch().positions == (0, 1, 2)


# -- branches, experts, sessions ---------------------------------------------------------------------------------------


def test_branches_are_caches_of_their_own_under_one_budget(model):
    cache = a_cache(model, frames=8, branches=("cond", "uncond"))
    xs = {"cond": latents(6), "uncond": latents(6, seed=3)}
    got = {}
    with cache.attach(model) as attached:
        for i, positions in enumerate([[0, 1, 2], [3, 4, 5]]):
            for name, x in xs.items():
                got[name] = stream(model, attached, x[:, :, 3 * i : 3 * i + 3], [positions], branch=name)
        with pytest.raises(InputError, match="no branch 'cnd'"):
            attached.chunk([6], branch="cnd")
        with pytest.raises(InputError, match="name one"):
            attached.chunk([6])
    for name, x in xs.items():
        alone = a_cache(model)
        with alone.attach(model) as attached:
            assert torch.equal(stream(model, attached, x, [[0, 1, 2], [3, 4, 5]])[:, :, 3:], got[name])
    assert sum(cache.branch(n).nbytes for n in cache.branches) == cache.budget_bytes
    cache.branch("cond").reset()
    assert cache.branch("cond").positions == () and cache.branch("uncond").positions == (0, 1, 2, 3, 4, 5)
    cache.reset()
    assert cache.branch("uncond").positions == ()


def test_two_experts_share_positions_and_nothing_else(model):
    other = random_transformer(1)
    cache = KVCache(8 * (frame_bytes(model, 4, 4, 2) + frame_bytes(other, 4, 4, 2)))
    first, second = latents(3), latents(3, seed=2)
    with cache.attach(model, other) as attached, torch.no_grad():
        with attached.chunk([0, 1, 2], write=True):
            run(model, first), run(other, first)
        with attached.chunk([3, 4, 5]):
            got = run(model, second), run(other, second)
        with pytest.raises(MemkitError, match="transformer 1 of 2"), attached.chunk([3, 4, 5], write=True):
            run(model, second)
    assert cache.branch().positions == (0, 1, 2) and cache.branch().capacity == 8
    for expert, seed, out in zip((model, other), (0, 1), got, strict=True):
        want = dense(torch.cat([first, second], 2), [[0, 1, 2], [3, 4, 5]], [[], [0, 1, 2]], seed)
        torch.testing.assert_close(out, want[:, :, 3:], **TIGHT)
        assert type(expert.blocks[0].attn1.processor) is WanAttnProcessor


@pytest.mark.parametrize("batch", [1, 2])
def test_a_saved_session_goes_on_to_the_bit(model, tmp_path, batch):
    cache = a_cache(model, 5, batch, ("cond", "uncond"))
    with cache.attach(model) as attached:
        chunks = [[10, 11], [-4, 2], [20, 15], [12]]  # in slots out of order
        stream(model, attached, latents(7, batch), chunks, branch="cond")
        cache.branch("cond").pin([12])
        stream(model, attached, latents(3, batch), [[4], [5, 6]], branch="uncond")
        cache.branch("uncond").drop([4])  # in order, but not from the first
        cache.save(tmp_path / "session")
        again = KVCache.load(tmp_path / "session")
        assert again.branches == cache.branches and again.budget_bytes == cache.budget_bytes
        for name in cache.branches:
            assert same(again.branch(name), cache.branch(name))
        assert again.branch("cond").pinned == (12,)
        want = stream(model, attached, latents(2, batch, seed=3), [[30, 31]], branch="cond")
    with again.attach(model) as attached:
        assert torch.equal(stream(model, attached, latents(2, batch, seed=3), [[30, 31]], branch="cond"), want)
    assert same(again.branch("cond"), cache.branch("cond"))
    assert [p.name for p in tmp_path.iterdir()] == ["session"]


def test_an_empty_session_is_saved_too(tmp_path):
    KVCache(1000, ("a", "b")).save(tmp_path / "session")
    assert KVCache.load(tmp_path / "session").branches == ("a", "b")


def test_a_file_that_is_no_session_is_named(model, tmp_path):
    cache, path = a_cache(model), tmp_path / "session"
    with pytest.raises(InputError, match="no saved cache at"):
        KVCache.load(path)
    with cache.attach(model) as attached:
        filled(model, attached)
    cache.save(path)
    with pytest.raises(InputError, match="Cannot write"):
        cache.save(tmp_path / "nowhere" / "session")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        KVCache.load(path)
    path.write_bytes(whole)
    with safe_open(path, "pt") as file:
        header = json.loads(file.metadata()["session"])
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
    for change, message in (
        ({"version": 2}, "version 1"),
        ({"format": "x"}, "version 1"),
        ({"branches": 3}, "damaged"),
    ):
        save_file(tensors, path, metadata={"session": json.dumps({**header, **change})})
        with pytest.raises(InputError, match=message):
            KVCache.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="damaged"):
        KVCache.load(path)
    tensors.pop("0.1.v")
    save_file(tensors, path, metadata={"session": json.dumps(header)})
    with pytest.raises(InputError, match="damaged"):
        KVCache.load(path)


# -- budget and wrong use ----------------------------------------------------------------------------------------------


def test_the_size_of_a_frame_is_what_the_papers_models_need():
    sizes = []
    for layers, heads in ((30, 12), (40, 40)):
        with torch.device("meta"):
            wan = WanTransformer3DModel(num_layers=layers, num_attention_heads=heads)
        sizes.append(21 * frame_bytes(wan, 60, 104, dtype=torch.bfloat16) / 1e9)
    assert [round(s, 1) for s in sizes] == [6.0, 26.8]


def test_pinned_frames_alone_beyond_the_budget_are_an_error_before_the_model_runs(model):
    cache = a_cache(model, frames=4)
    with cache.attach(model) as attached:
        filled(model, attached)
        cache.branch().pin([0, 1])
        held = [x.clone() for x in cache.branch().get(2)]
        with pytest.raises(BudgetError, match=f"2 are pinned.*{5 * frame_bytes(model, 4, 4, 2)} bytes"):
            attached.chunk([3, 4, 5], write=True)
        with attached.chunk([3, 4, 5]), torch.no_grad():  # reading needs no room
            run(model, latents(3))
        assert cache.branch().positions == (0, 1, 2)
        assert all(torch.equal(a, b) for a, b in zip(held, cache.branch().get(2), strict=True))
        cache.branch().unpin([1])
        with attached.chunk([3, 4, 5], write=True) as chunk, torch.no_grad():
            run(model, latents(3))
        assert chunk.evicted == (1, 2) and cache.branch().positions == (0, 3, 4, 5)
    small = a_cache(model, frames=2)
    with small.attach(model) as attached, pytest.raises(BudgetError, match="holds 2 frames"):
        filled(model, attached)


def test_wrong_use_is_named(model):
    cache = a_cache(model)
    with pytest.raises(InputError, match="name"):
        KVCache(1, ("a", "a"))
    with pytest.raises(InputError, match="0 bytes"):
        KVCache(0)
    with cache.attach(model) as attached:
        pass
    with pytest.raises(MemkitError, match="not attached"):
        attached.chunk([0])
    for wrong in ((), (model, model)):
        with pytest.raises(InputError, match="each once"):
            cache.attach(*wrong)
    with cache.attach(model) as attached:
        with pytest.raises(InputError, match="attached already"):
            cache.attach(model)
        with pytest.raises(InputError, match="KV cache attached already"):
            a_cache(model).attach(model)
        with pytest.raises(MemkitError, match="outside a chunk"):
            run(model, latents(3))
        filled(model, attached)
        with attached.chunk([3]):
            with pytest.raises(MemkitError, match="nest"), attached.chunk([4]):
                pass
            with pytest.raises(InputError, match="1 positions, the latents 3 frames"):
                run(model, latents(3))
        for read, message in (([5], r"no frame at \[5\]"), ([1, 2], r"would read \[1\]")):
            with pytest.raises(InputError, match=message):
                attached.chunk([1, 4], read=read)
        with attached.chunk([3]), pytest.raises(InputError, match="batch of 2"):
            run(model, latents(1, batch=1))
        with attached.chunk([3]), pytest.raises(InputError, match="4 tokens"):
            run(model, torch.randn(2, 16, 1, 4, 8))
    with pytest.raises(InputError, match="3 layers, the transformers have 6"):
        cache.attach(model, random_transformer(1))
    cache.reset()
    with (
        cache.attach(model) as attached,
        torch.no_grad(),
        attached.chunk([3], write=True),
    ):  # after a reset any size will do
        run(model, torch.randn(1, 16, 1, 4, 8))


def test_bfloat16(model):
    model = model.to(torch.bfloat16)
    cache = KVCache(6 * frame_bytes(model, 4, 4, 2))
    with cache.attach(model) as attached, torch.no_grad():
        for positions in ([0, 1, 2], [3, 4, 5]):
            with attached.chunk(positions, write=True):
                out = run(model, latents(3).bfloat16(), prompt=text().bfloat16())
        with attached.chunk([6]), pytest.raises(InputError, match="bfloat16"):
            run(model.float(), latents(1))
    assert out.isfinite().all() and cache.branch().nbytes == cache.budget_bytes
    assert cache.branch().get(0)[0].dtype == torch.bfloat16


# -- slots against a plain list ----------------------------------------------------------------------------------------


def write(slots, positions, seed=0, layers=2, pin=False):
    """Frames of 2 tokens, whose numbers tell layer, position and ``seed``; gives a list of them by layer."""
    kv = []
    for layer in range(layers):
        k = torch.tensor([[[[seed, layer, p, t]] for t in range(2)] for p in positions]).flatten(0, 1)[None].float()
        kv.append((k, -k - 1))
    return kv, slots.update(positions, kv, pin)


def test_a_write_that_does_not_fit_what_is_held_changes_nothing():
    slots = SlotCache(10_000)
    with pytest.raises(InputError, match="never written"):
        slots.get(0)
    kv, _ = write(slots, [3, 1])
    for wrong in (
        kv[:1],
        [(k.double(), v) for k, v in kv],
        [(k.repeat(2, 1, 1, 1), v.repeat(2, 1, 1, 1)) for k, v in kv],
    ):
        with pytest.raises(InputError, match="reset"):
            slots.update([4, 5], wrong)
    with pytest.raises(InputError, match="3 frames"):
        slots.update([4, 5, 6], kv)
    with pytest.raises(InputError, match="at least one layer"):
        slots.update([4], [])
    for call in (slots.pin, slots.unpin, slots.drop, lambda p: slots.get(0, p)):
        with pytest.raises(InputError, match=r"no frame at \[9\]; it holds \[1, 3\]"):
            call([1, 9])
    assert slots.positions == (1, 3) and slots.pinned == ()
    assert torch.equal(slots.get(1, [3, 1])[0], kv[1][0])


FEW = st.lists(st.integers(-2, 5), min_size=1, max_size=3, unique=True)


class SlotsAgainstAList(RuleBasedStateMachine):
    """The model is a list of [position, keys by layer, pinned] and the rule that the lowest loose one goes first."""

    @initialize(capacity=st.integers(3, 5))
    def start(self, capacity):
        self.capacity, self.count, self.frames = capacity, 0, []
        tokens_per_frame = 2 * 2 * 2 * 4 * 4  # k and v, layers, tokens, dim, bytes
        self.slots = SlotCache(capacity * tokens_per_frame + tokens_per_frame - 1)

    def held(self):
        return [f[0] for f in self.frames]

    @rule(positions=FEW, pin=st.booleans())
    def update(self, positions, pin):
        self.count += 1
        kept = [f for f in self.frames if f[0] not in positions]
        loose = sorted(f[0] for f in kept if not f[2])
        evicted = loose[: max(0, len(kept) + len(positions) - self.capacity)]
        kept = [f for f in kept if f[0] not in evicted]
        if len(kept) + len(positions) > self.capacity:
            with pytest.raises(BudgetError):
                write(self.slots, positions, self.count, pin=pin)
            return
        kv, gone = write(self.slots, positions, self.count, pin=pin)
        assert list(gone) == evicted
        pinned = {f[0] for f in self.frames if f[2]}
        for i, p in enumerate(positions):
            kept.append([p, [k[:, 2 * i : 2 * i + 2] for k, _ in kv], pin or p in pinned])
        self.frames = kept

    @precondition(lambda self: self.frames)
    @rule(data=st.data(), action=st.sampled_from(["pin", "unpin", "drop"]))
    def change(self, data, action):
        chosen = data.draw(st.lists(st.sampled_from(self.held()), unique=True))
        getattr(self.slots, action)(chosen)
        if action == "drop":
            self.frames = [f for f in self.frames if f[0] not in chosen]
        for frame in self.frames:
            if frame[0] in chosen:
                frame[2] = action == "pin"

    @precondition(lambda self: self.frames)
    @rule(data=st.data(), layer=st.integers(0, 1))
    def get(self, data, layer):
        chosen = data.draw(st.permutations(self.held()))[: data.draw(st.integers(0, len(self.frames)))]
        by_position = {f[0]: f[1] for f in self.frames}
        k, v = self.slots.get(layer, chosen)
        want = torch.cat([torch.zeros(1, 0, 1, 4), *(by_position[p][layer] for p in chosen)], 1)
        assert torch.equal(k, want) and torch.equal(v, -want - 1)

    @rule(frames=st.integers(0, 4), before=st.none() | st.integers(-2, 6))
    def window(self, frames, before):
        past = [f for f in sorted(self.frames, key=lambda f: f[0]) if before is None or f[0] < before]
        newest = past[::-1][:frames]
        assert list(self.slots.window(frames, before)) == [f[0] for f in past if f[2] or f in newest]

    @precondition(lambda self: len(self.frames) == self.capacity)  # or few caches would ever be full
    @rule()
    def reset(self):
        self.slots.reset()
        self.frames = []

    @invariant()
    def positions_and_pins(self):
        assert list(self.slots.positions) == sorted(self.held())
        assert list(self.slots.pinned) == sorted(f[0] for f in self.frames if f[2])
        assert self.slots.nbytes <= self.slots.budget_bytes and self.slots.capacity in (None, self.capacity)

    @invariant()
    def all_frames(self):
        if self.frames:
            want = torch.cat([f[1][1] for f in sorted(self.frames, key=lambda f: f[0])], 1)
            assert torch.equal(self.slots.get(1)[0], want)


TestSlotsAgainstAList = SlotsAgainstAList.TestCase
TestSlotsAgainstAList.settings = settings(max_examples=40, stateful_step_count=25, deadline=None)

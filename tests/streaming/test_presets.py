"""Presets of published causal models: from a checkpoint in their layout to a stream, against an independent rollout."""

from dataclasses import replace

import pytest
import torch

from memkit.errors import InputError
from memkit.generation.noise import frame_noise
from memkit.injectors.kv_cache import SlotCache
from memkit.streaming import STREAM_PRESETS, Stream, StreamConfig, read_local, window_bytes
from memkit.streaming.presets import longlive, self_forcing
from tests.helpers.causal_wan import CausalWan, rollout, warped
from tests.helpers.original_wan import random_state
from tests.helpers.random_wan import random_pipeline
from tests.helpers.streams import PROMPTS, Short
from tests.helpers.wan_files import HEADS, load

SEEDS = (1, 2)


def under(prefix, state):
    return {prefix + name: value for name, value in state.items()}


def low_rank(rank=8):
    """A LoRA on every layer that LongLive trains, as peft names it, and the weights with it merged."""
    merged, lora = random_state(), {}
    for i, name in enumerate(sorted(name for name in merged if ".self_attn." in name and name.endswith("weight"))):
        if "norm" in name:
            continue
        out, inp = merged[name].shape
        generator = torch.Generator().manual_seed(i)
        a, b = (0.1 * torch.randn(*shape, generator=generator) for shape in ((rank, inp), (out, rank)))
        layer = f"base_model.model.{name.removesuffix('.weight')}"
        lora |= {f"{layer}.lora_A.weight": a, f"{layer}.lora_B.weight": b}
        merged[name] = merged[name] + b @ a
    return lora, merged


LAYOUTS = {
    "self-forcing": lambda s: {"generator": under("model.", random_state(seed=5)), "generator_ema": under("model.", s)},
    "causal-forcing": lambda s: {"generator": under("model._fsdp_wrapped_module.", s)},
    "causal-forcing-framewise": lambda s: {"generator_ema": under("model.", s)},
    "causvid": lambda s: {"generator": under("model.", s)},
    "longlive": lambda s: {"generator": under("model.", s), "step": 9},
}
STEPS = {"causvid": [1000.0, 757.0, 522.0]}
WINDOW = {"longlive": (12, 3)}
CHUNK = {"causal-forcing-framewise": 1}


def streamed(model, config, texts):
    """A stream of ``model`` over one list of prompts per chunk; with what it needs to be made again."""
    pipe = random_pipeline()
    pipe.transformer = model
    backbone = Short.from_pipeline(pipe)
    stream = Stream(backbone, SEEDS, config=config, size=(4, 4))
    made = torch.cat([stream.generate(each) for each in texts], 2)
    return made, [backbone.encode_text(each) for each in texts], stream


def by_hand(name, state, texts, chunks):
    """The rollout of the method, from the same noise."""
    window, sink = WINDOW.get(name, (21, 0))
    chunk = CHUNK.get(name, 3)
    shape = (16, 4, 4)
    model = CausalWan(state, HEADS["num_attention_heads"], window, sink)
    noise = frame_noise(SEEDS, "noise", range(chunks * chunk), shape)
    steps = STEPS.get(name) or warped([1000, 750, 500, 250], 5.0)
    return rollout(model, noise, lambda i, at: frame_noise(SEEDS, f"step {i}", at, shape), texts, steps, chunk)


@pytest.mark.parametrize("name", STREAM_PRESETS)
@pytest.mark.filterwarnings("ignore:.*several sets of weights")
def test_from_file_to_stream_it_is_the_rollout_of_the_method(name, tmp_path):
    """Past the window, with a prompt that changes."""
    lora, state = low_rank() if name == "longlive" else (None, random_state())
    torch.save(LAYOUTS[name](random_state()), tmp_path / "model.pt")
    torch.save({"generator_lora": lora}, tmp_path / "lora.pt")
    model = load(tmp_path / "model.pt", **({} if lora is None else {"lora": tmp_path / "lora.pt"}))
    chunks = {"longlive": 6, "causal-forcing-framewise": 24}.get(name, 9)
    prompts = [PROMPTS] * (chunks - 2) + [PROMPTS[::-1]] * 2
    made, texts, stream = streamed(model, STREAM_PRESETS[name](), prompts)
    want = by_hand(name, state, texts, chunks)
    assert made.shape[2] == chunks * CHUNK.get(name, 3) > WINDOW.get(name, (21, 0))[0]
    assert ((made - want).abs().amax((0, 1, 3, 4)) / want.abs().max() < 2e-4).all()
    held = stream.cache.branch("cond")
    assert held.nbytes == stream.cache.budget_bytes  # no more is kept than the next chunk reads
    assert held.pinned == tuple(range(WINDOW.get(name, (21, 0))[1]))


@pytest.fixture(scope="module")
def six_chunks():
    return streamed(load(random_state()), longlive(), [PROMPTS] * 6)[0]


@pytest.mark.parametrize(
    "change",
    [{"window": 9}, {"sink": 0}, {"timesteps": (1000, 750, 500)}, {"timesteps": (1000, 750, 500, 200)}, {"shift": 3.0}],
)
def test_each_number_of_a_preset_matters(change):
    prompts = [PROMPTS] * 6
    a, b = (
        streamed(load(random_state()), config, prompts)[0] for config in (longlive(), replace(longlive(), **change))
    )
    assert (a - b).abs().amax((0, 1, 3, 4))[15:].min() > 1e-3


def test_published_numbers():
    assert self_forcing().sigmas == (1.0, 0.9375, pytest.approx(5 / 6), 0.625)
    assert STREAM_PRESETS["causvid"]().sigmas == (1.0, 0.757, 0.522)
    assert {name: (c().chunk, c().window, c().sink) for name, c in STREAM_PRESETS.items()} == {
        "self-forcing": (3, 21, 0),
        "causal-forcing": (3, 21, 0),
        "causal-forcing-framewise": (1, 21, 0),
        "causvid": (3, 21, 0),
        "longlive": (3, 12, 3),
    }
    assert all((c().guidance_scale, c().context_sigma) == (1.0, 0.0) for c in STREAM_PRESETS.values())


def test_a_saved_stream_goes_on_to_the_bit(tmp_path):
    config = replace(longlive(), timesteps=(1000, 500), chunk=2, window=6, sink=2)
    _, _, stream = streamed(load(random_state()), config, [PROMPTS] * 4)
    stream.save(tmp_path)
    want = stream.generate(PROMPTS)
    again = Stream.load(tmp_path, stream.backbone)
    assert again.config == config and torch.equal(again.generate(PROMPTS), want)


def test_a_chunk_can_be_made_again_and_conditioning_frames_are_kept():
    _, _, stream = streamed(load(random_state()), longlive(), [PROMPTS] * 2)
    want = stream.generate(PROMPTS)
    stream.position = 6
    assert torch.equal(stream.generate(PROMPTS), want)
    given = torch.randn(2, 16, 1, 4, 4, generator=torch.Generator().manual_seed(0))
    assert torch.equal(stream.generate(PROMPTS, given)[:, :, :1], given)


def test_the_window_decides_the_budget():
    model = load(random_state())
    _, _, stream = streamed(model, longlive(), [PROMPTS])
    needed = window_bytes(stream.backbone, longlive(), len(SEEDS), (4, 4))
    assert stream.cache.budget_bytes == needed
    with pytest.raises(InputError, match=f"window of 12 frames needs a budget of {needed} bytes, not {needed - 1}"):
        Stream(stream.backbone, SEEDS, needed - 1, longlive(), size=(4, 4))
    with pytest.raises(InputError, match="Without a window"):
        Stream(stream.backbone, SEEDS, config=StreamConfig(), size=(4, 4))


def test_the_window_is_counted_with_the_chunk_and_the_sink():
    held = SlotCache(10**6)
    held.update(range(12), [(torch.zeros(1, 12, 1, 1),) * 2])
    assert read_local(8, 2)(held, [12, 13]) == (0, 1, 8, 9, 10, 11)
    assert read_local(8, 2)(held, [5, 6]) == (0, 1, 2, 3, 4) and read_local(8, 2)(held, [0, 1]) == ()
    assert read_local(8)(held, [12, 13]) == (6, 7, 8, 9, 10, 11) and read_local(4, 2)(held, [12, 13]) == (0, 1)
    held.pin([3])
    assert read_local(8, 2)(held, [12, 13]) == (0, 1, 3, 8, 9, 10, 11)


def test_a_larger_budget_changes_nothing():
    _, _, stream = streamed(load(random_state()), longlive(), [PROMPTS])
    large = Stream(stream.backbone, SEEDS, 4 * stream.cache.budget_bytes, longlive(), size=(4, 4))
    small = Stream(stream.backbone, SEEDS, None, longlive(), size=(4, 4))
    for _ in range(6):
        assert torch.equal(large.generate(PROMPTS), small.generate(PROMPTS))
    assert len(large.cache.branch("cond").positions) == 18


@pytest.mark.parametrize(
    "wrong",
    [
        {"timesteps": ()},
        {"timesteps": (500, 750)},
        {"timesteps": (1001,)},
        {"timesteps": (500, 0)},
        {"timesteps": (float("nan"),)},
        {"window": 5},
        {"sink": -1},
        {"guidance_scale": float("nan")},
        {"shift": float("inf")},
        {"shift": 0.0},
    ],
)
def test_settings_that_make_no_sense_are_refused(wrong):
    with pytest.raises(InputError):
        replace(longlive(), **wrong)
    with pytest.raises(InputError, match="-1"):
        read_local(-1)

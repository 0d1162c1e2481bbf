"""Numbers and tensors that make no sense are refused where they enter, by name."""

import inspect
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from memkit import Cameras, FrameGraph, HighPass, History, KVCache, Memory, MemoryGate
from memkit.attention import grouped_attention
from memkit.cameras import CameraPath, cameras_from_keys, hold_last_camera, level_camera, relative_pose_vectors
from memkit.checks import check_finite, check_room, check_within, has_values
from memkit.errors import InputError
from memkit.flow import add_noise, shift_sigma
from memkit.frame_graph import interrupted_graph
from memkit.generation import frame_noise
from memkit.injectors import frame_bytes
from memkit.interruptions.posed import interrupt_still
from memkit.streaming import read_local, read_packed
from memkit.testing import clips, latents, memories
from tests.helpers.unchecked import build

NAN, INF, HUGE = math.nan, math.inf, 10**18
TOKENS = torch.zeros(1, 4, 8)
LATENTS = torch.zeros(1, 4, 2, 2, 2)
CAMERAS = level_camera(8, 8, 50.0)


def with_one(value: float, *shape: int) -> torch.Tensor:
    x = torch.zeros(*shape)
    x.view(-1)[-1] = value
    return x


def path(**change: torch.Tensor) -> Cameras:
    fields = {"c2w": CAMERAS.c2w.repeat(3, 1, 1), "intrinsics": CAMERAS.intrinsics.repeat(3, 1)}
    return Cameras(**{**fields, **change})


def history(latents: torch.Tensor = LATENTS, cameras: Cameras | None = None) -> None:
    History().add(latents, cameras, [0, 1])


def cached(k: torch.Tensor) -> None:
    KVCache(10**6, num_layers=1).update(0, [0], k, torch.zeros(1, 4, 2, 4))


def batch(cameras: Cameras) -> Cameras:
    return Cameras(cameras.c2w[None, :2], cameras.intrinsics[None, :2])


PIXELS = path(intrinsics=torch.tensor([[400.0, 400, 256, 256]] * 3))
OFF = path(intrinsics=torch.tensor([[0.8, 0.8, 1.5, 0.5]] * 3))
TWICE = path(intrinsics=torch.tensor([[0.8 / 640, 0.8 / 480, 0.5, 0.5]] * 3))
MIRRORED = path(c2w=(CAMERAS.c2w * torch.tensor([-1.0, 1, 1, 1])).repeat(3, 1, 1))
LOST = path(c2w=with_one(NAN, 3, 4, 4))

CALLS = {
    "tokens NaN": (lambda: Memory(with_one(NAN, 1, 4, 8)), r"tokens has NaN .* \[0, 3, 7\]"),
    "tokens inf": (lambda: Memory(with_one(-INF, 1, 4, 8)), "tokens has NaN or infinite numbers, 1 of 32"),
    "tokens int": (lambda: build(Memory, tokens=TOKENS.long()), "torch.int64; give a dense floating-point"),
    "tokens complex": (lambda: build(Memory, tokens=TOKENS.cfloat()), "complex64"),
    "tokens [M, D]": (lambda: build(Memory, tokens=TOKENS[0]), r"give \[B, M, D\]"),
    "log-weight NaN": (lambda: Memory(TOKENS, None, with_one(NAN, 1, 4)), "log_weight has NaN"),
    "log-weight +inf": (lambda: Memory(TOKENS, None, with_one(INF, 1, 4)), r"NaN or \+inf"),
    "gate NaN": (lambda: Memory(TOKENS, gate=with_one(NAN, 2, 2)), "gate has NaN"),
    "fp16 overflow": (lambda: Memory(TOKENS + 1e6).to(dtype=torch.float16), "tokens has NaN or infinite"),
    "too many copies": (lambda: Memory(TOKENS, None, torch.full((1, 4), 60.0)).expand(), "needs .* bytes"),
    "no memories": (lambda: Memory.cat([]), "no memories"),
    "two widths": (lambda: Memory.cat([Memory(TOKENS), Memory(TOKENS[..., :4])]), "one batch size and width"),
    "a row too far": (lambda: Memory(TOKENS).rows(torch.tensor([1])), "batch of 1"),
    "repeats": (lambda: Memory(TOKENS).repeat_interleave(0), "repeats is 0"),
    "gate of no heads": (lambda: MemoryGate(2, 0), "num_heads is 0"),
    "gate from NaN": (lambda: MemoryGate(2, 2, NAN), "start is nan"),
    "history NaN": (lambda: history(with_one(NAN, 1, 4, 2, 2, 2)), "latents has NaN"),
    "history of pixels": (lambda: history(cameras=batch(PIXELS)), "in pixels"),
    "history budget": (lambda: History(10**15), "budget is 1000000000000000 bytes"),
    "history pinned": (lambda: History(pinned=-1), "pinned is -1"),
    "cache NaN": (lambda: cached(with_one(NAN, 1, 4, 2, 4)), "Keys of layer 0 has NaN"),
    "cache budget": (lambda: KVCache(10**15), "budget_bytes is 1000000000000000 bytes"),
    "cache share": (lambda: KVCache(0), "budget_bytes is 0 bytes"),
    "layers": (lambda: KVCache(100, num_layers=HUGE), "layers is 1"),
    "frame of no rows": (lambda: frame_bytes(torch.nn.Linear(1, 1), 0, 8), "height is 0|class"),
    "window": (lambda: read_local(-1), "window is -1"),
    "packed": (lambda: read_packed(previous=-1), "previous is -1"),
    "sigma 1.5": (lambda: add_noise(LATENTS, LATENTS, torch.tensor([1.5])), "give 0 to 1"),
    "sigma NaN": (lambda: add_noise(LATENTS, LATENTS, torch.tensor([NAN])), "sigma has numbers from nan"),
    "latents NaN": (lambda: add_noise(LATENTS * NAN, LATENTS, torch.tensor([0.5])), "latents has NaN"),
    "shift 0": (lambda: shift_sigma(torch.tensor([0.5]), 0.0), "shift is 0.0"),
    "noise of too much": (lambda: frame_noise([0], "x", range(10**9), (16, 600, 800)), "needs .* bytes"),
    "noise of no seed": (lambda: frame_noise([], "x", range(2), (1, 2, 2)), "needs seeds"),
    "seed": (lambda: frame_noise([2**70], "x", range(2), (1, 2, 2)), r"seeds\[0\] is"),
    "graph": (lambda: FrameGraph.chunks(10**9), "num_frames is 1000000000"),
    "chunks": (lambda: FrameGraph.chunks(900_000), "300000 chunks"),
    "hidden": (lambda: interrupted_graph(21, 3, [6, 40]), "within the 21"),
    "still": (lambda: interrupt_still("fog", torch.zeros(8, 8, 3, dtype=torch.uint8), 10**9, 8.0), "count is 1"),
    "keys": (lambda: cameras_from_keys("wait-999999", CAMERAS), "999999"),
    "keys in all": (lambda: cameras_from_keys("w-90000, s-90000", CAMERAS), "longer than 100,000 latent"),
    "view": (lambda: level_camera(8, 8, 180.0), "fov_degrees is 180"),
    "straight up": (lambda: Cameras.look_at(torch.zeros(3), torch.tensor([0.0, 0, 1])), "straight up"),
    "rays": (lambda: CAMERAS.rays(10**7, 10**7), "needs .* bytes"),
    "stride": (lambda: hold_last_camera(path(), 0), "stride is 0"),
    "poses": (lambda: relative_pose_vectors(MIRRORED.c2w), "not a rigid transform"),
    "latents": (lambda: latents(channels=0), "channels is 0"),
    "clips": (lambda: clips(count=-1), "count is -1"),
    "memories": (lambda: memories(dim=HUGE), "dim is 1"),
    "filter": (lambda: HighPass(order=HUGE), "order is 1"),
}
for name, cameras in {"pixels": PIXELS, "off": OFF, "twice": TWICE, "mirrored": MIRRORED, "NaN": LOST}.items():
    says = "rigid" if name in ("mirrored", "NaN") else "divide intrinsics in pixels by the width and height once"
    CALLS[f"path of {name}"] = (lambda c=cameras: CameraPath.of(c), says)
    CALLS[f"history of {name}"] = (lambda c=cameras: history(cameras=batch(c)), says)
    CALLS[f"hold {name}"] = (lambda c=cameras: hold_last_camera(c, 4), says)


@pytest.mark.parametrize("name", CALLS)
def test_it_is_refused_by_name(name):
    call, says = CALLS[name]
    with pytest.raises(InputError, match=says):
        call()


@given(st.floats(allow_nan=True, width=32), st.integers(0, 31))
def test_a_memory_holds_finite_tokens_and_whatever_is_masked(value, where):
    tokens = torch.zeros(1, 4, 8)
    tokens.view(-1)[where] = value
    mask = torch.ones(1, 4, dtype=torch.bool)
    mask[0, where // 8] = False
    never = torch.zeros(1, 4).masked_fill(~mask, -INF)
    for memory in (Memory(tokens, mask), Memory(tokens, None, never)):
        assert torch.equal(memory.tokens.isnan(), tokens.isnan())
    if math.isfinite(value):
        assert torch.equal(Memory(tokens).tokens, tokens)
    else:
        with pytest.raises(InputError, match="NaN or infinite"):
            Memory(tokens)


def test_what_has_no_values_is_not_looked_at():
    from torch._subclasses.fake_tensor import FakeTensorMode

    assert Memory(torch.empty(1, 2, 3, device="meta")).tokens.is_meta
    with FakeTensorMode():
        check_finite("x", torch.zeros(3))
    torch.func.vmap(lambda x: Memory(x[None]).tokens)(torch.zeros(2, 4, 8))
    looked_at = inspect.unwrap(has_values)  # the type check of the tests cannot be traced
    compiled = torch.compile(lambda x: x + looked_at(x), backend="eager", fullgraph=True)
    assert looked_at(TOKENS) and torch.equal(compiled(TOKENS), TOKENS)


def test_ends_of_a_range_are_in_it_and_what_fits_has_room():
    check_within("x", torch.tensor([0.0, 1.0], dtype=torch.float16), 0, 1)
    check_room("x", 1)
    with pytest.raises(InputError, match="x needs 1,152,921,504,606,846,976 bytes, and cpu has"):
        check_room("x", 2**60)


def test_a_table_of_attention_names_what_does_not_fit():
    q, k = torch.zeros(1, 3, 2, 4), torch.zeros(1, 5, 2, 4)
    for wrong, says in (
        ((k, k[:, :4]), "give both one batch, number of keys"),
        ((k[:, :, :1], k[:, :, :1]), "number of heads and width"),
    ):
        with pytest.raises(InputError, match=says):
            inspect.unwrap(grouped_attention)({"x": q}, {"m": wrong}, {"x": ("m",)})

"""SlotCache, which holds the frames of one branch, behaves like a plain list."""

import tempfile
from dataclasses import dataclass

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule

from memkit.errors import InputError
from memkit.injectors import BudgetError
from memkit.injectors.kv_cache import CacheParts, OnCPU, OnDisk, Score, SlotCache
from tests.injectors.kv_cache.common import new_cache


def write(slots, positions, seed=0, layers=2, pin=False):
    """Writes frames of 2 tokens whose values encode seed, layer, position and token; gives (keys, values) per layer."""
    kv = []
    for layer in range(layers):
        k = torch.tensor([[[[seed, layer, p, t]] for t in range(2)] for p in positions]).flatten(0, 1)[None].float()
        kv.append((k, -k - 1))
    return kv, slots.update(positions, kv, pin)


def test_the_window_is_the_newest_and_the_pinned(model):
    slots = new_cache(model).branch()
    write(slots, [7, -3, 0, 40, 12])
    slots.pin([-3])
    assert slots.window(2) == (-3, 12, 40)
    assert slots.window(2, before=12) == (-3, 0, 7)
    assert slots.window(0) == (-3,) and slots.window(9) == (-3, 0, 7, 12, 40)
    with pytest.raises(InputError, match="-1 frames"):
        slots.window(-1)


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
    """The model is a list of [position, keys per layer, pinned]; the lowest unpinned position is evicted first."""

    @initialize(capacity=st.integers(3, 5))
    def start(self, capacity):
        self.capacity, self.count, self.frames = capacity, 0, []
        tokens_per_frame = 2 * 2 * 2 * 4 * 4  # k and v, layers, tokens, dim, bytes
        self.slots = self.of_capacity(capacity, tokens_per_frame)

    def of_capacity(self, frames, bytes_per_frame):
        return SlotCache(frames * bytes_per_frame + bytes_per_frame - 1)

    def worth(self, position):
        return position

    def held(self):
        return [f[0] for f in self.frames]

    @rule(positions=FEW, pin=st.booleans())
    def update(self, positions, pin):
        self.count += 1
        kept = [f for f in self.frames if f[0] not in positions]
        unpinned = sorted((f[0] for f in kept if not f[2]), key=lambda p: (self.worth(p), p))
        evicted = sorted(unpinned[: max(0, len(kept) + len(positions) - self.capacity)])
        kept = [f for f in kept if f[0] not in evicted]
        if len(kept) + len(positions) > self.capacity:
            with pytest.raises(BudgetError):
                write(self.slots, positions, self.count, pin=pin)
            return
        kv, reported = write(self.slots, positions, self.count, pin=pin)
        assert list(reported) == evicted
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

    @precondition(lambda self: len(self.frames) == self.capacity)  # otherwise few caches would ever be full
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


@dataclass(frozen=True)
class Folded(Score):
    """Far from the order of positions, with ties."""

    def score(self, held, positions, chunk):
        return torch.tensor([float(p % 3) for p in positions])


class PlacesAgainstAList(SlotsAgainstAList):
    """The same in three places, and with a score."""

    def of_capacity(self, frames, bytes_per_frame):
        places = (OnCPU((frames - 2) * bytes_per_frame), OnDisk(bytes_per_frame, tempfile.gettempdir()))
        return SlotCache(bytes_per_frame, parts=CacheParts(keep=Folded(), spill=places))

    def worth(self, position):
        return position % 3


TestPlacesAgainstAList = PlacesAgainstAList.TestCase
TestPlacesAgainstAList.settings = settings(max_examples=25, stateful_step_count=25, deadline=None)

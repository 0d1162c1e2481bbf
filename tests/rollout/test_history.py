"""The history holds what a plain list would, no more bytes than it may, and nothing that others can change."""

import gc
import tempfile
from pathlib import Path

import pytest
import torch
from hypothesis import settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, initialize, invariant, precondition, rule
from safetensors.torch import save_file

from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.rollout import History
from tests.helpers.edited_files import edit_header

BATCH = 2
LATENT = BATCH * 3 * 2 * 2 * 4  # bytes of a frame [B, 3, 2, 2] in fp32
CAMERA = BATCH * (16 + 4) * 4


def latents(frames: int, seed: int = 0, dtype=torch.float32) -> torch.Tensor:
    return torch.randn(BATCH, 3, frames, 2, 2, generator=torch.Generator().manual_seed(seed)).to(dtype)


def cameras(frames: int, seed: int = 0) -> Cameras:
    generator = torch.Generator().manual_seed(seed + 1000)
    rotation = torch.linalg.qr(torch.randn(BATCH, frames, 3, 3, generator=generator)).Q
    c2w = torch.eye(4).repeat(BATCH, frames, 1, 1)
    c2w[..., :3, :3] = rotation * torch.linalg.det(rotation)[..., None, None]
    c2w[..., :3, 3] = torch.randn(BATCH, frames, 3, generator=generator)
    return Cameras(c2w, 0.1 + 0.9 * torch.rand(BATCH, frames, 4, generator=generator))


def filled(frames: int = 5, budget: int | None = None, pinned: int = 0) -> History:
    history = History(budget, pinned)
    history.add(latents(frames), cameras(frames), list(range(frames)))
    return history


def same(a: History, b: History) -> None:
    assert (a.times, a.dropped, a.budget, a.pinned, a.nbytes) == (b.times, b.dropped, b.budget, b.pinned, b.nbytes)
    if len(a):
        assert torch.equal(a.latents, b.latents) and (a.cameras is None) == (b.cameras is None)
        if a.cameras is not None and b.cameras is not None:
            assert torch.equal(a.cameras.c2w, b.cameras.c2w)
            assert torch.equal(a.cameras.intrinsics, b.cameras.intrinsics)


class HistoryAgainstAList(RuleBasedStateMachine):
    """The model is a list of (latent, c2w, intrinsics, time): over budget, the first after the pinned ones goes."""

    @initialize(
        capacity=st.none() | st.integers(1, 6),
        pinned=st.integers(0, 3),
        spare=st.integers(0, 9),
        with_cameras=st.booleans(),
    )
    def start(self, capacity, pinned, spare, with_cameras):
        self.capacity = None if capacity is None else pinned + capacity
        self.tokens_per_frame = LATENT + CAMERA * with_cameras
        self.pinned, self.with_cameras, self.count = pinned, with_cameras, 0
        budget = None if self.capacity is None else self.capacity * self.tokens_per_frame + spare
        self.history, self.frames, self.dropped = History(budget, pinned), [], 0
        self.folder = tempfile.TemporaryDirectory()

    def teardown(self):
        if hasattr(self, "folder"):
            self.folder.cleanup()

    @rule(times=st.lists(st.integers(-3, 9), min_size=1, max_size=9))
    def add(self, times):
        self.count += 1
        new, poses = latents(len(times), self.count), cameras(len(times), self.count)
        for i, time in enumerate(times):
            self.frames.append((new[:, :, i].clone(), poses.c2w[:, i].clone(), poses.intrinsics[:, i].clone(), time))
            if self.capacity is not None and len(self.frames) > self.capacity:
                del self.frames[self.pinned]
                self.dropped += 1
        self.history.add(new, poses if self.with_cameras else None, times)
        for given in (new, poses.c2w, poses.intrinsics):
            given.fill_(7)  # the history has copies

    @precondition(lambda self: self.frames)
    @rule()
    def refused_additions_change_nothing(self):
        wrong = [
            (latents(2, dtype=torch.float64), cameras(2), [0, 1]),
            (latents(2), None if self.with_cameras else cameras(2), [0, 1]),
            (latents(2), cameras(3), [0, 1]),
            (latents(2), cameras(2) if self.with_cameras else None, [0]),
            (latents(2)[:1], None, [0, 1]),
        ]
        for arguments in wrong:
            with pytest.raises(InputError):
                self.history.add(*arguments)

    @precondition(lambda self: self.frames)
    @rule(data=st.data(), k=st.integers(0, 7))
    def take(self, data, k):
        row = st.integers(0, len(self.frames) - 1)
        rows = [data.draw(st.lists(row, min_size=k, max_size=k)) for _ in range(BATCH)]
        selection = self.history.take(torch.tensor(rows, dtype=torch.long).view(BATCH, k))
        assert selection.latents.shape == (BATCH, 3, k, 2, 2) and selection.times.shape == (BATCH, k)
        assert (selection.cameras is not None) == self.with_cameras
        for sample, chosen in enumerate(rows):
            for i, j in enumerate(chosen):
                latent, c2w, intrinsics, time = self.frames[j]
                assert torch.equal(selection.latents[sample, :, i], latent[sample])
                assert selection.times[sample, i] == time
                if selection.cameras is not None:
                    assert torch.equal(selection.cameras.c2w[sample, i], c2w[sample])
                    assert torch.equal(selection.cameras.intrinsics[sample, i], intrinsics[sample])

    @precondition(lambda self: self.frames)
    @rule(n=st.integers(0, 9))
    def newest(self, n):
        rows = list(range(len(self.frames)))[::-1][:n][::-1]
        assert self.history.newest(n).tolist() == [rows] * BATCH

    @rule()
    def save_and_load(self):
        path = Path(self.folder.name) / "h.safetensors"
        self.history.save(path)
        loaded = History.load(path)
        same(loaded, self.history)
        self.history = loaded  # and go on with it

    @invariant()
    def it_holds_what_the_list_holds(self):
        assert len(self.history) == len(self.frames) and self.history.dropped == self.dropped
        assert list(self.history.times) == [frame[3] for frame in self.frames]
        assert self.history.nbytes == len(self.frames) * self.tokens_per_frame
        assert self.history.budget is None or self.history.nbytes <= self.history.budget
        if self.frames:
            assert torch.equal(self.history.latents, torch.stack([frame[0] for frame in self.frames], dim=2))
            held = self.history.cameras
            assert (held is not None) == self.with_cameras
            if held is not None:
                assert torch.equal(held.c2w, torch.stack([frame[1] for frame in self.frames], dim=1))
                assert torch.equal(held.intrinsics, torch.stack([frame[2] for frame in self.frames], dim=1))


TestHistoryAgainstAList = HistoryAgainstAList.TestCase
TestHistoryAgainstAList.settings = settings(max_examples=40, stateful_step_count=20, deadline=None)


def tensors_of(history: History) -> list[torch.Tensor]:
    """Every tensor that the history keeps alive, found as the garbage collector finds them."""
    found, todo, seen = [], [history], set()
    while todo:
        item = todo.pop()
        if id(item) in seen or callable(item):
            continue
        seen.add(id(item))
        if isinstance(item, torch.Tensor):
            found.append(item)
        else:
            todo += gc.get_referents(item)
    return found


@pytest.mark.parametrize("chunk", [1, 3, 11])
@pytest.mark.parametrize("pinned", [0, 2])
def test_memory_is_flat_once_the_budget_is_reached(chunk, pinned):
    """Storages are counted, not tensors: a view of one frame would keep its whole chunk alive."""
    history = History(budget=7 * (LATENT + CAMERA), pinned=pinned)
    for i in range(12):
        history.add(latents(chunk), cameras(chunk), [i] * chunk)
        storages = {x.untyped_storage().data_ptr(): x.untyped_storage().nbytes() for x in tensors_of(history)}
        assert sum(storages.values()) == history.nbytes <= history.budget
    assert len(history) == 7


def test_pinned_frames_stay_and_of_a_chunk_without_room_its_end():
    history = History(budget=4 * LATENT, pinned=2)
    history.add(latents(1), None, [10])
    history.add(latents(9), None, list(range(9)))
    assert history.times == (10, 0, 7, 8) and history.dropped == 6
    history.add(latents(1), None, [20])
    assert history.times == (10, 0, 8, 20) and history.dropped == 7


def test_a_time_may_come_twice_where_chunks_share_a_frame():
    history = filled(3)
    history.add(latents(3, seed=1), cameras(3), [2, 3, 4])
    assert history.times == (0, 1, 2, 2, 3, 4)
    assert torch.equal(history.latents[:, :, 3:], latents(3, seed=1))


@pytest.mark.parametrize("pinned", [0, 3])
def test_a_budget_with_no_room_beside_the_pinned_is_refused_and_says_what_is_needed(pinned):
    history = History(budget=(pinned + 1) * LATENT - 1, pinned=pinned)
    with pytest.raises(InputError, match=f"need {(pinned + 1) * LATENT}"):
        history.add(latents(1), None, [0])
    assert len(history) == 0 and history.nbytes == 0 and history.dropped == 0


@pytest.mark.parametrize(("budget", "pinned"), [(0, 0), (-5, 0), (None, -1)])
def test_settings_out_of_range_are_refused(budget, pinned):
    with pytest.raises(InputError):
        History(budget, pinned)


@pytest.mark.parametrize(
    "wrong",
    [
        (latents(0), None, []),
        (latents(2), None, [0]),
        (latents(2), None, [0, True]),
        (latents(2), cameras(1), [0, 1]),
        (latents(2), Cameras(torch.zeros(4, 4), torch.zeros(4)), [0, 1]),
    ],
)
def test_a_first_addition_that_does_not_fit_itself_is_refused(wrong):
    history = History()
    with pytest.raises(InputError):
        history.add(latents=wrong[0], cameras=wrong[1], times=wrong[2])
    assert len(history) == 0


def test_an_empty_history_says_so_and_can_be_saved(tmp_path):
    history = History(budget=1000, pinned=1)
    for ask in (lambda: history.latents, lambda: history.cameras, lambda: history.newest(1)):
        with pytest.raises(InputError, match="empty"):
            ask()
    with pytest.raises(InputError, match="empty"):
        history.take(torch.zeros(BATCH, 1, dtype=torch.long))
    history.save(tmp_path / "h")
    same(History.load(tmp_path / "h"), history)


@pytest.mark.parametrize("rows", [[[0], [5]], [[-1], [0]]])
def test_rows_that_are_not_held_are_refused(rows):
    with pytest.raises(InputError, match="rows 0 to 4"):
        filled(5).take(torch.tensor(rows))


def test_an_index_of_another_batch_and_a_window_below_zero_are_refused():
    with pytest.raises(InputError, match="3 samples"):
        filled().take(torch.zeros(3, 1, dtype=torch.long))
    with pytest.raises(InputError, match="-1 newest"):
        filled().newest(-1)


def test_what_is_read_can_be_changed_without_changing_the_history():
    history, want = filled(), filled()
    selection = history.take(history.newest(5))
    for tensor in (
        history.latents,
        selection.latents,
        history.cameras.c2w,
        selection.cameras.c2w,
        selection.cameras.intrinsics,
    ):
        tensor.zero_()
    same(history, want)


def test_frames_are_kept_without_their_graph():
    history = History()
    history.add(latents(2).requires_grad_() * 2, None, [0, 1])
    assert not history.latents.requires_grad and all(x.grad_fn is None for x in tensors_of(history))


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_every_dtype_is_kept_and_saved_to_the_bit(tmp_path, dtype):
    history = History()
    history.add(latents(3, dtype=dtype), cameras(3), [0, 1, 2])
    history.save(tmp_path / "h")
    assert History.load(tmp_path / "h").latents.dtype == history.latents.dtype == dtype
    same(History.load(tmp_path / "h"), history)


def test_a_loaded_history_goes_on_as_the_saved_one(tmp_path):
    history = filled(6, budget=4 * (LATENT + CAMERA) + 3, pinned=1)
    history.save(tmp_path / "h")
    loaded = History.load(tmp_path / "h")
    for h in (history, loaded):
        h.add(latents(2, seed=3), cameras(2, seed=3), [6, 7])
    same(loaded, history)
    assert loaded.times == (0, 5, 6, 7) and loaded.dropped == 4


def test_a_save_that_fails_leaves_the_old_file_and_no_other(tmp_path):
    path = tmp_path / "folder"
    path.mkdir()
    (path / "kept").write_text("")
    with pytest.raises(InputError, match="Cannot write"):
        filled().save(path)
    with pytest.raises(InputError, match="Cannot write"):
        filled().save(tmp_path / "nowhere" / "h")
    assert [p.name for p in tmp_path.rglob("*")] == ["folder", "kept"]


@pytest.mark.parametrize(
    "changes",
    [{"version": 2}, {"format": "other"}, {"times": [0, 1]}, {"times": ["a"] * 5}, {"budget": 3 * LATENT}]
    + [{"budget": "much"}, {"pinned": None}, {"budget": -1}, {"times": 5}],
    ids=str,
)
def test_a_file_with_a_wrong_header_is_refused(tmp_path, changes):
    filled().save(tmp_path / "h")
    edit_header(tmp_path / "h", "history")
    assert len(History.load(tmp_path / "h")) == 5
    edit_header(tmp_path / "h", "history", **changes)
    with pytest.raises(InputError):
        History.load(tmp_path / "h")


def test_a_file_that_is_no_history_is_refused(tmp_path):
    with pytest.raises(InputError, match="There is no saved history"):
        History.load(tmp_path / "nothing")
    save_file({"x": torch.zeros(1)}, tmp_path / "plain")
    (tmp_path / "junk").write_bytes(b"junk")
    filled().save(tmp_path / "cut")
    (tmp_path / "cut").write_bytes((tmp_path / "cut").read_bytes()[:-9])
    for name in ("plain", "junk", "cut"):
        with pytest.raises(InputError, match=r"no saved history, or is damaged|cut is damaged"):
            History.load(tmp_path / name)

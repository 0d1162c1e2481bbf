"""Rollouts: chunks join, history is what training sees, memory stays within its budget."""

from __future__ import annotations

import pytest
import torch

from memkit.backbones import WanBackbone
from memkit.cameras import Cameras
from memkit.errors import InputError
from memkit.generation.noise import frame_noise
from memkit.injectors import FrameContext, FrameContextConfig, QueryLayers, QueryLayersConfig
from memkit.rollout import ContextMethod, LearnedContext, RetrievedContext, Rollout

STRIDE = 8  # frames a chunk adds
FAST = {"steps": 1, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def backbone(random_folder) -> WanBackbone:
    backbone = WanBackbone.from_pretrained(random_folder)
    backbone.pipeline().set_progress_bar_config(disable=True)
    return backbone


def learned() -> LearnedContext:
    torch.manual_seed(0)
    return LearnedContext(QueryLayers(QueryLayersConfig(dim=48, blocks=3, layers=1)), 6)


def path(frames: int, batch: int = 1) -> Cameras:
    """Along x, turning."""
    steps = torch.arange(frames, dtype=torch.float64)
    eye = torch.stack([0.1 * steps, 0 * steps, 0 * steps + 1.5], dim=-1)
    ahead = torch.stack([(0.1 * steps).cos(), (0.1 * steps).sin(), 0 * steps], dim=-1)
    cameras = Cameras.look_at(eye, eye + ahead)
    return Cameras(cameras.c2w.expand(batch, -1, 4, 4), cameras.intrinsics.expand(batch, -1, 4))


def part(cameras: Cameras, start: int, end: int) -> Cameras:
    return Cameras(cameras.c2w[:, start:end], cameras.intrinsics[:, start:end])


def frames(count: int, batch: int = 1) -> torch.Tensor:
    generator = torch.Generator().manual_seed(4)
    return torch.randint(0, 256, (batch, count, 32, 32, 3), dtype=torch.uint8, generator=generator)


def begun(backbone, method: ContextMethod, batch: int = 1, **changes: object) -> Rollout:
    rollout = Rollout(backbone, method, **{**FAST, **changes})
    rollout.observe(frames(1, batch), path(1, batch))
    return rollout


def test_a_chunk_begins_with_the_last_frame(backbone) -> None:
    rollout, cameras = begun(backbone, learned()), path(2 * STRIDE + 1)
    first = rollout.generate(["a room"], part(cameras, 0, STRIDE + 1), [1])
    second = rollout.generate(["a room"], part(cameras, STRIDE, 2 * STRIDE + 1), [2])
    assert first.shape == second.shape == (1, STRIDE + 1, 32, 32, 3)
    latents = backbone.encode_video(first[:, -1:].movedim(-1, 1).float() / 127.5 - 1)
    with torch.no_grad():
        alone = ((backbone.decode_latents(latents)[:, :, 0] + 1) * 127.5).round().clamp(0, 255)
    assert (second[:, 0].movedim(-1, 1).float() - alone).abs().max() <= 1
    torch.testing.assert_close(rollout.history.latents[:, :, 3], latents[:, :, 0])
    assert rollout.history.times == (0, 1, 2, 2, 3, 4)


def test_frames_encoded_alone_are_kept_once(backbone) -> None:
    method = RetrievedContext(FrameContext(FrameContextConfig.of(backbone.transformer)), 2)
    rollout, cameras = begun(backbone, method), path(2 * STRIDE + 1)
    made = [rollout.generate([""], part(cameras, i * STRIDE, (i + 1) * STRIDE + 1), [i]) for i in range(2)]
    assert rollout.history.times == (0, 1, 2, 3, 4)
    whole = torch.cat([made[0], made[1][:, 1:]], dim=1)[:, ::4]
    for i, frame in enumerate(whole.unbind(1)):
        latent = backbone.encode_video(frame[:, None].movedim(-1, 1).float() / 127.5 - 1)
        torch.testing.assert_close(rollout.history.latents[:, :, i], latent[:, :, 0])
    assert rollout.history.cameras is not None
    assert torch.equal(rollout.history.cameras.c2w, cameras.c2w[:, ::4])


def test_a_real_past_is_remembered_chunk_by_chunk(backbone) -> None:
    rollout, real, cameras = Rollout(backbone, learned(), **FAST), frames(2 * STRIDE + 1), path(2 * STRIDE + 1)
    rollout.observe(real, cameras)
    for i in range(2):
        video = real[:, i * STRIDE : (i + 1) * STRIDE + 1].movedim(-1, 1).float() / 127.5 - 1
        expected = backbone.encode_video(video.contiguous())
        torch.testing.assert_close(rollout.history.latents[:, :, 3 * i : 3 * i + 3], expected)
    apart = Rollout(backbone, learned(), **FAST)
    apart.observe(real[:, : STRIDE + 1], part(cameras, 0, STRIDE + 1))
    apart.observe(real[:, STRIDE:], part(cameras, STRIDE, None))
    assert torch.equal(apart.history.latents, rollout.history.latents) and apart.history.times == rollout.history.times


def test_memory_is_flat_once_the_budget_is_reached(backbone) -> None:
    budget, sizes = 12_000, []
    rollout, cameras = begun(backbone, learned(), budget=budget), path(31 * STRIDE + 1)
    for i in range(31):
        made = rollout.generate([""], part(cameras, i * STRIDE, (i + 1) * STRIDE + 1), [i])
        sizes.append(rollout.history.nbytes)
    assert made.float().isfinite().all() and len(set(sizes[5:])) == 1 and budget / 2 < sizes[-1] <= budget
    assert rollout.history.dropped == 31 * 3 - len(rollout.history)


def test_a_video_depends_on_its_own_seed_and_past(backbone) -> None:
    cameras = path(STRIDE + 1, 2)
    both = begun(backbone, learned(), batch=2).generate(["a", "b"], cameras, [1, 2])
    again = begun(backbone, learned(), batch=2).generate(["a", "b"], cameras, [1, 2])
    assert torch.equal(both, again)
    other = begun(backbone, learned(), batch=2).generate(["a", "b"], cameras, [1, 3])
    assert (both[0].int() - other[0].int()).abs().max() <= 1
    assert (both[1].int() - other[1].int()).abs().max() > 1


class Recorded(LearnedContext):
    """Keeps the noise that its queries were given."""

    def __init__(self, method: LearnedContext) -> None:
        super().__init__(method.query, method.frames)
        self.seen: list[torch.Tensor] = []

    def shown(self, *transformers, **given):
        self.seen.append(given["noise"])
        return super().shown(*transformers, **given)


def noise_of_two_chunks(backbone, seeds: list[list[int]] | None) -> tuple[list[torch.Tensor], list[torch.Tensor]]:
    """What the frames of two chunks start from but for the first, and the noise of their queries; two videos."""
    method, cameras, start = Recorded(learned()), path(2 * STRIDE + 1, 2), []
    rollout = begun(backbone, method, batch=2, seeds=[1, 2])

    def record(module, args, kwargs) -> None:
        start.append((args[0] if args else kwargs["hidden_states"])[:, :, 1:].clone())

    handle = backbone.transformer.register_forward_pre_hook(record, with_kwargs=True)
    try:
        for i in range(2):
            chunk = part(cameras, i * STRIDE, (i + 1) * STRIDE + 1)
            rollout.generate(["a", "b"], chunk, *([] if seeds is None else [seeds[i]]))
    finally:
        handle.remove()
    return start, method.seen


def test_noise_follows_from_the_seed_of_a_video_and_the_position_of_a_frame(backbone) -> None:
    start, queries = noise_of_two_chunks(backbone, None)
    for i in range(2):
        positions = range(2 * i, 2 * i + 3)
        assert torch.equal(start[i], frame_noise([1, 2], "noise", positions, (16, 4, 4))[:, :, 1:])
        assert torch.equal(queries[i], frame_noise([1, 2], "query", positions, (16, 4, 4)))


def test_seeds_of_a_chunk_give_its_noise_whatever_its_position(backbone) -> None:
    start, queries = noise_of_two_chunks(backbone, [[5, 6], [5, 6]])
    drawn = [torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(seed)) for seed in (5, 6)]
    assert torch.equal(start[0], torch.stack(drawn)[:, :, 1:]) and torch.equal(start[0], start[1])
    drawn = [torch.randn(16, 3, 4, 4, generator=torch.Generator().manual_seed(seed ^ 0x5EED)) for seed in (5, 6)]
    assert torch.equal(queries[0], torch.stack(drawn)) and torch.equal(queries[0], queries[1])


def test_what_does_not_fit_is_refused(backbone) -> None:
    cameras = path(STRIDE + 1)
    with pytest.raises(InputError, match="observe"):
        Rollout(backbone, learned()).generate([""], cameras, [1])
    with pytest.raises(InputError, match="1 \\+ n·8"):
        Rollout(backbone, learned()).observe(frames(5), path(5))
    with pytest.raises(InputError, match="one per frame"):
        Rollout(backbone, learned()).observe(frames(STRIDE + 1), path(STRIDE))
    rollout = begun(backbone, learned())
    with pytest.raises(InputError, match="no seeds"):
        rollout.generate(["a"], cameras)
    with pytest.raises(InputError, match="one each per video"):
        rollout.generate(["a", "b"], cameras, [1])
    with pytest.raises(InputError, match="one per frame"):
        rollout.generate(["a"], path(STRIDE), [1])
    with pytest.raises(InputError, match="continue 1"):
        rollout.observe(frames(STRIDE + 1, 2), path(STRIDE + 1, 2))

"""DeT's loss along tracks, and the tracks of cells that are alike."""

import pytest
import torch

from memkit.errors import InputError
from memkit.training.tracking import match_tracks, motion_loss, tracking_loss


@pytest.fixture
def moving():
    """A picture that moves by one row per frame, and the tracks of its points."""
    picture = torch.randn(2, 4, 12, 6, generator=torch.Generator().manual_seed(0))
    video = torch.stack([picture[:, :, 4 - f : 10 - f] for f in range(4)], 2)
    points = torch.cartesian_prod(torch.arange(3.0), torch.arange(6.0))
    tracks = torch.stack([points + torch.tensor([f, 0.0]) for f in range(4)], 1).expand(2, -1, -1, -1)
    return video, tracks.contiguous()


def test_it_is_the_mean_squared_change_along_visible_tracks(moving):
    video, tracks = moving
    visible = torch.ones(tracks.shape[:3], dtype=torch.bool)
    assert tracking_loss(video, tracks, visible) < 1e-10
    still = tracks[:, :, :1].expand_as(tracks)
    rows, columns = still[0, :, 0].long().unbind(-1)
    change = video[:, :, :, rows, columns].diff(dim=2).square()
    torch.testing.assert_close(tracking_loss(video, still, visible), change.mean())
    between = torch.full_like(still[:, :1], 0.5)
    mean = video[:, :, :, :2, :2].mean((3, 4))
    torch.testing.assert_close(tracking_loss(video, between, visible[:, :1]), mean.diff(dim=2).square().mean())
    visible[:, :, 2] = False
    torch.testing.assert_close(tracking_loss(video, still, visible), change[:, :, 0].mean())
    assert tracking_loss(video, still, torch.zeros_like(visible)) == 0
    with pytest.raises(InputError, match="same B and F"):
        tracking_loss(video, tracks[:, :, :3], visible[:, :, :3])


def test_tracks_are_found_and_the_loss_acts_where_there_is_little_noise(moving):
    video, tracks = moving
    found = match_tracks(video)
    inner = found.unflatten(1, (6, 6))[:, :3]
    assert torch.equal(inner.flatten(1, 2), tracks) and found.shape == (2, 36, 4, 2)
    noise = torch.randn(video.shape, generator=torch.Generator().manual_seed(1))
    velocity, sigma = noise - video, torch.tensor([0.3, 0.9])
    assert motion_loss(velocity, video, noise, sigma, tracks) < 1e-9
    still = tracks[:, :, :1].expand_as(tracks)
    loss = motion_loss(velocity, video, noise, sigma, still)
    everywhere = torch.ones(still.shape[:3], dtype=torch.bool)
    torch.testing.assert_close(loss, tracking_loss(video[:1], still[:1], everywhere[:1]))

"""WanCodec is the VAE of a pipeline, without the rest of it."""

import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan

from memkit import cli
from memkit.backbones import VideoFormat, WanBackbone, WanCodec
from memkit.backbones.codec import FORMAT_FILE
from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.video import write_video
from tests.banks.test_build import write_csv


@pytest.fixture
def vae_alone(tmp_path, random_folder) -> Path:
    """A folder with nothing but what the codec is to read."""
    folder = tmp_path / "model"
    shutil.copytree(random_folder / "vae", folder / "vae")
    shutil.copy(random_folder / FORMAT_FILE, folder)
    return folder


def test_only_the_vae_and_the_format_are_needed(vae_alone, random_folder):
    codec, whole = WanCodec.from_pretrained(vae_alone), WanBackbone.from_pretrained(random_folder)
    assert codec.video_format == whole.video_format == VideoFormat(9, 32, 32, 8.0)
    video = torch.rand(1, 3, 9, 32, 32) * 2 - 1
    latents = codec.encode_video(video)
    assert latents.shape == (1, 16, 3, 4, 4) and torch.equal(latents, whole.encode_video(video))
    assert torch.equal(codec.decode_latents(latents), whole.decode_latents(latents))


def test_a_bank_is_built_with_the_vae_alone(tmp_path, vae_alone):
    write_video(tmp_path / "a.mp4", torch.full((9, 32, 32, 3), 90, dtype=torch.uint8), 8)
    captions = write_csv(tmp_path / "c.csv", [["video", "caption"], ["a.mp4", "x"]])
    paths = ["--videos", str(tmp_path), "--captions", str(captions), "--out", str(tmp_path / "b")]
    assert cli.main(["bank", "build", *paths, "--model", str(vae_alone)]) == 0
    assert MemoryBank.open(tmp_path / "b").shapes == [(16, 3, 4, 4)]


@pytest.mark.parametrize(("channels", "size"), [(16, (81, 480, 832)), (48, (121, 704, 1280))])
def test_a_folder_without_a_format_has_that_of_its_latent_channels(tmp_path, channels, size):
    statistics = {"latents_mean": [0.0] * channels, "latents_std": [1.0] * channels}
    vae = AutoencoderKLWan(base_dim=4, z_dim=channels, num_res_blocks=1, **statistics)
    vae.save_pretrained(tmp_path / "vae")
    video_format = WanCodec.from_pretrained(tmp_path).video_format
    assert (video_format.num_frames, video_format.height, video_format.width) == size


def test_a_folder_without_a_vae_is_refused(tmp_path):
    with pytest.raises(InputError, match=r"vae/config\.json.*pipeline"):
        WanCodec.from_pretrained(tmp_path)


@pytest.mark.parametrize("frames", range(1, 10))
def test_a_video_that_the_vae_would_cut_is_refused(frames, random_folder):
    codec = WanCodec.from_pretrained(random_folder)
    video = torch.zeros(1, 3, frames, 16, 16)
    if frames in (1, 5, 9):
        assert codec.decode_latents(codec.encode_video(video)).shape == video.shape
        return
    below = 1 if frames < 5 else 5
    with pytest.raises(InputError, match=rf"of {frames}; give {below}, or fill up to {below + 4}\."):
        codec.encode_video(video)

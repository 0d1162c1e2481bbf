"""`WanCodec`: encodes videos to latents and decodes them, with Wan's VAE alone."""

from __future__ import annotations

from importlib import resources
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan
from jaxtyping import Float
from torch import Tensor

from memkit.backbones.model_folder import load_vae
from memkit.backbones.presets import VideoFormat, format_of
from memkit.checks import check_finite, check_floats, extremes
from memkit.display import described, parameters_of
from memkit.errors import FileError, InputError
from memkit.files.checksums import verify_sums
from memkit.files.json_files import read_json
from memkit.files.models import RESTORE
from memkit.hub import find_folder

FORMAT_FILE = "video_format.json"
"""File in a model folder with the format of the videos that the model generates: num_frames, height, width, fps."""


FARTHEST = 10.0
"""A pixel that is farther from 0 is in another range than [-1, 1], which decoded videos leave a little."""

_VAE_FILES = ("vae/config.json", "vae/diffusion_pytorch_model*.safetensors*", FORMAT_FILE)


class WanCodec:
    """A stock Wan VAE, kept in fp32, and the format of the videos that its model generates."""

    def __init__(self, vae: AutoencoderKLWan, video_format: VideoFormat | None = None) -> None:
        self.vae = vae
        self.video_format = video_format or format_of(vae.config.z_dim)

    def __repr__(self) -> str:
        return described(self, f"{self.vae.config.z_dim} channels", parameters_of(self.vae), repr(self.video_format))

    @classmethod
    def from_pretrained(cls, name: str | Path, local_files_only: bool = False) -> WanCodec:
        """Load the VAE of a diffusers pipeline from a folder or the hub; no other component is read or downloaded.

        The video format is read from `FORMAT_FILE` in the folder; without it, it is that of the Wan with the same
        number of latent channels. A folder with ``SHA256SUMS``, such as tiny-wan's, is compared with it as a whole.

        Raises:
            InputError: there is no such folder, and no such id on the hub.
            FileError: the VAE or the video format is missing or damaged.
        """
        folder = find_folder(name, _VAE_FILES, local_files_only=local_files_only)
        if not (folder / "vae" / "config.json").exists():
            raise FileError(f"{folder} has no vae/config.json; give the folder of a diffusers Wan pipeline.")
        verify_sums(folder)
        return cls(load_vae(folder / "vae"), read_format(folder))

    @classmethod
    def tiny(cls) -> WanCodec:
        """The VAE of tiny-wan, which memkit ships: 17 frames of 64×64 pixels at 8 fps."""
        return cls.from_pretrained(tiny_folder())

    @torch.no_grad()
    def encode_video(
        self, video: Float[Tensor, "batch 3 frames height width"]
    ) -> Float[Tensor, "batch channels latent_frames latent_height latent_width"]:
        """Latents (the mean of the posterior) of videos in [-1, 1], normalised by the VAE's latent mean and standard
        deviation.

        Raises:
            InputError: the number of frames is not 4·k + 1 (4 is the temporal stride): the VAE would drop the rest; or
                pixels are not finite, or far out of [-1, 1], as from 0 to 255.
        """
        self._check_video(video)
        stride, frames = self.vae.config.scale_factor_temporal, video.shape[2]
        if rest := (frames - 1) % stride:
            raise InputError(
                f"The VAE takes {stride}·k + 1 frames and would drop the last {rest} of {frames}; "
                f"give {frames - rest}, or fill up to {frames - rest + stride}."
            )
        latents = self.vae.encode(video.to(self.vae.device, self.vae.dtype)).latent_dist.mode()
        mean, std = self._latent_statistics(latents)
        return (latents - mean) / std

    @torch.no_grad()
    def decode_latents(
        self, latents: Float[Tensor, "batch channels latent_frames latent_height latent_width"]
    ) -> Float[Tensor, "batch 3 frames height width"]:
        """Decode normalised latents to videos in [-1, 1].

        Raises:
            InputError: the latents are not finite, or have other channels than the VAE.
        """
        check_finite("latents", latents, "[B, C, T, H, W]")
        if latents.shape[1] != self.vae.config.z_dim or 0 in latents.shape:
            raise InputError(
                f"latents have the shape {list(latents.shape)}; give [B, {self.vae.config.z_dim}, T, H, W]."
            )
        latents = latents.to(self.vae.device, self.vae.dtype)
        mean, std = self._latent_statistics(latents)
        return self.vae.decode(latents * std + mean).sample

    def _check_video(self, video: Tensor) -> None:
        check_floats("video", video, "[B, 3, T, H, W]")
        patch = self.vae.config.patch_size or 1
        if video.shape[1] != 3 or 0 in video.shape or any(size % patch for size in video.shape[3:]):
            raise InputError(
                f"video has the shape {list(video.shape)}; give [B, 3, frames, height, width] with height and width in "
                f"multiples of {patch}."
            )
        low, high = extremes(video)
        if not (low >= -FARTHEST and high <= FARTHEST):
            raise InputError(
                f"video has pixels from {low:g} to {high:g}; give pixels in [-1, 1], none of them NaN, for example "
                "from memkit.video.to_model."
            )

    def _latent_statistics(self, latents: Tensor) -> tuple[Tensor, Tensor]:
        config = self.vae.config
        mean, std = (
            torch.tensor(x).to(latents).view(1, -1, 1, 1, 1) for x in (config.latents_mean, config.latents_std)
        )
        return mean, std


def tiny_folder() -> Path:
    """The folder of tiny-wan, which memkit ships."""
    return Path(str(resources.files("memkit") / "weights" / "tiny-wan"))


def read_format(folder: Path) -> VideoFormat | None:
    """The video format in a model folder's `FORMAT_FILE`; None without that file.

    Raises `FileError` where the file is damaged.
    """
    file = folder / FORMAT_FILE
    if not file.exists():
        return None
    content = read_json(file, RESTORE)
    try:
        return VideoFormat(**content)
    except (TypeError, InputError) as error:  # another key, or one that is missing
        raise FileError(f"{file} is no video format ({error}); {RESTORE}.") from error

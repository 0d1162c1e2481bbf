"""PSNR, SSIM and LPIPS of videos, frame by frame, with torchmetrics.

Videos must be uint8 ``[T, H, W, 3]``, so that their range is always 255. The range of a float video is ambiguous ([0,
1], [-1, 1] or [0, 255]), and a PSNR with the range of [-1, 1] on images in [0, 1] is 6 dB too high, so float videos are
refused. The value of a frame does not depend on other frames.
"""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, get_args

import torch
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from memkit.checks import check_choice
from memkit.errors import InputError
from memkit.files.atomic import hash_files
from memkit.files.tensors import load_exactly, read_state_dict

Net = Literal["alex", "vgg", "squeeze"]
Frames = Shaped[Tensor, "..."]
"""uint8 ``[T, H, W, 3]``; the type does not say so because each function checks it with a helpful error."""

RANGE = 255.0
SSIM_WINDOW = 11
LPIPS_LEAST = 32  # pixels; AlexNet cannot pool images smaller than 31
WEIGHTS_REMEDY = "give the state dict of a torchvision model, saved by torch.save"
_TORCHVISION = {"alex": "AlexNet", "vgg": "VGG16", "squeeze": "SqueezeNet1_1"}


def psnr(a: Frames, b: Frames) -> Float[Tensor, " frames"]:
    """Peak signal-to-noise ratio in dB of each frame, ``10·log10(255² / MSE)``; equal frames have inf.

    Raises `InputError` unless both are uint8 ``[T, H, W, 3]`` of one shape.
    """
    from torchmetrics.functional.image import peak_signal_noise_ratio  # only here: the import takes seconds

    return _each(lambda x, y: peak_signal_noise_ratio(x, y, data_range=RANGE), a, b)


def mean_psnr(values: Float[Tensor, " frames"]) -> float:
    """PSNR in dB of the mean squared error of all frames; NaN without frames.

    One exactly copied frame makes the plain mean of PSNRs infinite, and a near copy dominates it; this mean stays
    finite while any frame differs, and is never above the plain one. Papers seldom say which they report: this is our
    reading.
    """
    return float(-10 * (10 ** (-values.double() / 10)).mean().log10())


def ssim(a: Frames, b: Frames) -> Float[Tensor, " frames"]:
    """Structural similarity of each frame, in [-1, 1]; equal frames have 1 (Wang et al., IEEE TIP 13(4), 2004).

    With their constants and their Gaussian window of 11×11 pixels (σ 1.5), per colour channel; torchmetrics reflects
    the frame at its borders, which they leave out. Raises `InputError` as `psnr` does, and below 11×11 pixels.
    """
    from torchmetrics.functional.image import structural_similarity_index_measure

    return _each(lambda x, y: structural_similarity_index_measure(x, y, data_range=RANGE), a, b, SSIM_WINDOW)


class Lpips:
    """LPIPS distance of each frame, at least 0 and rarely above 1; equal frames have 0 (arXiv 1801.03924, version 0.1).

    ``net`` is the backbone; the authors recommend "alex" for evaluation. Its ImageNet weights come from torch hub's
    cache, where torchvision keeps them, and are checked against the hash in the file's name; or from ``weights``, a
    state dict of torchvision's model in a file written by torch.save. Nothing is downloaded and no pickle is run. The
    linear heads come with torchmetrics. ``device`` None is CUDA if available.

    Raises `InputError` where the weights are missing, damaged or of another network; when called, as `psnr` does, and
    below 32×32.
    """

    def __init__(
        self, net: Net = "alex", weights: str | os.PathLike[str] | None = None, device: torch.device | str | None = None
    ) -> None:
        check_choice("The network of LPIPS", net, get_args(Net))
        path = _cached(net) if weights is None else Path(weights)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._network = _build(net, read_state_dict(path, WEIGHTS_REMEDY), path).to(self.device)

    @torch.inference_mode()
    def __call__(self, a: Frames, b: Frames) -> Float[Tensor, " frames"]:
        return _each(lambda x, y: self._network(self._scaled(x), self._scaled(y)), a, b, LPIPS_LEAST)

    def _scaled(self, image: Tensor) -> Tensor:
        return (2 * image / RANGE - 1).float().to(self.device)


def check_videos(a: Frames, b: Frames, least: int = 1) -> None:
    """Raises `InputError` unless both are uint8 ``[T, H, W, 3]`` of one shape, sides of ``least`` pixels or more."""
    for video in (a, b):
        if video.dtype != torch.uint8 or video.ndim != 4 or video.shape[-1] != 3 or not video.numel():
            raise InputError(
                f"A video to measure is {video.dtype} {tuple(video.shape)}; give uint8 [T, H, W, 3], for example from "
                "memkit.video.from_model."
            )
    if a.shape != b.shape:
        raise InputError(
            f"Videos {tuple(a.shape)} and {tuple(b.shape)} cannot be compared; give videos of the same shape."
        )
    if min(a.shape[1:3]) < least:
        raise InputError(f"Frames of {a.shape[1]}×{a.shape[2]} are too small; give {least}×{least} or more.")


def _each(measure: Callable[[Tensor, Tensor], Any], a: Tensor, b: Tensor, least: int = 1) -> Tensor:
    """``measure`` of each pair of frames as float64 ``[1, 3, H, W]``: in float32, SSIM's variances lose precision."""
    check_videos(a, b, least)
    images = ((x.permute(2, 0, 1)[None].double() for x in video) for video in (a, b.to(a.device)))
    return torch.stack([measure(x, y).squeeze() for x, y in zip(*images, strict=True)]).float().cpu()


def _cached(net: str) -> Path:
    """The file of torchvision's ImageNet weights in torch hub's cache, checked by its hash."""
    from torchvision import models

    name = _TORCHVISION[net]
    path = Path(torch.hub.get_dir(), "checkpoints", Path(models.get_weight(f"{name}_Weights.IMAGENET1K_V1").url).name)
    obtain = (
        f"torchvision.models.{name.lower()}(weights='IMAGENET1K_V1') downloads it where there is a network; copy it to "
        "this path, or pass another one as Lpips(weights=...)."
    )
    if not path.is_file():
        raise InputError(f"LPIPS needs {name}'s ImageNet weights, and {path} is not there. {obtain}")
    if not hash_files(path).startswith(path.stem.rsplit("-", 1)[1]):
        raise InputError(f"{path} is damaged: its hash differs from that in its name. Delete it; {obtain}")
    return path


def _build(net: str, state: dict[str, Tensor], path: Path) -> nn.Module:
    # the public function downloads weights, and rebuilds the network at each call
    from torchmetrics.functional.image.lpips import _LPIPS

    with torch.random.fork_rng(devices=[]):
        network = _LPIPS(net=net, pnet_rand=True)  # type: ignore[arg-type]
    # The slices keep the indices that the layers have in torchvision's ``features``.
    slices = [module for module in network.net.modules() if isinstance(module, nn.Sequential)]
    backbone = nn.ModuleDict({"features": nn.ModuleDict({i: m for part in slices for i, m in part.named_children()})})
    try:
        load_exactly(backbone, {k: v for k, v in state.items() if not k.startswith("classifier.")}, path)
    except InputError as error:
        raise InputError(f"These are not the weights of torchvision's {_TORCHVISION[net]}: {error}") from error
    return network.float().eval().requires_grad_(False)

"""PSNR and SSIM against their definitions; LPIPS with a random backbone in torchvision's layout."""

from __future__ import annotations

import hashlib
import math
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torchvision import models

from memkit.errors import InputError
from memkit.metrics import Lpips, mean_psnr, psnr, ssim
from memkit.video import to_model

seeds = st.integers(0, 10**6)


def noise(seed: int, frames: int = 3, height: int = 16, width: int = 13) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randint(0, 256, (frames, height, width, 3), generator=generator).byte()


def ball(frames: int = 17, size: int = 64, speed: float = 2.0) -> torch.Tensor:
    """A red disc that crosses a grey slope."""
    v, u = torch.meshgrid(torch.arange(size), torch.arange(size), indexing="ij")
    video = (60 + v + u / 2)[None, :, :, None].repeat(frames, 1, 1, 3)
    centre = 12 + speed * torch.arange(frames)[:, None, None]
    video[(u - centre) ** 2 + (v - size / 2) ** 2 < 81] = torch.tensor([220.0, 40.0, 30.0])
    return video.byte()


@pytest.fixture(scope="module")
def clip() -> torch.Tensor:
    return ball()


@pytest.fixture(scope="module")
def squeeze_file(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """SqueezeNet with seeded random weights, the whole state dict of torchvision's model, under its own hash."""
    torch.manual_seed(0)
    path = tmp_path_factory.mktemp("hub") / "checkpoints" / "squeezenet1_1-x.pth"
    path.parent.mkdir()
    torch.save(models.squeezenet1_1(weights=None).state_dict(), path)
    return path.rename(path.with_name(f"squeezenet1_1-{hashlib.sha256(path.read_bytes()).hexdigest()[:8]}.pth"))


@pytest.fixture(scope="module")
def lpips(squeeze_file: Path) -> Lpips:
    return Lpips("squeeze", squeeze_file, device="cpu")


# PSNR


@settings(deadline=None)  # the first call imports torchmetrics
@given(seeds)
def test_psnr_is_its_definition(seed: int) -> None:
    a, b = noise(seed), noise(seed + 1)
    mse = ((a.numpy().astype(float) - b.numpy()) ** 2).mean((1, 2, 3))
    assert psnr(a, b).numpy() == pytest.approx(10 * np.log10(255**2 / mse), abs=1e-5)


@given(st.integers(1, 255), st.integers(0, 255))
def test_psnr_of_a_constant_offset(offset: int, base: int) -> None:
    base = min(base, 255 - offset)
    a = torch.full((2, 5, 4, 3), base).byte()
    assert psnr(a, a + offset).tolist() == pytest.approx([20 * math.log10(255 / offset)] * 2, abs=1e-5)


def test_psnr_of_black_and_white_is_zero_whatever_the_content_spans() -> None:
    black = torch.zeros(1, 12, 12, 3).byte()
    assert psnr(black, black + 255).item() == pytest.approx(0, abs=1e-6)
    assert psnr(black, black + 1).item() == pytest.approx(48.1308, abs=1e-4)  # not 0, as with the range of the content


def test_psnr_and_ssim_fall_with_noise(clip: torch.Tensor) -> None:
    spread = torch.randn(clip.shape, generator=torch.Generator().manual_seed(0))
    noisy = [(clip + level * spread).round().clamp(0, 255).byte() for level in (2, 6, 18, 54)]
    for measure in (psnr, ssim):
        values = torch.stack([measure(clip, b) for b in noisy])
        assert (values.diff(dim=0) < 0).all()


def test_equal_frames(clip: torch.Tensor, lpips: Lpips) -> None:
    assert psnr(clip, clip).tolist() == [math.inf] * len(clip)
    assert ssim(clip, clip).tolist() == [1.0] * len(clip)
    assert lpips(clip[:3], clip[:3]).tolist() == [0.0] * 3


@given(seeds)
def test_mean_psnr_is_that_of_all_pixels(seed: int) -> None:
    a, b = noise(seed), noise(seed + 1)
    b[0] = a[0]  # copied exactly: inf alone, and no more than a share of the whole
    values = psnr(a, b)
    mse = ((a.double() - b.double()) ** 2).mean().item()
    assert values[0] == math.inf
    assert mean_psnr(values) == pytest.approx(10 * math.log10(255**2 / mse), abs=1e-4)
    assert mean_psnr(values[1:]) <= values[1:].mean().item() + 1e-5


def test_mean_psnr_at_the_ends() -> None:
    assert mean_psnr(torch.tensor([math.inf, math.inf])) == math.inf
    assert math.isnan(mean_psnr(torch.empty(0)))
    assert mean_psnr(torch.tensor([20.0, 20.0])) == pytest.approx(20)


# SSIM


def dense_ssim(a: np.ndarray, b: np.ndarray) -> float:
    """Equation 13 of Wang et al. at every pixel of ``[H, W, 3]``, one window at a time, borders reflected."""
    x = np.arange(-5, 6)
    window = np.exp(-(x**2) / (2 * 1.5**2))
    window = np.outer(window, window) / window.sum() ** 2
    a, b = (np.pad(z.astype(float), ((5, 5), (5, 5), (0, 0)), mode="reflect") for z in (a, b))
    values = []
    for i, j, c in np.ndindex(a.shape[0] - 10, a.shape[1] - 10, 3):
        p, q = a[i : i + 11, j : j + 11, c], b[i : i + 11, j : j + 11, c]
        mp, mq = (window * p).sum(), (window * q).sum()
        vp, vq, cov = (
            (window * (p - mp) ** 2).sum(),
            (window * (q - mq) ** 2).sum(),
            (window * (p - mp) * (q - mq)).sum(),
        )
        c1, c2 = (0.01 * 255) ** 2, (0.03 * 255) ** 2
        values.append((2 * mp * mq + c1) * (2 * cov + c2) / ((mp**2 + mq**2 + c1) * (vp + vq + c2)))
    return float(np.mean(values))


@settings(max_examples=5)
@given(seeds)
def test_ssim_is_its_definition(seed: int) -> None:
    a = noise(seed, frames=2)
    b = torch.cat([noise(seed + 1, frames=1), (a[1:].float() * 0.5 + 60).byte()])
    assert ssim(a, b).tolist() == pytest.approx([dense_ssim(x.numpy(), y.numpy()) for x, y in zip(a, b, strict=True)])


def test_ssim_of_equal_bright_flat_frames_keeps_its_digits() -> None:
    """In float32 the variance of a flat frame of 255 is far from 0 against (0.03·255)²."""
    flat = torch.full((1, 64, 64, 3), 255).byte()
    other = flat.clone()
    other[:, ::2] = 254
    assert ssim(flat, flat).item() == 1.0
    assert ssim(flat, other).item() == pytest.approx(dense_ssim(flat[0].numpy(), other[0].numpy()), abs=1e-7)


# All


@given(seeds)
def test_symmetric_and_each_frame_by_itself(seed: int) -> None:
    a, b = noise(seed), noise(seed + 1)
    order = torch.randperm(len(a), generator=torch.Generator().manual_seed(seed))
    for measure in (psnr, ssim):
        assert torch.allclose(measure(a, b), measure(b, a), atol=1e-6)
        assert measure(a[order], b[order]).equal(measure(a, b)[order])
        assert measure(a[1:2], b[1:2]).equal(measure(a, b)[1:2])


def test_videos_that_have_no_known_range_or_do_not_fit(clip: torch.Tensor, lpips: Lpips) -> None:
    for measure in (psnr, ssim, lpips):
        for bad in (clip.float() / 255, to_model(clip), clip.int(), clip.bool(), clip[0], clip[..., :1], clip[:0]):
            with pytest.raises(InputError, match=r"uint8 \[T, H, W, 3\]"):
                measure(bad, bad)
        with pytest.raises(InputError, match="uint8"):
            measure(clip, clip.float())
        with pytest.raises(InputError, match="the same shape"):
            measure(clip, clip[:1])


@pytest.mark.parametrize(("height", "width"), [(10, 40), (40, 10)])
def test_frames_smaller_than_the_window(height: int, width: int, lpips: Lpips) -> None:
    small = noise(0, height=height, width=width)
    with pytest.raises(InputError, match="11×11"):
        ssim(small, small)
    with pytest.raises(InputError, match="32×32"):
        lpips(small, small)
    assert ssim(noise(0, height=11, width=11), noise(0, height=11, width=11)).tolist() == [1.0] * 3


# LPIPS


def test_lpips_is_the_definition_over_torchvisions_own_features(squeeze_file: Path, lpips: Lpips) -> None:
    """arXiv 1801.03924, equation 1, with torchvision's model and the heads of the release."""
    from torchmetrics.functional.image import lpips as released

    model = models.squeezenet1_1(weights=None).eval()
    model.load_state_dict(torch.load(squeeze_file, weights_only=True))
    heads = torch.load(
        Path(released.__file__).parent / "lpips_models" / "squeeze.pth", map_location="cpu", weights_only=True
    )
    a, b = noise(0, 2, 64, 64), noise(1, 2, 64, 64)
    shift, scale = torch.tensor([-0.030, -0.088, -0.188]), torch.tensor([0.458, 0.448, 0.450])
    x, y = (((v / 127.5 - 1 - shift) / scale).permute(0, 3, 1, 2) for v in (a, b))
    expected, head = torch.zeros(2), 0
    with torch.no_grad():
        for i, layer in enumerate(model.features):
            x, y = layer(x), layer(y)
            if i in (1, 4, 7, 9, 10, 11, 12):
                off = (torch.nn.functional.normalize(x, dim=1) - torch.nn.functional.normalize(y, dim=1)) ** 2
                expected += (off * heads[f"lin{head}.model.1.weight"]).sum(1).mean((1, 2))
                head += 1
    assert head == 7 and lpips(a, b).tolist() == pytest.approx(expected.tolist(), rel=1e-4)


def test_lpips_is_symmetric_positive_and_takes_each_frame_by_itself(clip: torch.Tensor, lpips: Lpips) -> None:
    a, b = clip[:3], noise(0, 3, 64, 64)
    value = lpips(a, b)
    assert (value > 0).all() and torch.allclose(value, lpips(b, a), rtol=1e-5)
    assert lpips(a[[2, 0, 1]], b[[2, 0, 1]]).equal(value[[2, 0, 1]])
    assert not value.requires_grad


def test_lpips_leaves_the_random_state_alone(squeeze_file: Path) -> None:
    state = torch.get_rng_state()
    Lpips("squeeze", squeeze_file, device="cpu")
    assert torch.get_rng_state().equal(state)


@pytest.mark.parametrize("net", ["alex", "vgg"])
def test_other_backbones_read_torchvisions_layout(net: str, tmp_path: Path) -> None:
    """The shapes alone: the features of the two largest need no classifier to be read."""
    model = {"alex": models.alexnet, "vgg": models.vgg16}[net]
    with torch.device("meta"):
        state = model(weights=None).state_dict()
    torch.manual_seed(0)
    features = {k: 0.02 * torch.randn(v.shape) for k, v in state.items() if k.startswith("features.")}
    torch.save(features, tmp_path / "weights.pth")
    measure = Lpips(net, tmp_path / "weights.pth", device="cpu")  # type: ignore[arg-type]
    a = noise(0, 1, 32, 32)
    assert measure(a, a).item() == 0 and measure(a, noise(1, 1, 32, 32)).item() > 0


def test_weights_are_found_in_the_hubs_cache_and_checked(
    squeeze_file: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, lpips: Lpips
) -> None:
    monkeypatch.setattr(torch.hub, "_hub_dir", str(tmp_path))
    name = "squeezenet1_1-b8a52dc0.pth"
    with pytest.raises(InputError, match=rf"{tmp_path}/checkpoints/{name} is not there.*squeezenet1_1\(weights="):
        Lpips("squeeze")
    (tmp_path / "checkpoints").mkdir()
    (tmp_path / "checkpoints" / name).write_bytes(squeeze_file.read_bytes())
    with pytest.raises(InputError, match=f"{name} is damaged"):  # whole, but not ImageNet's weights
        Lpips("squeeze")
    torch.hub.set_dir(str(squeeze_file.parent.parent))
    monkeypatch.setattr(models.SqueezeNet1_1_Weights.IMAGENET1K_V1.value, "url", f"https://host/{squeeze_file.name}")
    a, b = noise(0, 1, 32, 32), noise(1, 1, 32, 32)
    assert Lpips("squeeze", device="cpu")(a, b).equal(lpips(a, b))


class Writes:
    """Unpickled, it leaves a file behind."""

    def __init__(self, path: Path) -> None:
        self.path = path

    def __reduce__(self) -> tuple:
        return Path.touch, (self.path,)


def test_weights_that_cannot_be_used(squeeze_file: Path, tmp_path: Path) -> None:
    path = tmp_path / "weights.pth"
    with pytest.raises(InputError, match="weights.pth cannot be read"):
        Lpips("squeeze", path)
    path.write_bytes(squeeze_file.read_bytes()[:1000])
    with pytest.raises(InputError, match="weights.pth cannot be read"):
        Lpips("squeeze", path)
    torch.save({"features.0.weight": Writes(tmp_path / "ran")}, path)
    with pytest.raises(InputError, match="weights.pth cannot be read"):
        Lpips("squeeze", path)
    assert not (tmp_path / "ran").exists()
    torch.load(path, weights_only=False)
    assert (tmp_path / "ran").exists()
    torch.save([torch.zeros(1)], path)
    with pytest.raises(InputError, match="no state dict"):
        Lpips("squeeze", path)
    with pytest.raises(InputError, match=r"torchvision's AlexNet.*lacks features\.0"):
        torch.save({}, path)
        Lpips("alex", path)
    state = torch.load(squeeze_file, weights_only=True)
    del state["features.12.expand3x3.bias"]
    torch.save(state, path)
    with pytest.raises(InputError, match=r"torchvision's SqueezeNet1_1.*lacks features\.12\.expand3x3\.bias"):
        Lpips("squeeze", path)

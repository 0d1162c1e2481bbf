"""What the package ships: weights that a stock pipeline loads, and a red ball that falls."""

import random
import shutil
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKLWan, WanPipeline, WanTransformer3DModel
from transformers import UMT5EncoderModel

import memkit
from memkit import FrequencyEncoder, WanBackbone
from memkit.backbones import WanCodec
from memkit.backbones.codec import tiny_folder
from memkit.demo.bank import CLIPS
from memkit.errors import FileError, InputError
from memkit.files.checksums import SUMS_FILE, verify_checksum, verify_sums, write_sums
from memkit.generation import generate_videos
from memkit.metrics import mean_psnr, psnr
from memkit.video import to_model
from memkit.worlds import sample_law
from memkit.worlds.constants import MATERIALS, PLANETS, SUBSTANCES


def test_tiny_wan_is_a_small_stock_pipeline():
    assert sum(f.stat().st_size for f in tiny_folder().rglob("*") if f.is_file()) <= 25e6
    assert (tiny_folder() / "README.md").exists()
    pipe = WanPipeline.from_pretrained(tiny_folder())
    assert type(pipe.transformer) is WanTransformer3DModel
    assert type(pipe.vae) is AutoencoderKLWan
    assert type(pipe.text_encoder) is UMT5EncoderModel
    for part in (pipe.transformer, pipe.vae, pipe.text_encoder):
        assert next(part.parameters()).dtype == torch.float32  # stored in 16 bits, computed in 32


def test_a_red_ball_is_seen_falling():
    pipe = WanBackbone.tiny().pipeline()
    pipe.set_progress_bar_config(disable=True)
    seeds = range(4)
    videos = pipe(
        ["a large red rubber ball falls in a lab"] * len(seeds),
        height=64,
        width=64,
        num_frames=17,
        num_inference_steps=12,
        guidance_scale=3.0,
        generator=[torch.Generator().manual_seed(seed) for seed in seeds],
        output_type="pt",
    ).frames
    red = (videos[:, :, 0] - videos[:, :, 1:].amax(2) > 0.25).float()  # [seeds, frames, height, width]
    assert (red.sum((2, 3)) > 20).float().mean() > 0.9  # it is there
    rows = (red.sum(3) * torch.arange(64)).sum(2) / red.sum((2, 3)).clamp(min=1)
    fallen = rows.amax(1) - rows[:, 0]
    assert (fallen > 10).sum() >= 3  # of 64 rows, in three of the four at least


@pytest.mark.parametrize("constants", [PLANETS, MATERIALS, SUBSTANCES])
def test_only_names_it_was_trained_on_are_words_to_it(constants):
    tokenize = WanPipeline.from_pretrained(tiny_folder(), vae=None, transformer=None).tokenizer.tokenize
    assert all(len(tokenize(name)) == 1 for name in constants["train"])
    assert all(len(tokenize(name)) > 1 for split in ("memory", "test") for name in constants[split])


def test_a_video_from_an_image_keeps_the_image():
    backbone = WanBackbone.tiny()
    backbone.pipeline().set_progress_bar_config(disable=True)
    events = [sample_law(random.Random(seed), "test") for seed in range(4)]
    first = [event.video(num_frames=1) for event in events]
    with torch.no_grad():
        first_latents = torch.cat([backbone.encode_video(to_model(frame)) for frame in first])
    videos = generate_videos(
        backbone,
        [event.caption for event in events],
        seeds=range(4),
        steps=8,
        guidance_scale=3.0,
        conditioning_latents=first_latents,
    )
    kept = [mean_psnr(psnr(video[:1], frame)) for video, frame in zip(videos, first, strict=True)]
    assert sum(kept) / 4 >= 25  # dB
    assert all((video[0] != video[-1]).any() for video in videos)


ENCODER = Path(memkit.__file__).parent / "weights" / "dit-mem-tiny"


def test_what_is_shipped_has_its_checksums():
    for folder in (tiny_folder(), CLIPS):
        assert verify_checksum(folder / SUMS_FILE)
        listed = {line.split("  ")[1] for line in (folder / SUMS_FILE).read_text().splitlines()[1:]}
        there = {file.relative_to(folder).as_posix() for file in folder.rglob("*") if file.is_file()}
        assert listed == there - {SUMS_FILE}
        verify_sums(folder)
    assert verify_checksum(ENCODER / "model.safetensors")


def changed_bit(file: Path, share: float) -> None:
    data = bytearray(file.read_bytes())
    data[int(share * len(data))] ^= 4
    file.write_bytes(data)


@pytest.mark.parametrize(
    "name",
    [
        "model_index.json",
        "scheduler/scheduler_config.json",
        "text_encoder/model.safetensors",
        "tokenizer/tokenizer.json",
        "transformer/config.json",
        "transformer/diffusion_pytorch_model.safetensors",
        "vae/diffusion_pytorch_model.safetensors",
        "video_format.json",
    ],
)
def test_a_changed_bit_of_tiny_wan_is_noticed_before_use(tmp_path, name):
    shutil.copytree(tiny_folder(), tmp_path / "wan")
    changed_bit(tmp_path / "wan" / name, 0.7)
    for load in (WanBackbone.from_pretrained, WanCodec.from_pretrained):
        with pytest.raises(FileError, match=f"{name} does not match its checksum in .*SHA256SUMS; restore the folder"):
            load(tmp_path / "wan")


def test_a_changed_bit_of_a_transformer_alone_is_noticed(tmp_path):
    shutil.copytree(tiny_folder() / "transformer", tmp_path / "wan")
    write_sums(tmp_path / "wan")
    assert WanBackbone.from_pretrained(tmp_path / "wan").width == 192
    changed_bit(tmp_path / "wan" / "diffusion_pytorch_model.safetensors", 0.5)
    with pytest.raises(FileError, match="does not match its checksum"):
        WanBackbone.from_pretrained(tmp_path / "wan")


@pytest.mark.parametrize("share", [0.0, 0.0001, 0.3, 0.999])
def test_a_changed_bit_of_the_shipped_encoder_is_noticed(tmp_path, share):
    shutil.copytree(ENCODER, tmp_path / "encoder")
    changed_bit(tmp_path / "encoder" / "model.safetensors", share)
    with pytest.raises(InputError, match="model.safetensors"):
        FrequencyEncoder.from_pretrained(tmp_path / "encoder")

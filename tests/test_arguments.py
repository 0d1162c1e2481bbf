"""What a user in a notebook passes: one prompt, one seed, a pipeline; and the size of the videos by default."""

import shutil

import pytest
import torch
from diffusers import DiffusionPipeline, WanPipeline

from memkit.backbones import VideoFormat, WanBackbone
from memkit.cameras import Cameras
from memkit.checks import seed_list, text_list
from memkit.errors import InputError
from memkit.generation import FrameSampler, TextCache, frame_noise, generate_latents, generate_videos
from memkit.injectors import FrameContext, FrameContextConfig
from memkit.prompts import read_prompts
from memkit.rollout import Rollout
from memkit.rollout.methods import NoContext
from memkit.streaming import Stream, StreamConfig, VideoPlan
from memkit.streaming.memories import longlive
from tests.helpers.attachables import ATTACHABLES, call
from tests.helpers.random_wan import random_pipeline

FORM = VideoFormat(5, 32, 32, 8.0)
SHORT = {"steps": 1, "guidance_scale": 1.0}


@pytest.fixture(scope="module")
def backbone():
    return WanBackbone.from_pipeline(random_pipeline(), FORM)


def test_one_text_is_one_prompt_and_one_number_one_seed(backbone, tmp_path):
    text, camera = "a red ball", Cameras.look_at(torch.zeros(1, 3), torch.ones(1, 3))
    assert torch.equal(backbone.encode_text(text), backbone.encode_text([text]))
    assert torch.equal(TextCache(backbone, 16)(text), TextCache(backbone, 16)([text]))
    assert torch.equal(frame_noise(3, "x", [0, 1], (1, 2, 2)), frame_noise([3], "x", [0, 1], (1, 2, 2)))
    sampler = FrameSampler.of(backbone, text, steps=1)
    assert torch.equal(sampler.text, FrameSampler.of(backbone, [text], steps=1).text)
    videos = [
        generate_videos(backbone, text, seeds=7, **SHORT),
        generate_videos(backbone, [text], seeds=[7], **SHORT),
        generate_latents(backbone, text, seeds=7, **SHORT),
        generate_latents(backbone, [text], seeds=(7,), **SHORT),
    ]
    assert torch.equal(*videos[:2]) and torch.equal(*videos[2:])
    config = StreamConfig(chunk=1, steps=1, guidance_scale=1.0)
    one, many = Stream(backbone, 7, config=config, budget_bytes=10**6), Stream(backbone, [7], 10**6, config)
    assert torch.equal(one.generate(text), many.generate([text]))
    assert torch.equal(one.generate_all([text, "it stops"]), many.generate_all([[text], ["it stops"]]))
    assert longlive().stream(backbone, 7).seeds == one.seeds == (7,)
    plans = [VideoPlan.of(torch.zeros(1, 16, 1, 4, 4), given, camera, 2, 1, chunks=2) for given in (text, [text])]
    assert plans[0].prompts == plans[1].prompts == [text, text]
    frames, past = torch.zeros(1, 1, 32, 32, 3, dtype=torch.uint8), camera.c2w[None]
    path = Cameras(past.repeat(1, 5, 1, 1), camera.intrinsics[None].repeat(1, 5, 1))
    context, chunks = FrameContext(FrameContextConfig.of(backbone.transformer)), []
    for prompts, seeds in ((text, 7), ([text], [7])):
        rollout = Rollout(backbone, NoContext(context), seeds=seeds, steps=1, guidance_scale=1.0)
        rollout.observe(frames, Cameras(past, camera.intrinsics[None]))
        chunks.append(rollout.generate(prompts, path))
    assert torch.equal(*chunks)
    assert read_prompts(text, None) == read_prompts([text], None)


def test_what_is_neither_is_refused(backbone):
    for bad in (b"text", 3, None, ["a", 3], b"a"):
        with pytest.raises(InputError, match="prompts"):
            text_list("prompts", bad)
    for bad in ("7", True, 1.0, None, [1, "7"], 2**64):
        with pytest.raises(InputError, match="seeds"):
            seed_list("seeds", bad)
    with pytest.raises(InputError, match="1 prompts and 2 seeds"):
        generate_videos(backbone, "a red ball", seeds=[1, 2], **SHORT)


@pytest.mark.parametrize("name", ATTACHABLES)
def test_everything_attaches_to_a_pipeline_as_to_its_transformer(name, backbone):
    case, pipe = ATTACHABLES[name](), backbone.pipeline()
    with torch.no_grad():
        before = call(pipe.transformer)
        with case.thing.attach(pipe.transformer) as attached:
            want = case.forward(pipe.transformer, attached)
        with case.thing.attach(pipe) as attached:
            assert torch.equal(case.forward(pipe.transformer, attached), want)
        assert torch.equal(call(pipe.transformer), before)


def test_a_folder_with_a_video_format_makes_a_pipeline_of_this_size(random_folder, tmp_path):
    pipe = WanBackbone.from_pretrained(random_folder).pipeline()
    few = {"num_inference_steps": 1, "guidance_scale": 1.0, "output_type": "pt"}
    first, second = (pipe("a ball", generator=torch.Generator().manual_seed(0), **few).frames for _ in range(2))
    assert first.shape == (1, 9, 3, 32, 32) and torch.equal(first, second)
    assert pipe("a ball", None, 16, num_frames=5, **few).frames.shape == (1, 5, 3, 16, 32)
    stock = WanPipeline.from_pretrained(random_folder)
    size = {"height": 32, "width": 32, "num_frames": 9}
    sized = stock("a ball", **size, generator=torch.Generator().manual_seed(0), **few).frames
    assert torch.equal(first, sized)
    pipe.save_pretrained(tmp_path)
    assert type(DiffusionPipeline.from_pretrained(tmp_path)) is WanPipeline


def test_a_folder_without_one_is_loaded_as_diffusers_does(random_folder, tmp_path):
    shutil.copytree(random_folder, tmp_path, dirs_exist_ok=True)
    (tmp_path / "video_format.json").unlink()
    (tmp_path / "SHA256SUMS").unlink(missing_ok=True)
    assert type(WanBackbone.from_pretrained(tmp_path).pipeline()) is WanPipeline

"""The whole demo, on random weights: it runs, reuses its bank, and compares like with like."""

import csv
import random
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import pytest
import torch
import tyro
from PIL import Image

from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.demo import Demo, main
from memkit.demo.bank import CLIPS
from memkit.demo.demo import START
from memkit.demo.falls import fall_on
from memkit.encoders import FrequencyEncoder, FrequencyEncoderConfig, MemoryGate
from memkit.errors import BankError, InputError
from memkit.report.html import video_uri
from memkit.report.sheet import LABEL_WIDTH, MARGIN
from memkit.video import read_video
from memkit.worlds.constants import PLANETS
from recipes.dit_mem.presets import tiny_falls
from recipes.tiny_wan.demo_clips import DemoClipsConfig, draw, start
from tests.report.test_report import Page, video_of


@pytest.fixture(scope="module")
def done(random_folder, tmp_path_factory) -> Demo:
    """A demo that has run once."""
    torch.manual_seed(1)
    sizes = {"dim": 48, "hidden": 16, "width": 32, "heads": 2, "layers": 1, "norm_groups": 4}
    config = FrequencyEncoderConfig(**sizes, stem_stride=(1, 2, 2), patch=(1, 2, 2))
    encoder = FrequencyEncoder(config).save_pretrained(tmp_path_factory.mktemp("encoder"))
    prompts = ("a red ball falls on planet Mira", 'a "<b>blue</b>" cube & more')
    out = tmp_path_factory.mktemp("out") / "demo"
    demo = Demo(out, prompts, steps=2, guidance_scale=3.0, seed=7, model=random_folder, encoder=encoder)
    assert main(demo) == 0
    return demo


def videos(demo: Demo, folder: Path) -> list[torch.Tensor]:
    page = Page((demo.out / "report.html").read_text(encoding="utf-8"))
    return [video_of(attributes["src"], folder) for attributes in page.all("video")]


def test_it_leaves_a_report_a_sheet_and_a_bank(done, tmp_path):
    page = Page((done.out / "report.html").read_text(encoding="utf-8"))
    assert {f"“{prompt}”" for prompt in done.prompt} <= set(page.texts)
    queries = ["planet Mira", done.prompt[1]]
    assert {f"Memory: found for “{query}”" for query in queries} <= set(page.texts)
    assert len(page.all("td")) == 2 * 2 * 3  # prompts, steps, layers
    assert all(0 < float(cell["title"].split()[-2]) < 100 for cell in page.all("td"))
    shown = videos(done, tmp_path)
    assert [tuple(video.shape) for video in shown] == 2 * (2 * [(9, 64, 64, 3)] + 3 * [(9, 128, 128, 3)])
    assert not torch.equal(shown[0], shown[1])  # memory changes what is made
    sheet = Image.open(done.out / "contact_sheet.png")
    assert sheet.width == 2 * MARGIN + LABEL_WIDTH + 9 * 128 + 8 * 4
    bank = MemoryBank.open(done.out / "bank")
    assert bank.verify().clips == 24 and bank.info["model"] == str(done.model)


def test_without_memory_is_the_stock_pipeline(done, tmp_path):
    """Also for the second prompt, made after memory was attached for the first."""
    pipe = WanBackbone.from_pretrained(str(done.model)).pipeline()
    for prompt, shown in zip(done.prompt, videos(done, tmp_path)[::5], strict=True):
        stock = pipe(
            prompt, height=32, width=32, num_frames=9, num_inference_steps=2, guidance_scale=3.0,
            generator=torch.Generator().manual_seed(7), output_type="pt",
        ).frames[0]  # fmt: skip
        frames = (stock * 255).round().byte().permute(0, 2, 3, 1).contiguous()
        assert torch.equal(shown, video_of(video_uri(frames, 8.0), tmp_path))


def test_a_second_run_reuses_the_bank_and_makes_the_same(done, tmp_path, capsys):
    files = {file: file.stat().st_mtime_ns for file in (done.out / "bank").rglob("*.safetensors")}
    first = videos(done, tmp_path)
    assert files and main(done) == 0
    assert {file: file.stat().st_mtime_ns for file in (done.out / "bank").rglob("*.safetensors")} == files
    assert all(torch.equal(a, b) for a, b in zip(first, videos(done, tmp_path), strict=True))
    said = capsys.readouterr().out
    assert str(done.out / "report.html") in said and all(prompt in said for prompt in done.prompt)


def test_options_change_what_they_say(done, tmp_path):
    one = replace(done, out=tmp_path / "o", prompt=done.prompt[:1], k=1, guidance_scale=1.0, steps=3)
    assert main(one) == 0
    page = Page((one.out / "report.html").read_text(encoding="utf-8"))
    assert len(page.all("td")) == 3 * 3 and len(page.all("video")) == 3  # without guidance each call is a step
    before = videos(one, tmp_path)
    assert main(replace(one, seed=8)) == 0
    after = videos(one, tmp_path)
    assert not torch.equal(before[0], after[0]) and torch.equal(before[2], after[2])


def test_a_bank_that_is_not_the_demos_is_refused(done, random_folder, tmp_path):
    demo = replace(done, out=tmp_path, prompt=done.prompt[:1], steps=1)
    (tmp_path / "model").symlink_to(random_folder)
    demo = replace(demo, model=tmp_path / "model")
    assert main(demo) == 0
    (tmp_path / "model").unlink()
    from tests.helpers.random_wan import write_random_pipeline

    write_random_pipeline(tmp_path / "model", seed=5)
    with pytest.raises(BankError, match="bank is not that of the demo .*other weights.*delete"):
        main(demo)
    (tmp_path / "model2").symlink_to(random_folder)
    with pytest.raises(BankError, match="made with model"):
        main(replace(demo, model=tmp_path / "model2"))
    bank = MemoryBank.open(tmp_path / "bank")
    bank.add("another", bank.clip(bank.ids[0]).latents, "a clip of the user's")
    with pytest.raises(BankError, match="another origin"):
        main(demo)


def test_what_cannot_be_used_is_named(done, tmp_path):
    for wrong, match in (
        ({"steps": 0}, "--steps is 0"),
        ({"k": 0}, "k is 0"),
        ({"prompt": (" ",)}, "blank"),
        ({"query_pattern": "("}, "pattern"),
        ({"planets": ("Mira", "Earth")}, "Earth.*Mira"),
    ):
        with pytest.raises(InputError, match=match):
            main(replace(done, **wrong))
    for option in ("model", "encoder"):
        with pytest.raises(InputError, match=f"{tmp_path / 'none'}.*--{option}"):
            main(replace(done, **{option: tmp_path / "none"}))


def test_a_gate_beside_the_encoder_is_used(done, tmp_path):
    encoder = Path(shutil.copytree(str(done.encoder), tmp_path / "encoder"))
    shut = FrequencyEncoder.from_pretrained(encoder)
    shut.gate = MemoryGate(3, 2)  # memory adds nothing
    shut.save_pretrained(encoder)
    gated = replace(done, encoder=encoder, out=tmp_path / "out")
    assert main(gated) == 0
    without, with_memory = videos(gated, tmp_path)[:2]
    assert torch.equal(without, with_memory)


def test_the_demo_samples_as_the_recipe_measures():
    recipe, demo = tiny_falls(), Demo()
    assert demo.k == recipe.k and recipe.image_cond_prob == 1.0  # the demo's own prompts have a first frame
    assert (demo.steps, demo.guidance_scale) == (recipe.sampling_steps, recipe.guidance_scale)


def test_the_command_line():
    assert tyro.cli(Demo, args=[]) == Demo()
    arguments = ["--prompt", "a", "--prompt", "b c", "-k", "2", "--guidance-scale", "1.5", "--out", "x", "--seed", "3"]
    assert tyro.cli(Demo, args=arguments) == Demo(out=Path("x"), prompt=("a", "b c"), k=2, guidance_scale=1.5, seed=3)


def test_help_does_not_wait_for_torch():
    code = "import sys, memkit.demo; assert not {'torch', 'diffusers', 'av', 'PIL'} & set(sys.modules)"
    subprocess.run([sys.executable, "-c", code], check=True)


def test_the_shipped_clips_are_those_of_the_recipe():
    laws = draw(DemoClipsConfig())
    with open(CLIPS / "captions.csv", newline="", encoding="utf-8") as file:
        rows = list(csv.DictReader(file))
    assert {row["video"]: row["caption"] for row in rows} == {name: law.caption for name, law in laws.items()}
    assert {path.name for path in CLIPS.glob("*.mp4")} == laws.keys() and len({row["source"] for row in rows}) == 24
    assert sum(path.stat().st_size for path in CLIPS.iterdir()) < 1_500_000
    for name in random.Random(0).sample(sorted(laws), 4):
        video, truth = read_video(CLIPS / name), laws[name].video()
        assert video.fps == 8 and video.frames.shape == truth.shape == (17, 64, 64, 3)
        assert (video.frames.float() - truth).square().mean() < 255**2 / 10**3.2  # 32 dB


def test_the_first_frame_is_that_of_the_recipe_and_shows_what_the_prompts_say():
    assert torch.equal(read_video(START).frames[0], start())
    assert all(prompt.startswith("a large red ivorine ball falls in a meadow") for prompt in PROMPTS)


def test_a_picture_begins_every_video(done, random_folder, tmp_path):
    demo = replace(done, out=tmp_path / "demo", image=START, prompt=done.prompt[:1])
    assert main(demo) == 0
    first, second = (video[0].float() for video in videos(demo, tmp_path)[:2])
    assert (first - second).abs().max() <= 8  # up to h264
    without = videos(done, tmp_path)[0][0].float()
    assert (first - without).abs().mean() > 8


PROMPTS = [fall_on(planet).caption for planet in Demo().planets]


def test_the_prompts_are_of_unseen_planets_and_no_clip_of_the_bank():
    captions = (CLIPS / "captions.csv").read_text(encoding="utf-8")
    assert len(set(PROMPTS)) == 3 and not any(prompt in captions for prompt in PROMPTS)
    assert all(prompt.split()[-1] in PLANETS["test"] for prompt in PROMPTS)

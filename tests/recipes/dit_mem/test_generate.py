"""The recipe's command lines and generation, and that the presets for real models build."""

from __future__ import annotations

import dataclasses
import json
import math
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

from memkit.backbones import PRESETS as WAN_PRESETS
from memkit.banks import MemoryBank
from memkit.encoders import FrequencyEncoder, make_encoder
from memkit.errors import InputError
from memkit.injectors import SelfAttentionConcat
from memkit.video import read_video, write_video
from recipes.dit_mem import generate, prepare
from recipes.dit_mem.generate import Generate
from recipes.dit_mem.memories import find
from recipes.dit_mem.parts import load_backbone, new_encoder
from recipes.dit_mem.prepare import Prepare
from recipes.dit_mem.presets import PRESETS, Command, Config, parse, tiny


@pytest.fixture(scope="module")
def config(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Config:
    """Banks of a few clips, and an encoder that was not trained (behind a new gate nothing of it would be seen)."""
    out = tmp_path_factory.mktemp("run")
    config = dataclasses.replace(
        tiny(),
        model=str(random_folder),
        out=out,
        gate=False,
        sampling_steps=2,
        train_clips=12,
        test_clips=48,
    )
    assert prepare.main(Prepare(config)) == 0
    backbone = load_backbone(config)
    new_encoder(config, backbone).save_pretrained(config.encoder_folder)
    return config


def _generate(config: Config, folder: Path, **options) -> list[Path]:
    options = {"bank": config.test_bank, "videos_to": folder, **options}
    assert generate.main(Generate(config, **options)) == 0
    return sorted(folder.glob("*.mp4"))


# -- presets and command lines


def test_a_flag_replaces_one_field_of_the_preset() -> None:
    got = parse(Command, "", ["--preset", "wan2.2-5b", "--steps", "3", "--model", "here", "--encoder", "patch"]).config
    preset = PRESETS["wan2.2-5b"]()
    assert got == dataclasses.replace(preset, steps=3, model="here", encoder="patch")
    assert parse(Generate, "", ["--memory", "none", "--prompts", "a", "b c"]).prompts == ("a", "b c")
    assert parse(Command, "", []).config == tiny()


@pytest.mark.parametrize(("name", "wan"), [("wan2.1-1.3b", "wan2.1-t2v-1.3b"), ("wan2.2-5b", "wan2.2-ti2v-5b")])
def test_presets_of_real_models_build_and_their_parts_fit(name: str, wan: str) -> None:
    config, model = PRESETS[name](), WAN_PRESETS[wan]()
    with torch.device("meta"):
        transformer = WanTransformer3DModel(**model.transformer)
        encoder = make_encoder(config.encoder, config.encoder_size)
    assert isinstance(encoder, FrequencyEncoder)
    assert encoder.config.dim == transformer.config.num_attention_heads * transformer.config.attention_head_dim
    assert encoder.config.latent_channels == transformer.config.in_channels
    made, stride = model.video_format, 16 if name.endswith("5b") else 8
    latent = ((made.num_frames - 1) // 4 + 1, made.height // stride, made.width // stride)
    per_clip = math.prod(
        math.ceil(math.ceil(n / s) / p)
        for n, s, p in zip(latent, encoder.config.stem_stride, encoder.config.patch, strict=True)
    )
    tokens = math.prod(latent) // 4
    assert 2 * per_clip * config.k < 0.05 * tokens  # memory is a small part of what the video has itself
    with torch.device("meta"), torch.no_grad():
        clips = torch.empty(1, config.k, encoder.config.latent_channels, *latent)
        memory = encoder(clips)
        one_layer = WanTransformer3DModel(**{**model.transformer, "num_layers": 1})
        with SelfAttentionConcat(memory).attach(one_layer):
            out = one_layer(clips[:, 0], torch.empty(1), torch.empty(1, 512, 4096), return_dict=False)[0]
    assert memory.tokens.shape == (1, 2 * per_clip * config.k, encoder.config.dim) and out.shape == clips[:, 0].shape


def test_a_preset_of_the_release() -> None:
    config = PRESETS["wan2.1-1.3b"]()
    assert (config.k, config.pool, config.lr, config.shift, config.weighting) == (5, 5, 1e-5, 5.0, "bell")
    assert (config.sampling_steps, config.guidance_scale, config.flow_shift, config.seed) == (40, 5.0, 5.0, 42)
    assert config.self_memory_prob == config.drop_clip == config.drop_text == 0 and config.query_pattern == ""


# -- prepare


def test_your_own_videos(config, tmp_path) -> None:
    write_video(tmp_path / "a.mp4", torch.randint(0, 255, (9, 32, 32, 3), dtype=torch.uint8), 8.0)
    (tmp_path / "captions.csv").write_text("video,caption\na.mp4,noise\nmissing.mp4,nothing\n")
    mine = dataclasses.replace(config, out=tmp_path / "run")
    command = Prepare(mine, videos=tmp_path, captions=tmp_path / "captions.csv")
    assert prepare.main(command) == 1  # one is missing
    assert prepare.main(dataclasses.replace(command, skip_bad=True)) == 0
    assert MemoryBank.open(mine.bank).ids == ["a.mp4"]
    with pytest.raises(InputError, match="together"):
        prepare.main(Prepare(mine, videos=tmp_path))


# -- generate


def test_a_picture_begins_every_video(config, tmp_path) -> None:
    picture = torch.zeros(1, 32, 32, 3, dtype=torch.uint8)
    picture[:, :16] = 255
    write_video(tmp_path / "first.mp4", picture, 8.0)
    free = _generate(config, tmp_path / "free", prompts=("a", "b"), memory="none")
    made = _generate(config, tmp_path / "given", prompts=("a", "b"), memory="none", image=tmp_path / "first.mp4")
    begins = [read_video(path).frames[0].float() for path in (*made, *free)]
    assert (begins[0] - begins[1]).abs().mean() < 4 < (begins[0] - begins[2]).abs().mean()
    write_video(tmp_path / "first.mp4", 255 - picture, 8.0)
    with pytest.raises(InputError, match="image"):
        _generate(config, tmp_path / "given", prompts=("a", "b"), memory="none", image=tmp_path / "first.mp4")
    with pytest.raises(InputError, match="picture"):
        _generate(config, tmp_path / "other", prompts=("a",), memory="none", image=tmp_path / "none.png")


def test_one_video_and_its_facts_a_prompt_and_nothing_twice(config, tmp_path, capsys) -> None:
    bank, config = MemoryBank.open(config.test_bank), dataclasses.replace(config, videos_at_once=1)  # batches round
    prompts = tuple(bank.captions[:3])
    made = _generate(config, tmp_path, prompts=prompts)
    assert len(made) == 3 and read_video(made[0]).frames.shape == (9, 32, 32, 3)
    facts = [json.loads(path.with_suffix(".json").read_text()) for path in made]
    assert {fact["prompt"] for fact in facts} == set(prompts)
    assert all(len(fact["hits"]) == config.k and fact["seed"] == config.seed for fact in facts)
    assert facts[0]["hits"][0]["caption"] in bank.captions and facts[0]["settings"]["memory"] == "retrieved"

    made[1].with_suffix(".json").unlink()  # an interrupted one
    before = [path.read_bytes() for path in made]
    changed = made[0].stat().st_mtime_ns
    assert [path.read_bytes() for path in _generate(config, tmp_path, prompts=prompts)] == before
    assert "1 video to generate, 2 exist already" in capsys.readouterr().err
    assert made[0].stat().st_mtime_ns == changed


def test_a_video_made_in_another_way_is_not_overwritten(config, tmp_path) -> None:
    prompt = (MemoryBank.open(config.test_bank).captions[0],)
    (made,) = _generate(config, tmp_path, prompts=prompt, memory="none")
    before = made.read_bytes()
    for other in (dataclasses.replace(config, seed=1), dataclasses.replace(config, guidance_scale=1.0)):
        with pytest.raises(InputError, match="seed|guidance_scale"):
            _generate(other, tmp_path, prompts=prompt, memory="none")
    with pytest.raises(InputError, match="memory"):
        _generate(config, tmp_path, prompts=prompt, memory="random")
    assert made.read_bytes() == before


def test_no_memory_needs_no_bank_and_differs(config, tmp_path) -> None:
    prompt = (MemoryBank.open(config.test_bank).captions[0],)
    nowhere = dataclasses.replace(config, out=tmp_path / "nowhere")
    (plain,) = _generate(nowhere, tmp_path / "none", prompts=prompt, memory="none", bank=None)
    (shown,) = _generate(config, tmp_path / "shown", prompts=prompt)
    (chance,) = _generate(config, tmp_path / "random", prompts=prompt, memory="random")
    assert len({path.read_bytes() for path in (plain, shown, chance)}) == 3


def test_a_prompt_from_a_file_never_gets_its_own_clip(config, tmp_path) -> None:
    bank = MemoryBank.open(config.test_bank)
    file = tmp_path / "prompts.csv"
    file.write_text(f"Video,caption\n{bank.ids[0]}.mp4,{bank.captions[0]}\n", encoding="utf-8-sig")
    config = dataclasses.replace(config, query_pattern="")
    (made,) = _generate(config, tmp_path / "videos", csv=file)
    assert made.name == f"{bank.ids[0]}.mp4"
    hits = [hit["id"] for hit in json.loads(made.with_suffix(".json").read_text())["hits"]]
    assert bank.ids[0] not in hits and len(hits) == config.k
    assert find(config, bank, bank.captions[:1], "retrieved")[0].ids[0] == bank.ids[0]  # it would come first


def test_prompts_that_cannot_be_used_are_listed_and_the_others_generated(config, tmp_path, capsys) -> None:
    file = tmp_path / "prompts.csv"
    file.write_text("video,caption\nx/1.mp4,a ball\nx/2.mp4,\ny/1.mp4,a cube\n")
    command = Generate(config, csv=file, memory="none", videos_to=tmp_path / "videos")
    assert generate.main(command) == 1
    assert f"{file}, line 3: it is blank" in capsys.readouterr().err
    assert len(list((tmp_path / "videos").glob("1-*.mp4"))) == 2
    assert generate.main(dataclasses.replace(command, skip_bad=True)) == 0
    assert "0 videos to generate, 2 exist already" in capsys.readouterr().err

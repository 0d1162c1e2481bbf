"""The training of tiny-wan: its shortcuts are exact, it resumes to the bit, and what it writes is a stock pipeline."""

import json
import random
from dataclasses import replace

import pytest
import torch
from diffusers import WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from memkit.backbones import WanBackbone
from memkit.errors import InputError
from memkit.flow import flow_loss
from memkit.generation.short_text import short_text
from memkit.training import train_tokenizer
from memkit.worlds.captions import vary_caption
from memkit.worlds.clip_set import ClipSet, ClipSetConfig, render_clip_set
from recipes.tiny_wan import batches, data, evaluate, ship, transformer, vae
from recipes.tiny_wan.__main__ import TinyWanConfig, main
from recipes.tiny_wan.batches import Batch
from recipes.tiny_wan.model import TextAndVideo, flow_losses, write_pipeline
from recipes.tiny_wan.stages import FALLS, Stage, TransformerConfig, schedule


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("worlds")
    render_clip_set(ClipSetConfig(out=folder, laws=3, interruptions=2, rooms=1, workers=1))
    return folder


def test_the_hook_before_the_clamp_gives_what_decode_gives_inside_the_range():
    torch.manual_seed(0)
    model = vae.build()
    video = torch.rand(1, 3, 5, 32, 32) - 0.5
    with torch.no_grad():
        out, latents = vae.reconstruct(model, video)
        assert torch.equal(out.clamp(-1, 1), model.decode(latents).sample)


SMALL_VAE = vae.VAEConfig(
    base_dim=8, frame_steps=2, video_steps=2, decoder_steps=2, frame_batch=2, video_batch=1, save_every=3
)


def test_the_autoencoder_resumes_to_the_bit_and_freezes_its_latents(clips, tmp_path):
    straight = replace(SMALL_VAE, data=clips, held_out=clips, out=tmp_path / "a")
    vae.main(straight)
    state = torch.load(straight.out / "checkpoint.pt", weights_only=True)
    stopped = replace(straight, out=tmp_path / "b")
    with pytest.MonkeyPatch.context() as patch:  # the machine stops after the first checkpoint
        patch.setattr(vae, "train_step", _stop_at(4, vae.train_step, 4))
        with pytest.raises(KeyboardInterrupt):
            vae.main(stopped)
    vae.main(stopped)
    again = torch.load(stopped.out / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(again["vae"][n], value) for n, value in state["vae"].items())
    assert (straight.out / "config.json").read_text() == (stopped.out / "config.json").read_text()
    steps = [json.loads(line)["step"] for line in (stopped.out / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))
    with pytest.raises(InputError, match="muon_lr .0.01 before, 0.02 now"):
        vae.main(replace(stopped, muon_lr=0.02))


def _stop_at(step, function, position):
    def stopping(*args):
        if args[position] == step:
            raise KeyboardInterrupt
        return function(*args)

    return stopping


STAGES = (
    Stage(2, (1.0, 1.0), laws_alone=True, conditioning_prob=0.0),
    Stage(3, (1.0, 0.1), conditioning_prob=0.5),
)


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    vae.main(replace(SMALL_VAE, data=clips, held_out=clips, out=folder / "vae"))
    return TransformerConfig(
        data=clips, vae=folder / "vae", out=folder / "transformer", heads=2, head_dim=24, ffn_dim=64, layers=2,
        text_dim=32, stages=STAGES, batch=2, save_every=3,
    )  # fmt: skip


def test_the_transformer_resumes_to_the_bit(trained, tmp_path):
    straight, tokenizer = transformer.train(trained)
    stopped = replace(trained, out=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer.Run, "step", _stop_at(4, transformer.Run.step, 1))
        with pytest.raises(KeyboardInterrupt):
            transformer.train(stopped)
    again, _ = transformer.train(stopped)
    for name, value in straight.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    folder = write_pipeline(trained, straight, tokenizer)
    pipe = WanPipeline.from_pretrained(folder)
    frames = pipe("a red ball falls", height=64, width=64, num_frames=17, num_inference_steps=1).frames
    assert frames.shape == (1, 17, 64, 64, 3)
    assert WanBackbone.from_pretrained(folder).video_format.num_frames == 17


def test_one_padding_token_with_a_weight_is_the_pipelines_padding(trained):
    torch.manual_seed(0)
    model = TextAndVideo(trained, 300).eval()
    tokens = torch.randint(2, 300, (2, trained.text_length))
    mask = torch.arange(trained.text_length)[None] < torch.tensor([[4], [9]])
    latents, timestep = torch.randn(2, 16, 2, 4, 4), torch.tensor([900.0, 100.0])
    with torch.no_grad():
        with short_text(model.transformer, trained.text_length):
            short = model(latents, timestep, tokens, mask.long())
        assert type(model.transformer.blocks[0].attn2.processor) is WanAttnProcessor
        text = model.text_encoder(tokens, mask.long()).last_hidden_state * mask[..., None]
        padded = torch.cat([text, torch.zeros(2, 512 - trained.text_length, text.shape[2])], 1)
        torch.testing.assert_close(short, model.transformer(latents, timestep, padded, return_dict=False)[0])


def test_captions_keep_what_is_needed_and_often_leave_out_the_rest(clips):
    rows, rng = ClipSet(clips).rows, random.Random(0)
    for row in rows:
        varied = [vary_caption(row["parts"], rng) for _ in range(300)]
        for text, needed, name in row["parts"]:
            if name is None:
                share = sum(text in caption for caption in varied) / len(varied)
                assert share == 1.0 if needed else 0.7 < share < 0.9
            else:
                share = sum(name in caption for caption in varied) / len(varied)
                assert 0.7 < share < 0.9 if needed else 0.54 < share < 0.74  # a fifth of the names is made up


def test_the_loss_is_plain_flow_matching_without_the_conditioning_frames(trained):
    torch.manual_seed(0)
    model = TextAndVideo(trained, 300).eval()
    tokens = torch.randint(2, 300, (2, trained.text_length))
    x0, noise, sigma = torch.randn(2, 16, 3, 4, 4), torch.randn(2, 16, 3, 4, 4), torch.tensor([0.9, 0.3])

    def loss(conditioning_frames, noise=noise, x0=x0):
        batch = Batch([0, 1], tokens, torch.ones_like(tokens), sigma, torch.tensor(conditioning_frames))
        return flow_losses(trained, model, x0, noise, batch)

    with torch.no_grad():
        noisy = (1 - sigma.view(-1, 1, 1, 1, 1)) * x0 + sigma.view(-1, 1, 1, 1, 1) * noise
        with short_text(model.transformer, trained.text_length):
            velocity = model(noisy, sigma * 1000, tokens, torch.ones_like(tokens))
        torch.testing.assert_close(loss([0, 0]), flow_loss(velocity, x0, noise))
        other = noise.clone()
        other[:, :, :2] = 7.0  # the noise of conditioning frames is neither input nor target
        torch.testing.assert_close(loss([2, 2], other), loss([2, 2]))
        assert not torch.allclose(loss([1, 2], other)[0], loss([1, 2])[0])
        torch.testing.assert_close(loss([0, 1])[0], loss([0, 0])[0])  # one timestep per token equals one for all
        changed = x0.clone()
        changed[:, :, 0] += 1.0  # the model sees the conditioning frames
        assert not torch.allclose(loss([1, 1], x0=changed), loss([1, 1]))


def test_conditioning_frames_have_their_probability_and_a_batch_depends_on_its_step_only(trained, clips):
    rows = ClipSet(clips).rows
    tokenizer = train_tokenizer([row["caption"] for row in rows])
    config = replace(trained, batch=4, stages=(Stage(200, (1.0, 1.0), conditioning_prob=0.4),))
    drawn = [batches.batch(config, step, rows, tokenizer) for step in range(200)]
    assert 0.3 < sum(bool(d.conditioning_frames.any()) for d in drawn) / 200 < 0.5
    assert {int(n) for d in drawn for n in d.conditioning_frames} == {0, 1, 2, 3}
    only_laws = Stage(40, (1.0, 1.0), laws_alone=True, conditioning_prob=0.0)
    laws = replace(config, stages=(only_laws, *config.stages))
    first = [batches.batch(laws, step, rows, tokenizer) for step in range(41)]
    assert not any(d.conditioning_frames.any() for d in first[:40])
    assert {i for d in first[:40] for i in d.index} == {0, 1, 2}
    assert {i for d in drawn for i in d.index} == set(range(6))
    again = batches.batch(config, 3, rows, tokenizer)
    assert again.index == drawn[3].index and torch.equal(again.tokens, drawn[3].tokens)


def test_falls_come_alone_or_in_their_share(trained, clips):
    rows = ClipSet(clips).rows
    rows[1], rows[2] = {**rows[1], "kind": "toss"}, {**rows[2], "kind": "drop"}
    rows[4] = {**rows[4], "kind": "drop"}  # of another suite: seen in the dark, it teaches nothing of a planet
    falls = {i for i in range(3) if rows[i]["kind"] in FALLS}
    tokenizer = train_tokenizer([row["caption"] for row in rows])
    alone = Stage(30, (1.0, 1.0), falls=1.0, conditioning_prob=0.5, max_conditioning_frames=1, shift=8.0)
    mixed = Stage(100, (1.0, 1.0), falls=0.6, conditioning_prob=0.0)
    config = replace(trained, batch=4, stages=(alone, mixed))
    drawn = [batches.batch(config, step, rows, tokenizer) for step in range(130)]
    assert {i for batch in drawn[:30] for i in batch.index} == falls
    assert {int(n) for batch in drawn[:30] for n in batch.conditioning_frames} == {0, 1}
    last = [i for batch in drawn[30:] for i in batch.index]
    expected = 0.6 + 0.4 * len(falls) / 6
    assert abs(sum(i in falls for i in last) / len(last) - expected) < 0.1 and set(last) == set(range(6))
    high, usual = (torch.cat([batch.sigma for batch in some]).median() for some in (drawn[:30], drawn[30:]))
    assert abs(high - 8 / 9) < 0.05 and abs(usual - 2 / 3) < 0.05  # of the middle of a uniform draw
    after = replace(config, stages=(alone, replace(mixed, steps=1)))
    assert batches.batch(after, 7, rows, tokenizer).index == drawn[7].index  # a stage knows nothing of the next


def test_rates_are_linear_in_each_stage_after_a_warm_up():
    stages = (Stage(100, (1.0, 1.0)), Stage(200, (1.0, 0.0)), Stage(50, (0.5, 0.5)))
    config = TransformerConfig(stages=stages, warmup=50)
    rates = [schedule(config, step) for step in range(config.steps)]
    assert rates[0] == 0.02 and rates[50] == rates[100] == 1.0 and rates[200] == 0.5 and len(rates) == 350
    assert set(rates[300:]) == {0.5} and 0 < rates[299] < 0.01
    with pytest.raises(IndexError):
        schedule(config, 350)


def test_one_command_goes_from_the_worlds_to_the_weights_and_then_has_nothing_left_to_do(tmp_path, capsys):
    config = TinyWanConfig(
        out=tmp_path / "run",
        workers=1,
        train=data.DataConfig(laws=2, interruptions=1, rooms=1),
        test=data.DataConfig(split="test", laws=1, interruptions=1, rooms=1),
        vae=replace(SMALL_VAE, frame_steps=1, video_steps=1, decoder_steps=1),
        transformer=TransformerConfig(
            heads=2, head_dim=24, ffn_dim=64, layers=2, text_dim=32, stages=STAGES[:1], batch=2
        ),
        evaluate=evaluate.EvaluateConfig(prompts=3, known_planets=2, continued=2, steps=1),
    )
    main(config)
    said = capsys.readouterr().out
    assert all(f"{name}: about " in said for name in ("clips of the train split", "autoencoder", "transformer"))
    files = ["evaluation/figures.json", "transformer/checkpoint.pt", "vae/checkpoint.pt", "worlds/laws.npy"]
    before = [(config.out / file).stat().st_mtime_ns for file in files]
    figures = json.loads((config.out / "evaluation" / "figures.json").read_text())
    assert figures["named body"]["on rendered truth"][0] == 1.0 and figures["named body"]["found"][0] < 1.0
    main(config)
    assert [(config.out / file).stat().st_mtime_ns for file in files] == before
    assert "steps of" not in capsys.readouterr().out
    (tmp_path / "docs").mkdir()
    ship.main(ship.ShipConfig("a machine", config.out, tmp_path / "shipped", tmp_path / "docs"))
    page = (tmp_path / "docs" / "tiny-wan.md").read_text()
    assert f"{figures['named body']['found'][0]:.2f}" in page and "{" not in page
    assert "a machine" in (tmp_path / "shipped" / "README.md").read_text()
    assert (tmp_path / "docs" / "tiny-wan-samples.png").exists()
    assert WanBackbone.from_pretrained(tmp_path / "shipped").video_format.num_frames == 17


def test_any_text_has_tokens_and_the_empty_one_has_its_end():
    tokenizer = train_tokenizer(["a red ball falls", "a blue cube falls"])
    assert tokenizer("").input_ids == [1]
    assert len(tokenizer("a red ball falls").input_ids) == 5
    assert tokenizer.decode(tokenizer("Ünïcode ≠ seen").input_ids, skip_special_tokens=True).strip() == "Ünïcode ≠ seen"

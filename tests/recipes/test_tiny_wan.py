"""The training of tiny-wan: its shortcuts are exact, it resumes to the bit, and what it writes is a stock pipeline."""

import json
import random
from dataclasses import replace

import pytest
import torch
from diffusers import WanPipeline
from diffusers.models.transformers.transformer_wan import WanAttnProcessor

from memkit.backbones import WanBackbone
from recipes.padded_text import short_text
from recipes.tiny_wan import data, transformer, vae
from recipes.tiny_wan.captions import train_tokenizer, vary_caption
from recipes.tiny_wan.initialise import initialise
from recipes.tiny_wan.optim import orthogonalise
from recipes.training import RunLog


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    folder = tmp_path_factory.mktemp("laws")
    data.main(data.DataConfig(out=folder, clips=20, workers=1))
    return folder


def test_clips_can_be_made_again_one_by_one(clips):
    videos, rows = data.load(clips)
    config = data.DataConfig(out=clips, clips=20)
    for i in (0, 13):
        law = data.draw(config, i)
        assert rows[i]["caption"] == law.caption
        assert (videos[i] == law.video().numpy()).all()


def test_an_initialised_autoencoder_already_treats_a_still_video_as_one_frame():
    torch.manual_seed(0)
    model = vae.build()
    initialise(model)
    image = torch.rand(1, 3, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        one = model.encode(image).latent_dist.mode()
        still = model.encode(image.expand(-1, -1, 9, -1, -1)).latent_dist.mode()
    correlation = torch.nn.functional.cosine_similarity(still[:, :, -1].flatten(), one.flatten(), dim=0)
    assert correlation > 0.9


def test_orthogonalise_moves_all_singular_values_near_one():
    for shape in ((20, 50), (50, 20)):
        values = torch.linalg.svdvals(orthogonalise(torch.randn(shape)))
        assert ((values > 0.5) & (values < 1.4)).all()


def test_the_hook_before_the_clamp_gives_what_decode_gives_inside_the_range():
    torch.manual_seed(0)
    model = vae.build()
    video = torch.rand(1, 3, 5, 32, 32) - 0.5
    with torch.no_grad():
        out, latents = vae.reconstruct(model, video)
        assert torch.equal(out.clamp(-1, 1), model.decode(latents).sample)


SMALL_VAE = vae.VAEConfig(frame_steps=2, video_steps=2, decoder_steps=2, frame_batch=2, video_batch=1, save_every=3)


def test_the_autoencoder_resumes_to_the_bit_and_freezes_its_latents(clips, tmp_path):
    straight = replace(SMALL_VAE, data=clips, out=tmp_path / "a")
    vae.main(straight)
    state = torch.load(straight.out / "checkpoint.pt", weights_only=True)
    stopped = replace(straight, out=tmp_path / "b")
    with pytest.MonkeyPatch.context() as patch:  # the machine stops after the first checkpoint
        patch.setattr(vae, "batch", _stop_at(4, vae.batch, 2))
        with pytest.raises(KeyboardInterrupt):
            vae.main(stopped)
    vae.main(stopped)
    again = torch.load(stopped.out / "checkpoint.pt", weights_only=True)
    assert all(torch.equal(again["vae"][n], value) for n, value in state["vae"].items())
    assert (straight.out / "config.json").read_text() == (stopped.out / "config.json").read_text()
    steps = [json.loads(line)["step"] for line in (stopped.out / "log.jsonl").read_text().splitlines()]
    assert steps == sorted(set(steps))


def _stop_at(step, function, position):
    def stopping(*args):
        if args[position] == step:
            raise KeyboardInterrupt
        return function(*args)

    return stopping


@pytest.fixture(scope="module")
def trained(clips, tmp_path_factory):
    folder = tmp_path_factory.mktemp("tiny")
    vae.main(replace(SMALL_VAE, data=clips, out=folder / "vae"))
    return transformer.TransformerConfig(
        data=clips, vae=folder / "vae", out=folder / "transformer", heads=2, head_dim=24, ffn_dim=64, layers=2,
        text_dim=32, steps=5, batch=2, save_every=3,
    )  # fmt: skip


def test_the_transformer_resumes_to_the_bit(trained, tmp_path):
    straight, tokenizer = transformer.train(trained)
    stopped = replace(trained, out=tmp_path)
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(transformer, "batch", _stop_at(4, transformer.batch, 1))
        with pytest.raises(KeyboardInterrupt):
            transformer.train(stopped)
    again, _ = transformer.train(stopped)
    for name, value in straight.state_dict().items():
        assert torch.equal(again.state_dict()[name], value), name
    folder = transformer.write_pipeline(trained, straight, tokenizer)
    pipe = WanPipeline.from_pretrained(folder)
    frames = pipe("a red ball falls", height=64, width=64, num_frames=17, num_inference_steps=1).frames
    assert frames.shape == (1, 17, 64, 64, 3)
    assert WanBackbone.from_pretrained(folder).video_format.num_frames == 17


def test_one_padding_token_with_a_weight_is_the_pipelines_padding(trained):
    torch.manual_seed(0)
    model = transformer.TextAndVideo(trained, 300).eval()
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


def test_captions_always_name_colour_and_shape_and_often_leave_out_the_rest(clips):
    rows, rng = data.load(clips)[1], random.Random(0)
    captions = [(row, vary_caption(row, rng)) for row in rows for _ in range(20)]
    assert all({row["colour"], row["shape"]} <= set(text.split()) for row, text in captions)
    assert 0.15 < sum(row["size"] not in text for row, text in captions) / len(captions) < 0.25
    named = sum(row["planet"] in text for row, text in captions) / len(captions)
    assert 0.5 < named < 0.7


def test_any_text_has_tokens_and_the_empty_one_has_its_end():
    tokenizer = train_tokenizer(["a red ball falls", "a blue cube falls"])
    assert tokenizer("").input_ids == [1]
    assert len(tokenizer("a red ball falls").input_ids) == 5
    assert tokenizer.decode(tokenizer("Ünïcode ≠ seen").input_ids, skip_special_tokens=True).strip() == "Ünïcode ≠ seen"


def test_the_log_drops_what_came_after_the_checkpoint(tmp_path):
    log = RunLog(tmp_path, "run", 0, 6)
    for step in range(5):
        log.step({"step": step})
    log.close()
    log = RunLog(tmp_path, "run", 3, 6)
    log.step({"step": 3})
    log.close()
    assert [json.loads(line)["step"] for line in (tmp_path / "log.jsonl").read_text().splitlines()] == [0, 1, 2, 3]

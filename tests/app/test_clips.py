"""A prompt's pair: stock without memory, the injector's own videos with it, attention that adds up, and a real stop."""

from __future__ import annotations

import pytest
import torch

from memkit.app.clip_attention import ClipAttention
from memkit.app.clips import EXAMPLES, Clips
from memkit.app.pair_view import attention_html, hits_html, pair_html
from memkit.app.stop import Stopped, Switch
from memkit.backbones import WanBackbone
from memkit.banks import MemoryBank
from memkit.encoders import FrequencyEncoder, FrequencyEncoderConfig, MemoryGate
from memkit.errors import InputError
from memkit.generation import generate_video
from memkit.injectors import AttentionRecorder, SelfAttentionConcat
from memkit.memory import Memory
from memkit.video import read_clip

STEPS = 2


@pytest.fixture(scope="module")
def clips(tmp_path_factory):
    """tiny-wan, and a bank of two of the demo's clips, which takes a second to build."""
    from memkit.demo.bank import CLIPS
    from memkit.video.pixels import to_model

    backbone = WanBackbone.tiny()
    with MemoryBank.create(tmp_path_factory.mktemp("app") / "bank", info={"fps": 8.0, "num_frames": 17}) as bank:
        for planet in ("mira", "sol"):
            latents = backbone.encode_video(to_model(read_clip(CLIPS / f"{planet}-0.mp4", 8.0, 17)))[0]
            bank.add(f"{planet}-0.mp4", latents, f"a large blue ivorine ball falls on planet {planet.title()}")
        encoder = FrequencyEncoder.from_pretrained("dit-mem-tiny-falls")
        yield Clips(backbone, encoder, bank, STEPS, 1.0)


def test_a_pair_is_the_stock_video_and_that_of_the_injector(clips):
    done = []
    pair = clips.generate_pair(EXAMPLES[0], k=1, seed=3, report=done.append)
    assert pair.query == "planet Mira" and pair.hits[0].id == "mira-0.mp4"
    assert done == [i / (2 * STEPS) for i in range(2 * STEPS)]
    plain = {"seed": 3, "steps": STEPS, "guidance_scale": 1.0, "conditioning_latents": clips.start, "text_length": 128}
    assert torch.equal(pair.without, generate_video(clips.backbone, EXAMPLES[0], **plain))
    recorder = AttentionRecorder()
    with torch.no_grad():
        memory = clips.encoder(clips.bank.latents(["mira-0.mp4"]))
        with SelfAttentionConcat(memory, recorder).attach(clips.backbone):
            assert torch.equal(pair.with_memory, generate_video(clips.backbone, EXAMPLES[0], **plain))
    assert 0 < pair.changed < 1 and pair.attention.shape == (5, 4, 4, 1, 5)
    assert pair.attention.sum((3, 4)).mean().item() == pytest.approx(recorder.shares().mean().item(), rel=1e-4)
    assert pair.gravity is not None and pair.gravity.truth == 2.7
    shown = pair_html(pair, 8.0) + hits_html(pair.query, pair.hits, 8.0) + attention_html(pair)
    assert shown.count("<video") == 3 and shown.count("<tr>") == 2 and "nan" not in shown.split("base64")[-1]


@pytest.mark.parametrize("gated", [False, True])
def test_the_shares_of_clips_add_up_to_those_of_a_recorder(random_folder, gated):
    backbone, recorder = WanBackbone.from_pretrained(random_folder), AttentionRecorder()
    tokens = torch.randn(1, 2 * 2 * 3 * 4, 48, generator=torch.Generator().manual_seed(0))
    gate = MemoryGate(3, 2)
    torch.nn.init.constant_(next(gate.parameters()), 0.5)
    memory = Memory(tokens, gate=gate() if gated else None)
    latents, time = torch.randn(1, 16, 3, 4, 4), torch.tensor([500.0])
    text = torch.zeros(1, 4, backbone.transformer.config.text_dim)
    shown = ClipAttention(memory, clips=2, moments=3)
    with torch.no_grad():
        with SelfAttentionConcat(memory, recorder).attach(backbone):
            expected = backbone.velocity(latents, time, text)
        with shown.attach(backbone):
            assert torch.equal(backbone.velocity(latents, time, text), expected)
    assert shown.shares().shape == (3 * 2 * 2, 2, 3)
    assert shown.shares().sum((1, 2)).mean().item() == pytest.approx(recorder.shares().mean().item(), rel=1e-4)


def test_a_stop_ends_the_sampling_and_leaves_the_model_as_it_was(clips):
    calls, switch = [], Switch()

    def report(share: float) -> None:
        calls.append(share)
        if len(calls) == STEPS + 1:  # the first step with memory
            switch.ask()

    with pytest.raises(Stopped):
        clips.generate_pair(EXAMPLES[0], k=1, switch=switch, report=report)
    assert len(calls) == STEPS + 1
    assert not clips.backbone.transformer._forward_pre_hooks
    assert type(clips.backbone.transformer.blocks[0].attn1.processor).__name__ == "WanAttnProcessor"


def test_what_cannot_be_used_is_named(clips, tmp_path):
    for prompt, k, match in ((" ", 1, "empty"), ("a ball", 0, "k is 0"), ("a ball", 7, "k is 7")):
        with pytest.raises(InputError, match=match):
            clips.find(prompt, k)
    with pytest.raises(InputError, match="--encoder"):
        Clips.load(tmp_path / "bank", None, tmp_path / "none", 8, 1.0)


def test_another_model_has_a_bank_and_videos_of_its_own_size(random_folder, tmp_path):
    sizes = {"dim": 48, "hidden": 16, "width": 32, "heads": 2, "layers": 1, "norm_groups": 4}
    FrequencyEncoder(FrequencyEncoderConfig(**sizes)).save_pretrained(tmp_path / "encoder")
    clips = Clips.load(tmp_path / "bank", random_folder, tmp_path / "encoder", STEPS, 1.0)
    pair = clips.generate_pair(EXAMPLES[0], k=2)
    assert pair.without.shape == pair.with_memory.shape == (9, 32, 32, 3) and pair.changed > 0
    assert len(pair.hits) == 2 and pair.attention.shape[3] == 2

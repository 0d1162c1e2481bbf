"""Retrieval by looks. The model has random weights; the bank's "latents" are the video itself, decoded by scaling."""

import random
import sys

import pytest
import timm
import torch

from memkit.banks import MemoryBank
from memkit.errors import InputError, MemkitError
from memkit.retrievers import Hits, VisualRetriever
from memkit.testing import check_retriever
from memkit.video import from_model
from memkit.worlds import sample_law

COUNT = 8


def decode(latents):
    """Latents [1, 3, T, H, W] in [-1, 1], kept as the video; what a VAE would do at more cost."""
    return latents


@pytest.fixture(scope="module")
def videos():
    draw = random.Random(0)
    return [torch.as_tensor(sample_law(draw, "train").video(fps=8.0)) for _ in range(COUNT)]


@pytest.fixture(scope="module")
def bank(tmp_path_factory, videos):
    path = tmp_path_factory.mktemp("visual") / "bank"
    with MemoryBank.create(path) as bank:
        for i, video in enumerate(videos):
            bank.add(f"clip{i}", video.permute(3, 0, 1, 2).float() / 127.5 - 1, "", f"film{i // 2}")
    return bank


@pytest.fixture(scope="module", params=["test_vit", "mobilenetv3_small_050"])
def retriever(request, bank):
    torch.manual_seed(0)
    return VisualRetriever(bank, decode, request.param, pretrained=False, device="cpu")


def test_bytes_survive_the_way_through_latents(bank, videos):
    for i, video in enumerate(videos):
        assert torch.equal(from_model(bank.clip(f"clip{i}").latents[None]), video)


def test_each_clip_is_its_own_best_hit(retriever, videos):
    for i, hits in enumerate(retriever(videos, 3)):
        assert hits.ids[0] == f"clip{i}" and hits.scores[0] == pytest.approx(1, abs=1e-5)
        assert hits.scores[1] < 1 - 1e-7
    assert retriever(videos[2], 3) == retriever(videos, 3)[2]


def test_it_has_the_properties_of_a_retriever(bank, retriever, videos):
    report = check_retriever(retriever, videos[:3], sources=dict(zip(bank.ids, bank.sources, strict=True)), examples=6)
    assert len(report.properties) == 10


def test_hits_are_those_of_brute_force_with_the_same_exclusions(retriever, videos):
    vectors = torch.stack([retriever.embed(video) for video in videos]).double()
    for q, video in enumerate(videos):
        hits = retriever(video, COUNT, exclude=["clip1"], exclude_sources=[f"film{q // 2}"])
        cosine = vectors @ vectors[q]
        left = [i for i in range(COUNT) if i != 1 and i // 2 != q // 2]
        assert hits.ids == [f"clip{i}" for i in sorted(left, key=lambda i: (-float(cosine[i]), i))]


def test_a_frame_finds_the_clip_that_it_is_from(bank, videos):
    torch.manual_seed(0)
    one = VisualRetriever(bank, decode, "test_vit", pretrained=False, frames=1, device="cpu")
    for i, video in enumerate(videos):
        assert one(video[len(video) // 2], 1).ids == [f"clip{i}"]  # one frame is the middle one


def test_the_vector_is_the_mean_over_evenly_spaced_frames(retriever, videos):
    apart = [retriever._model(retriever._transform(_image(videos[0][i]))[None])[0] for i in (2, 8, 14)]
    mean = torch.stack(apart).mean(0)
    torch.testing.assert_close(retriever.embed(videos[0]), mean / mean.norm(), rtol=0, atol=1e-5)
    still = videos[0][:1].expand(9, -1, -1, -1)
    torch.testing.assert_close(retriever.embed(still), retriever.embed(videos[0][:1]), rtol=0, atol=1e-5)


def _image(frame):
    from PIL import Image

    return Image.fromarray(frame.numpy())


def test_images_are_prepared_as_timm_says(retriever, videos):
    config = timm.data.resolve_model_data_config(retriever._model)  # type: ignore
    image = retriever._transform(_image(videos[0][0]))
    assert tuple(image.shape) == config["input_size"]
    black = retriever._transform(_image(torch.zeros_like(videos[0][0])))
    expected = -torch.tensor(config["mean"]) / torch.tensor(config["std"])
    torch.testing.assert_close(black.mean((1, 2)), expected)


def test_another_model_is_not_answered_from_the_saved_index(bank, videos, caplog):
    def fresh(seed):
        torch.manual_seed(seed)
        return VisualRetriever(bank, decode, "test_vit2", pretrained=False, device="cpu")

    one = fresh(1)
    assert fresh(1)(videos, 3) == one(videos, 3) and not caplog.records
    other = fresh(2)  # random weights again, others
    assert "the model has changed" in caplog.text
    assert [hits.ids[0] for hits in other(videos, 1)] == bank.ids


def test_clips_added_later_are_found(tmp_path, videos):
    bank = MemoryBank.create(tmp_path / "bank")
    retriever = VisualRetriever(bank, decode, "test_vit", pretrained=False, device="cpu")
    assert retriever(videos[0]) == Hits([], [])
    bank.add("late", videos[0].permute(3, 0, 1, 2).float() / 127.5 - 1, "")
    assert retriever(videos[0]).ids == ["late"]


@pytest.mark.parametrize(
    "query",
    [
        torch.zeros(8, 8, 3),
        torch.zeros(3, 8, 8, dtype=torch.uint8),
        torch.zeros(0, 8, 8, 3, dtype=torch.uint8),
        torch.zeros(8, 3, dtype=torch.uint8),
        [torch.zeros(8, 8, 3, dtype=torch.uint8), torch.zeros(8, 8, 4, dtype=torch.uint8)],
    ],
)
def test_queries_of_another_kind_are_refused(retriever, query):
    with pytest.raises(InputError, match="uint8 tensor"):
        retriever(query)


@pytest.mark.parametrize("wrong", [lambda x: x[0], lambda x: x * torch.nan, lambda x: x[:, :1]])
def test_a_decoder_that_gives_no_video_is_named_with_its_clip(bank, wrong):
    with pytest.raises(InputError, match="decode gave .*'clip0'"):
        VisualRetriever(bank, wrong, "test_vit3", pretrained=False, device="cpu")


def test_models_and_settings_that_do_not_exist_are_refused(bank, monkeypatch):
    with pytest.raises(InputError, match="'no_such_model'"):
        VisualRetriever(bank, decode, "no_such_model", pretrained=False)
    with pytest.raises(InputError, match="at least"):
        VisualRetriever(bank, decode, "test_vit", pretrained=False, frames=0)
    monkeypatch.setitem(sys.modules, "timm", None)
    with pytest.raises(MemkitError, match="pip install timm"):
        VisualRetriever(bank, decode, "test_vit", pretrained=False)

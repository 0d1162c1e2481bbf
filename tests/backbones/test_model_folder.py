"""A diffusers folder, each of whose files is damaged in turn: an error that names the file, never another model."""

import shutil
from pathlib import Path

import pytest
import torch

from memkit.backbones import WanBackbone, WanCodec
from memkit.errors import FileError, InputError
from tests.helpers.damaged_folders import DAMAGES, JSON_DAMAGES, damaged, with_one, with_tensor, with_values

CONFIGS = {
    "model_index.json": "model_index.json",
    "scheduler/scheduler_config.json": "scheduler_config.json",
    "text_encoder/config.json": "text_encoder/config.json",
    "tokenizer/tokenizer_config.json": "tokenizer_config.json",
    "transformer/config.json": r"transformer.*config.json",
    "vae/config.json": "vae/config.json",
}
WEIGHTS = {
    "text_encoder/model.safetensors": "encoder.block.0.layer.1.DenseReluDense.wo.weight",
    "transformer/diffusion_pytorch_model.safetensors": "blocks.1.attn1.to_q.weight",
    "vae/diffusion_pytorch_model.safetensors": "decoder.conv_in.weight",
}
HUGE = 10**12

VALUES = (
    ("model_index.json", {"transformer": ["diffusers", "LTXVideoTransformer3DModel"]}, "load another kind of model"),
    ("model_index.json", {"transformer": ["os", "system"]}, "where a Wan has"),
    ("model_index.json", {"transformer": [None, None]}, "has no transformer"),
    ("model_index.json", {"text_encoder": ["transformers", "BertModel"]}, "of type 'umt5', not bert"),
    ("model_index.json", {"expand_timesteps": "no"}, "expand_timesteps = 'no'"),
    ("scheduler/scheduler_config.json", {"shift": ...}, "flow_shift"),
    ("scheduler/scheduler_config.json", {"shift": -1}, "shift = -1"),
    ("scheduler/scheduler_config.json", {"shift": 1e300}, "shift = 1e\\+300"),
    ("scheduler/scheduler_config.json", {"num_train_timesteps": HUGE}, "num_train_timesteps"),
    ("scheduler/scheduler_config.json", {"invert_sigmas": True}, "noise levels"),
    ("text_encoder/config.json", {"num_layers": 2000}, "more than .* parameters"),
    ("text_encoder/config.json", {"d_ff": 2000, "vocab_size": 4_000_000}, "values, and its weights have"),
    ("text_encoder/config.json", {"is_decoder": True}, "decoder"),
    ("text_encoder/config.json", {"is_gated_act": 0}, "is_gated_act"),
    ("transformer/config.json", {"num_layers": HUGE}, "num_layers"),
    ("transformer/config.json", {"num_layers": 3000}, "more than .* parameters"),
    ("transformer/config.json", {"num_layers": 2}, "unknown weights blocks.2"),
    ("transformer/config.json", {"num_attention_heads": 0}, "num_attention_heads"),
    ("transformer/config.json", {"rope_max_seq_len": HUGE}, "rope_max_seq_len"),
    ("transformer/config.json", {"patch_size": [1, 2, -2]}, "patch_size"),
    ("transformer/config.json", {"eps": -1e-6}, "eps"),
    ("vae/config.json", {"num_res_blocks": 3000}, "more than .* parameters"),
    ("vae/config.json", {"latents_std": [1.0] * 15 + [0.0]}, "latents_std"),
    ("vae/config.json", {"scale_factor_spatial": 16}, "scale_factor_spatial"),
    ("video_format.json", {"num_frames": 0}, "num_frames"),
    ("video_format.json", {"fps": "8"}, "fps"),
    ("video_format.json", {"depth": 3}, "depth"),
)
TENSORS = (
    (lambda x: None, "lacks weights"),
    (lambda x: x[:-1], "shape"),
    (lambda x: x.flatten(), "shape"),
    (lambda x: x[:0], "shape"),
    (with_one(float("nan")), "NaN or infinite"),
    (with_one(float("inf")), "NaN or infinite"),
    (lambda x: x.long(), "int64"),
    (lambda x: x.bool(), "bool"),
    (lambda x: x.to(torch.complex64), "c64"),
    (lambda x: x.to(torch.float8_e4m3fn), "float8"),
)


@pytest.fixture(scope="module")
def folder(random_folder: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A copy that tests may damage."""
    return Path(shutil.copytree(random_folder, tmp_path_factory.mktemp("damaged") / "wan"))


def load(folder: Path, file: str) -> None:
    """What reads a file: the whole model, or the part alone where others are loaded before it."""
    if file.startswith("vae"):
        WanCodec.from_pretrained(folder)
    elif file.startswith("transformer"):
        WanBackbone.from_pretrained(folder / "transformer")
    else:
        WanBackbone.from_pretrained(folder)


@pytest.mark.parametrize("file", CONFIGS)
def test_configurations_that_cannot_be_read(folder, file):
    for damage in (*DAMAGES.values(), *JSON_DAMAGES.values()):
        with damaged(folder / file, damage), pytest.raises(FileError, match=CONFIGS[file]):
            load(folder, file)


@pytest.mark.parametrize("file", [*WEIGHTS, "tokenizer/tokenizer.json"])
def test_weights_and_words_that_cannot_be_read(folder, file):
    name = "tokenizer" if file.startswith("tokenizer") else file
    for damage in DAMAGES.values():
        with damaged(folder / file, damage), pytest.raises(InputError, match=name):
            load(folder, file)


@pytest.mark.parametrize(("file", "values", "named"), VALUES)
def test_values_that_no_wan_has(folder, file, values, named):
    with damaged(folder / file, with_values(**values)), pytest.raises(InputError, match=named) as error:
        load(folder, file)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize("file", WEIGHTS)
def test_tensors_that_are_not_the_models(folder, file):
    for change, named in TENSORS:
        message = f"{named}.*{WEIGHTS[file]}|{WEIGHTS[file]}.*{named}"
        with (
            damaged(folder / file, with_tensor(WEIGHTS[file], change)),
            pytest.raises(InputError, match=message) as error,
        ):
            load(folder, file)
        assert str(folder) in str(error.value)


def test_weights_that_were_cast_to_eight_bits_load_with_a_dtype(folder):
    name = "transformer/diffusion_pytorch_model.safetensors"
    with damaged(folder / name, with_tensor(WEIGHTS[name], lambda x: x.to(torch.float8_e4m3fn))):
        assert WanBackbone.from_pretrained(folder / "transformer", torch.bfloat16).transformer.dtype == torch.bfloat16


def test_a_codec_reads_the_vae_alone(folder):
    with damaged(folder / "transformer/config.json", DAMAGES["cut"]):
        assert WanCodec.from_pretrained(folder).video_format.num_frames == 9
    with damaged(folder / "vae/config.json", DAMAGES["cut"]), pytest.raises(FileError, match="vae/config.json"):
        WanCodec.from_pretrained(folder)


@pytest.mark.parametrize("name", ["no/such-model", "/no/such/folder", "", "a\0b"])
@pytest.mark.parametrize("kind", [WanBackbone, WanCodec])
def test_what_is_neither_a_folder_nor_on_the_hub(kind, name):
    with pytest.raises(InputError, match="folder.*id"):
        kind.from_pretrained(name)

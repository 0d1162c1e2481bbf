"""Parts that memkit saves, each of whose values is damaged: an error that names the file, before memory is claimed."""

import json

import pytest
import torch
from safetensors.torch import save

from memkit.encoders import FrequencyEncoder, MemoryGate, PatchEncoder, load_dit_mem, make_encoder
from memkit.errors import InputError
from memkit.injectors import QueryLayers, QueryLayersConfig
from memkit.positions import PMRoPE, PMRoPEConfig
from tests.helpers.damaged_folders import damaged, with_one, with_tensor, with_values
from tests.helpers.released_encoder import release_state_dict

HUGE = 10**12
CONFIGS = (
    (FrequencyEncoder, {"dim": HUGE}, "dim"),
    (FrequencyEncoder, {"dim": 60_000}, r"model.safetensors.*out\.weight"),
    (FrequencyEncoder, {"layers": HUGE}, "layers"),
    (FrequencyEncoder, {"layers": 2000}, "more than .* parameters"),
    (FrequencyEncoder, {"layers": "1"}, "layers"),
    (FrequencyEncoder, {"heads": True}, "heads"),
    (FrequencyEncoder, {"heads": 0}, "heads"),
    (FrequencyEncoder, {"patch": [1, 2]}, "patch"),
    (FrequencyEncoder, {"patch": [1, 2, HUGE]}, "patch"),
    (FrequencyEncoder, {"cutoff_time": float("nan")}, "cutoff_time"),
    (FrequencyEncoder, {"cutoff_space": -1.0}, "cutoff_space"),
    (FrequencyEncoder, {"filter_shape": "box"}, "box"),
    (FrequencyEncoder, {"filter_shape": None}, "filter_shape"),
    (QueryLayers, {"blocks": HUGE}, "blocks"),
    (QueryLayers, {"query": "other"}, "query"),
    (QueryLayers, {"cameras": "exact"}, "cameras"),
    (QueryLayers, {"cameras": [f"kind{i}" for i in range(2000)]}, "more than .* parameters"),
    (PMRoPE, {"layers": 2000}, "more than .* parameters"),
    (PMRoPE, {"head_dim": 48.0}, "head_dim"),
    (PMRoPE, {"mode": ["full"]}, "mode"),
)
TENSORS = (
    (lambda x: None, "lacks"),
    (lambda x: x[:-1], "shape"),
    (lambda x: x.long(), "int64"),
    (lambda x: x.bool(), "bool"),
    (lambda x: x.to(torch.complex64), "complex64"),
    (lambda x: x.to(torch.float8_e4m3fn), "float8"),
    (with_one(float("nan")), "NaN or infinite"),
    (with_one(float("inf")), "NaN or infinite"),
)


@pytest.fixture(scope="module")
def folders(tmp_path_factory):
    """A folder of each part; the weights carry neither a checksum nor a config, as those of other programs."""
    parts = (
        make_encoder("frequency", "tiny"),
        QueryLayers(QueryLayersConfig.tiny()),
        PMRoPE(PMRoPEConfig(layers=2, heads=2, head_dim=8)),
    )
    found = {}
    for part in parts:
        folder = part.save_pretrained(tmp_path_factory.mktemp(type(part).__name__))
        (folder / "model.safetensors").write_bytes(save(part.state_dict()))
        found[type(part)] = folder
    return found


@pytest.mark.parametrize(("kind", "values", "named"), CONFIGS)
def test_configurations(folders, kind, values, named):
    folder = folders[kind]
    with (
        damaged(folder / "config.json", with_values(**values)),
        pytest.raises(InputError, match=named) as error,
    ):
        kind.from_pretrained(folder)
    assert str(folder) in str(error.value)


@pytest.mark.parametrize(("change", "named"), TENSORS)
def test_tensors(folders, change, named):
    folder = folders[FrequencyEncoder]
    file = folder / "model.safetensors"
    with damaged(file, with_tensor("out.weight", change)), pytest.raises(InputError, match=named) as error:
        FrequencyEncoder.from_pretrained(folder)
    assert str(file) in str(error.value) and "out.weight" in str(error.value)


def test_a_gate_of_other_values(tmp_path):
    encoder = make_encoder("patch", "tiny")
    encoder.gate = MemoryGate(2, 3, 0.1)
    file = encoder.save_pretrained(tmp_path) / "model.safetensors"
    for change, named in TENSORS[2:]:
        damage = with_tensor("gate.weight", change)
        with damaged(file, damage), pytest.raises(InputError, match=f"model.safetensors.*{named}"):
            PatchEncoder.from_pretrained(tmp_path)


def test_metadata_that_is_no_configuration(folders):
    file = folders[PMRoPE] / "model.safetensors"
    for text in ("", "[1]", "{", '{"a": NaN}', json.dumps({"_class_name": "PMRoPE"})):
        content = save(PMRoPE.from_pretrained(folders[PMRoPE]).state_dict(), {"config": text})
        with damaged(file, lambda _, content=content: content), pytest.raises(InputError, match="model.safetensors"):
            PMRoPE.from_pretrained(folders[PMRoPE])


@pytest.mark.parametrize("name", ["high_pass_module.conv_block1.conv.weight", "high_pass_module.feature_proj.weight"])
@pytest.mark.parametrize(
    "change",
    [lambda x: x.to_sparse(), lambda x: x.flatten(), lambda x: x[:0], lambda x: x.long()],
)
def test_released_checkpoints(name, change):
    state = release_state_dict(prefix="", aliases=False)
    with pytest.raises(InputError, match="conv_block1.conv|feature_proj"):
        load_dit_mem({**state, name: change(state[name])})


def test_an_encoder_whose_module_raises(tmp_path, monkeypatch):
    (tmp_path / "raising.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)
    with pytest.raises(InputError, match="raising.*ZeroDivisionError"):
        make_encoder("raising:Encoder", "tiny")

"""Original weights, configurations and LoRAs with values that no Wan has: an error that names the item."""

import json
import struct

import pytest
import torch
from safetensors.torch import save

from memkit.backbones import WanBackbone
from memkit.backbones.checkpoints.report import inspect_checkpoint
from memkit.errors import InputError
from tests.helpers.original_wan import random_state
from tests.helpers.wan_files import HEADS

WEIGHT = "blocks.0.ffn.0.weight"
UP, DOWN = "blocks.0.self_attn.q.lora_B.weight", "blocks.0.self_attn.q.lora_A.weight"
STATE = random_state()


@pytest.mark.parametrize(
    ("name", "value", "named"),
    [
        (WEIGHT, STATE[WEIGHT].to("meta"), "meta device"),
        (WEIGHT, STATE[WEIGHT].to(torch.complex64), "complex64"),
        (WEIGHT, torch.quantize_per_tensor(STATE[WEIGHT], 0.1, 0, torch.qint8), "qint8"),
        (WEIGHT, STATE[WEIGHT] * float("nan"), "NaN or infinite"),
        (WEIGHT, STATE[WEIGHT][:0], "ffn_dim"),
        (WEIGHT, torch.tensor(1.0), "shape"),
        ("patch_embedding.weight", torch.tensor(1.0), "shape"),
        ("patch_embedding.weight", STATE["patch_embedding.weight"].long(), "int64"),
        ("img_emb.emb_pos", torch.zeros(2), "img_emb.emb_pos"),
        ("img_emb.proj.1.weight", torch.zeros(2), "img_emb.proj.1.weight"),
        (f"blocks.{10**12}.ffn.0.weight", torch.zeros(2), "blocks.1000000000000"),
        (f"blocks.{'9' * 5000}.ffn.0.weight", torch.zeros(2), "blocks.9999"),
    ],
)
def test_tensors(name, value, named):
    with pytest.raises(InputError, match=named):
        WanBackbone.from_original({**STATE, name: value}, HEADS)


@pytest.mark.parametrize(
    ("changes", "named"),
    [
        ({"num_layers": 10**12}, "num_layers"),
        ({"num_layers": 3000}, "more than .* parameters"),
        ({"rope_max_seq_len": 10**12}, "rope_max_seq_len"),
        ({"attention_head_dim": 10**12}, "attention_head_dim"),
        ({"eps": float("nan")}, "eps"),
        ({"eps": -1.0}, "eps"),
        ({"num_attention_heads": "2"}, "num_attention_heads"),
        ({"num_attention_heads": True}, "num_attention_heads"),
        ({"patch_size": (0, 0, 0)}, "patch_size"),
        ({"cross_attn_norm": "no"}, "cross_attn_norm"),
        ({"heads": 2}, "heads"),
    ],
)
def test_configurations(changes, named):
    with pytest.raises(InputError, match=named):
        WanBackbone.from_original(STATE, {**HEADS, **changes})


@pytest.mark.parametrize(
    ("options", "named"),
    [
        ({"torch_dtype": torch.int8}, "torch_dtype is torch.int8"),
        ({"weights": "ema"}, "one set of weights"),
        ({"lora": {}}, "no tensors"),
        ({"lora": {DOWN: torch.zeros(2, 48)}}, "LoRA"),
        ({"lora": {DOWN: torch.full((2, 48), float("nan")), UP: torch.zeros(48, 2)}}, "NaN or infinite"),
        ({"lora": {DOWN: torch.zeros(2, 48).long(), UP: torch.zeros(48, 2)}}, "int64"),
        ({"lora": {DOWN: torch.zeros(2, 48, device="meta"), UP: torch.zeros(48, 2)}}, "meta device"),
    ],
)
def test_options(options, named):
    with pytest.raises(InputError, match=named):
        WanBackbone.from_original(STATE, HEADS, **options)


CONTENT = save(STATE)
LENGTH = struct.unpack("<Q", CONTENT[:8])[0]
HEADER = json.loads(CONTENT[8 : 8 + LENGTH])


@pytest.mark.parametrize(
    ("entry", "value"),
    [
        ("shape", [10**12, 10**12]),
        ("shape", [2**63, 2**63]),
        ("shape", [-1, 48]),
        ("shape", ["a", 2]),
        ("shape", None),
        ("data_offsets", [0, 10**15]),
        ("data_offsets", [100, 0]),
        ("data_offsets", ["a", "b"]),
        ("dtype", "F33"),
        ("dtype", None),
    ],
)
def test_headers_that_claim_what_is_not_there(tmp_path, entry, value):
    header = json.dumps({**HEADER, WEIGHT: {**HEADER[WEIGHT], entry: value}}).encode()
    file = tmp_path / "model.safetensors"
    file.write_bytes(struct.pack("<Q", len(header)) + header + CONTENT[8 + LENGTH :])
    for read in (lambda: WanBackbone.from_original(file, HEADS), lambda: inspect_checkpoint(file)):
        with pytest.raises(InputError, match="model.safetensors cannot be read"):
            read()

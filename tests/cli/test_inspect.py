"""``memkit inspect``: what it says of files and folders, that its line of Python loads them, and its exit code."""

import json
import re
import struct

import psutil
import pytest
import torch
from safetensors.torch import save_file

from memkit import WanBackbone, cli
from memkit.backbones.codec import tiny_folder
from memkit.banks import MemoryBank
from memkit.encoders import FrequencyEncoder, FrequencyEncoderConfig
from memkit.injectors import KVCache, QueryLayers, QueryLayersConfig
from memkit.positions import PMRoPE, PMRoPEConfig
from tests.helpers import original_wan
from tests.helpers.original_wan import random_state
from tests.helpers.random_wan import random_transformer
from tests.helpers.wan_files import HEADS, is_model


def inspect(capsys, *arguments) -> tuple[int, str]:
    """The exit code and what was printed."""
    code = cli.main(["inspect", *map(str, arguments)])
    return code, capsys.readouterr().out


def run(said: str, **names):
    """Runs the line of Python that was printed."""
    (line,) = [line for line in said.splitlines() if "load it with: " in line]
    *imports, expression = line.split("load it with: ")[1].split("; ")
    scope: dict = {}
    exec("\n".join(imports), scope)
    return eval(expression, scope | names)


def with_heads(said: str) -> str:
    """The line, with the heads of `random_state`, which cannot be inferred."""
    return said.replace("WanBackbone.from_original(", "from_original(")


def test_a_checkpoint(tmp_path, capsys):
    state = {f"model.diffusion_model.{name}": value for name, value in random_state().items()}
    save_file({**state, "first_stage_model.conv1.weight": torch.zeros(2)}, tmp_path / "a.safetensors")
    code, said = inspect(capsys, tmp_path / "a.safetensors")
    count = sum(value.numel() for value in state.values())
    assert code == 0 and said.startswith(f"{tmp_path}/a.safetensors: a text-to-video Wan with its original")
    for part in (
        "format: safetensors\n",
        "prefix: 'model.diffusion_model.', which is taken off",
        f"{len(state)} with {count:,} values, {4 * count / 1e6:.2f} MB: float32 ({count:,})",
        "beside them: first_stage_model (1 tensors)",
        "num_layers=2",
        "(pass config= if the heads are smaller)",
        "preset: none of the published sizes",
    ):
        assert part in said
    assert run(said).transformer.config.num_layers == 2


def test_several_sets_of_weights_and_which_is_loaded(tmp_path, capsys):
    states = {"generator": random_state(seed=1), "generator_ema": random_state(), "critic": random_state(seed=2)}
    torch.save({**states, "step": 3}, tmp_path / "dmd.pt")

    def from_original(source, **options):
        return WanBackbone.from_original(source, HEADS, **options).transformer

    for chosen, seed in ((None, 0), ("generator", 1), ("critic", 2)):
        code, said = inspect(capsys, tmp_path / "dmd.pt", *(["--weights", chosen] if chosen else []))
        assert code == 0 and re.search(r"'generator', (\d+) tensors; 'generator_ema', \1 tensors", said)
        assert ("by default: 'generator_ema'" if chosen is None else f"chosen: '{chosen}'") in said
        assert is_model(run(with_heads(said), from_original=from_original), seed)
    code, said = inspect(capsys, tmp_path / "dmd.pt", "--weights", "none")
    assert code == 1 and "has no weights 'none'; it holds 'generator'" in said


def write_header(path, shapes, dtype="BF16", width=2):
    """A safetensors file of any size that takes no room: its values are a hole."""
    header, end = {}, 0
    for name, shape in shapes.items():
        size = width * torch.Size(shape).numel()
        header[name] = {"dtype": dtype, "shape": list(shape), "data_offsets": [end, end + size]}
        end += size
    text = json.dumps(header).encode()
    path.write_bytes(struct.pack("<Q", len(text)) + text)
    with open(path, "r+b") as file:
        file.truncate(8 + len(text) + end)
    return end


def test_28_gb_are_inspected_by_their_header(tmp_path, capsys, monkeypatch):
    monkeypatch.setattr(original_wan, "normal", lambda *shape, generator: torch.empty(*shape, device="meta"))
    shapes = {n: v.shape for n, v in random_state(dim=5120, ffn=13824, layers=40, text=4096).items()}
    size = write_header(tmp_path / "14b.safetensors", shapes)
    assert size > 28e9
    code, said = inspect(capsys, tmp_path / "14b.safetensors")
    assert code == 0 and "preset: wan2.1-t2v-14b or one expert of wan2.2-t2v-a14b\n" in said
    assert f"{size / 1e9:.2f} GB: bfloat16" in said and "heads are smaller" not in said


@pytest.mark.skipif(not hasattr(psutil.Process, "io_counters"), reason="the system does not count what is read")
def test_a_large_torch_file_is_inspected_without_reading_its_values(tmp_path, capsys):
    """torch.save leaves holes in the file here, so that it takes no room."""
    state = {name: torch.zeros(1) for name in random_state(layers=4)}
    state |= {f"blocks.{i}.ffn.{n}.weight": torch.empty(5120, 13824).bfloat16() for i in range(4) for n in (0, 2)}
    with torch.serialization.skip_data():
        torch.save({"generator": state, "step": 3}, tmp_path / "big.pt")
    assert (tmp_path / "big.pt").stat().st_size > 1e9
    before = psutil.Process().io_counters().read_chars
    code, said = inspect(capsys, tmp_path / "big.pt")
    assert psutil.Process().io_counters().read_chars - before < 50e6
    assert code == 1 and "1.13 GB: bfloat16" in said and "other shapes than a Wan" in said


@pytest.mark.parametrize("form", ["fp8", "lora", "vace", "incomplete"])
def test_what_cannot_be_loaded_as_it_is(form, tmp_path, capsys):
    state = random_state()
    if form == "fp8":
        state = {n: v.to(torch.float8_e4m3fn) if v.ndim == 2 else v for n, v in state.items()}
    elif form == "lora":
        state = {"diffusion_model.blocks.0.self_attn.q.lora_A.weight": torch.zeros(2, 48)}
    elif form == "vace":
        state["vace_blocks.0.after_proj.bias"] = torch.zeros(48)
    else:
        del state["head.head.bias"]
    save_file(state, tmp_path / "a.safetensors")
    code, said = inspect(capsys, tmp_path / "a.safetensors")
    assert code == (0 if form == "fp8" else 1)
    what = {
        "fp8": "load it only if they were cast",
        "lora": "a LoRA alone, without the weights of the model",
        "vace": "a.safetensors: Wan VACE",
        "incomplete": "does not fit .* missing: proj_out.bias",
    }[form]
    assert re.search(what, said)
    if form == "fp8":
        assert run(said).transformer.blocks[0].attn1.to_q.weight.dtype == torch.bfloat16
    else:
        assert "cannot be loaded: " in said and "  load it with" not in said


def test_shards_and_gguf(tmp_path, capsys):
    from tests.backbones.checkpoints.test_folders import write_shards

    write_shards(tmp_path / "shards")
    for path in (tmp_path / "shards", next((tmp_path / "shards").glob("*.json"))):
        code, said = inspect(capsys, path)
        assert code == 0 and "format: safetensors in 3 files" in said
    gguf = pytest.importorskip("gguf")
    from tests.backbones.checkpoints.test_gguf import write_gguf

    write_gguf(tmp_path / "m.gguf", random_state(dim=64), gguf.GGMLQuantizationType.Q8_0)
    code, said = inspect(capsys, tmp_path / "m.gguf")
    assert code == 0 and "format: GGUF" in said and ": Q8_0 (" in said
    assert run(said).transformer.config.num_layers == 2


@pytest.mark.parametrize(
    ("content", "what"), [(b"version https://git-lfs.github.com/spec/v1\n", "Git LFS pointer"), (b"", "is empty")]
)
def test_what_cannot_be_read_is_one_line(content, what, tmp_path, capsys):
    (tmp_path / "a.safetensors").write_bytes(content)
    assert cli.main(["inspect", str(tmp_path / "a.safetensors")]) == 2
    said = capsys.readouterr()
    assert said.out == "" and what in said.err and len(said.err.splitlines()) == 1
    assert cli.main(["inspect", str(tmp_path / "none")]) == 2
    assert "There is no file" in capsys.readouterr().err


def test_what_memkit_saves(tmp_path, capsys):
    wan = random_transformer()
    parts = [
        FrequencyEncoder(FrequencyEncoderConfig.tiny()),
        QueryLayers(QueryLayersConfig.of(wan)) if hasattr(QueryLayersConfig, "of") else None,
        PMRoPE(PMRoPEConfig.of(wan)),
    ]
    for part in filter(None, parts):
        part.save_pretrained(tmp_path / type(part).__name__)
        code, said = inspect(capsys, tmp_path / type(part).__name__)
        assert code == 0 and f"a {type(part).__name__} of memkit" in said
        loaded = run(said).state_dict()
        assert all(torch.equal(loaded[name], value) for name, value in part.state_dict().items())
    bank = MemoryBank.create(tmp_path / "bank", info={"model": "tiny"})
    bank.add("a", torch.zeros(16, 2, 4, 4), "a ball")
    code, said = inspect(capsys, tmp_path / "bank")
    assert code == 0 and "a memory bank\n  clips: 1\n  model: tiny\n" in said and run(said).ids == ["a"]
    KVCache(10**6).save(tmp_path / "cache.safetensors")
    code, said = inspect(capsys, tmp_path / "cache.safetensors")
    assert code == 0 and "a saved KV cache" in said and run(said).budget_bytes == 10**6


def test_an_encoder_of_dit_mem(tmp_path, capsys):
    from tests.helpers.released_encoder import params_only, release_state_dict

    torch.save(release_state_dict(), tmp_path / "dit_mem.pt")
    code, said = inspect(capsys, tmp_path / "dit_mem.pt")
    assert code == 0 and "an encoder of DiT-Mem" in said and "dim=16" in said and "note" not in said
    assert run(said).config.dim == 16
    torch.save(params_only(release_state_dict()), tmp_path / "dit_mem.pt")
    code, said = inspect(capsys, tmp_path / "dit_mem.pt")
    assert code == 1 and "cells are laid out" in said


@pytest.mark.skipif(not tiny_folder().exists(), reason="the weights of tiny-wan are not in this checkout")
def test_diffusers_folders(capsys, random_folder):
    for folder, name in ((tiny_folder(), "WanPipeline"), (random_folder / "transformer", "WanTransformer3DModel")):
        code, said = inspect(capsys, folder)
        assert code == 0 and f"a {name} in diffusers' format" in said and run(said).transformer
    code, said = inspect(capsys, random_folder / "vae")
    assert code == 1
    file = next((random_folder / "transformer").glob("*.safetensors"))
    code, said = inspect(capsys, file)
    assert code == 1 and "WanBackbone.from_pretrained" in said

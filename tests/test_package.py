"""What a user meets first: the import, the public names, the README's example."""

import ast
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import memkit
from tests.helpers.random_wan import random_pipeline

ROOT = Path(__file__).parents[1]


def test_importing_memkit_loads_nothing_heavy():
    code = "import sys, torch; before = set(sys.modules); import memkit; import json; "
    code += "print(json.dumps(sorted({m.split('.')[0] for m in set(sys.modules) - before})))"
    out = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout
    assert not {"diffusers", "transformers", "timm", "faiss", "av", "tyro"} & set(json.loads(out))


def test_every_public_name_is_there_and_no_other():
    for name in memkit.__all__:
        assert getattr(memkit, name).__name__ == name
    with pytest.raises(AttributeError, match="nothing"):
        _ = memkit.nothing


def test_type_checkers_see_the_names_of_the_table():
    """They read the imports, users the table; both have the same names, from the same rooms."""
    tree = ast.parse((ROOT / "memkit" / "__init__.py").read_text())
    block = next(node for node in tree.body if isinstance(node, ast.If))
    seen = {}
    for line in block.body:
        assert isinstance(line, ast.ImportFrom) and line.module is not None
        seen |= {alias.asname: line.module for alias in line.names if alias.asname == alias.name}
    assert seen == {name: f"memkit.{room}" for name, (room, _) in memkit._PUBLIC.items()}
    assert set(memkit.__all__) == set(seen) <= set(dir(memkit))


def test_the_table_is_in_the_documentation_of_the_package():
    assert memkit.__doc__ is not None
    for name, (_, line) in memkit._PUBLIC.items():
        assert re.search(rf"^{name} +{re.escape(line)}$", memkit.__doc__, re.M)


def test_every_part_of_the_readme_is_importable_from_memkit():
    rows = re.findall(r"^\| (`[A-Za-z_`, ]+`).* \| .* \|$", (ROOT / "README.md").read_text(), re.M)
    names = [name for row in rows for name in re.findall(r"`(\w+)`", row)]
    assert len(names) > 20 and not [name for name in names if not hasattr(memkit, name)]


def test_the_package_is_typed():
    assert (Path(memkit.__file__).parent / "py.typed").exists()


def test_the_readmes_example_runs(tmp_path, monkeypatch):
    """The code of the README with the hub's model replaced by a small random one, and nothing else."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert code is not None
    torch.manual_seed(0)
    with memkit.MemoryBank.create(tmp_path / "bank") as bank:
        for i in range(6):
            bank.add(f"clip{i}", torch.randn(16, 3, 4, 4), f"a ball of colour {i} falls", source=f"video{i}")
    config = memkit.FrequencyEncoder.config_class(
        dim=48, hidden=16, width=48, heads=2, layers=1, stem_stride=(1, 2, 2), patch=(1, 2, 2)
    )
    memkit.FrequencyEncoder(config).save_pretrained(tmp_path / "runs" / "dit-mem")
    random_pipeline().save_pretrained(tmp_path / "wan")
    source = code[1].replace("Wan-AI/Wan2.1-T2V-1.3B-Diffusers", str(tmp_path / "wan"))
    source = source.replace("Alibaba-NLP/gte-base-en-v1.5", "minilm").replace(
        "pipe(prompt)", "pipe(prompt, height=32, width=32, num_frames=9, num_inference_steps=2)"
    )
    monkeypatch.chdir(tmp_path)
    names = {"prompt": "a ball of colour 3 falls"}
    exec(source, names)
    assert names["hits"].ids[0] == "clip3" and len(names["hits"].ids) == 5
    assert names["memory"].tokens.shape[0] == 1
    assert names["video"].shape == (9, 32, 32, 3)
    assert type(names["pipe"].transformer.blocks[0].attn1.processor).__name__ == "WanAttnProcessor"

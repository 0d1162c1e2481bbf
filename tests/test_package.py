"""What a user meets first: the import, the public names, the README's example."""

import ast
import contextlib
import json
import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import memkit
import memkit.banks
import memkit.injectors
from memkit.hub import find_folder, shipped_folder
from tests.helpers.random_wan import write_random_pipeline

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


@pytest.mark.parametrize("room", [memkit.injectors, memkit.banks], ids=["injectors", "banks"])
def test_a_room_loads_its_names_when_they_are_used(room):
    assert all(getattr(room, name).__name__ == name for name in room.__all__)
    assert set(room.__all__) <= set(dir(room))
    with pytest.raises(AttributeError, match="nothing"):
        _ = room.nothing
    lines = next(node for node in ast.parse(Path(room.__file__).read_text()).body if isinstance(node, ast.If)).body
    seen = {f"{room.__name__}.{file}": list(names) for file, names in room._FILES.items()}
    assert {line.module: [alias.name for alias in line.names] for line in lines} == seen
    assert sorted(name for names in seen.values() for name in names) == room.__all__


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


def readme_example(folder, code):
    """Run the code of the README in a folder, in fewer steps; returns its names."""
    few = code.replace("generate_video(backbone, prompt)", "generate_video(backbone, prompt, steps=2)")
    assert few != code
    with contextlib.chdir(folder):
        exec(few, names := {})
    assert type(names["backbone"].transformer.blocks[0].attn1.processor).__name__ == "WanAttnProcessor"
    return names


def bank_of_balls(folder, height):
    torch.manual_seed(0)
    with memkit.MemoryBank.create(folder) as bank:
        for i, planet in enumerate(("Sol", "Odin", "Mira", "Rhea", "Pax", "Nova")):
            bank.add(f"clip{i}", torch.randn(16, 5, height, height), f"a ball falls on planet {planet}", f"video{i}")


def test_the_readmes_example_runs_as_it_is_and_with_one_line_changed(tmp_path):
    """On tiny-wan as it is written, and on another model by the line that names model, bank and encoder."""
    code = re.search(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.S)
    assert code is not None
    bank_of_balls(tmp_path / "out" / "demo" / "bank", 8)
    names = readme_example(tmp_path, code[1])
    assert names["hits"].ids[0] == "clip2" and len(names["hits"].ids) == 5
    assert names["memory"].tokens.shape[0] == 1 and names["video"].shape == (17, 64, 64, 3)
    bank_of_balls(tmp_path / "bank", 4)
    config = memkit.FrequencyEncoder.config_class(
        dim=48, hidden=16, width=48, heads=2, layers=1, stem_stride=(1, 2, 2), patch=(1, 2, 2)
    )
    memkit.FrequencyEncoder(config).save_pretrained(tmp_path / "runs" / "dit-mem" / "encoder")
    write_random_pipeline(tmp_path / "wan")
    lines = [
        'model, clips, encoder = "wan", "bank", "runs/dit-mem/encoder"' if line.startswith("model, ") else line
        for line in code[1].splitlines()
    ]
    assert readme_example(tmp_path, "\n".join(lines))["video"].shape == (9, 32, 32, 3)


def test_weights_that_are_shipped_are_found_by_their_name(tmp_path, monkeypatch):
    assert {folder.name for folder in (ROOT / "memkit" / "weights").iterdir() if shipped_folder(folder.name)} == {
        *("tiny-wan", "tiny-gallery", "dit-mem-tiny", "dit-mem-tiny-falls", "memlearner-tiny", "remind-tiny")
    }
    for none in ("tiny", "../weights/tiny-wan", "Wan-AI/tiny-wan", "", None, Path("tiny-wan")):
        assert shipped_folder(none) is None
    assert find_folder("tiny-wan", ("config.json",), subfolder="vae").name == "vae"
    (tmp_path / "dit-mem-tiny").mkdir()
    monkeypatch.chdir(tmp_path)
    assert find_folder("dit-mem-tiny", ("config.json",)) == Path("dit-mem-tiny")  # a folder of one's own comes first

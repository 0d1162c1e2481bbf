"""Pages of the documentation: their code runs, what they name and link to exists, their arithmetic is right."""

import importlib
import importlib.util
import re
import sys
from pathlib import Path

import pytest
import torch
from diffusers import WanTransformer3DModel

import memkit
from memkit import FrequencyEncoder, MemoryBank
from memkit.backbones import PRESETS
from memkit.encoders import load_encoder, make_encoder
from memkit.injectors import frame_bytes

ROOT = Path(__file__).parents[1]
DOCS = ROOT / "docs"
NAMING_TESTS = (
    "kv-cache",
    "kv-parts",
    "state-space",
    "routing",
    "geometry",
    "composition",
    "diffusers",
    "write-your-own",
)
PAGES = (*NAMING_TESTS, "tutorial", "worlds")
RUN_ELSEWHERE = {
    "README.md": "tests/test_package.py",
    "docs/dit-mem.md": "tests/test_pages.py",
    "docs/checkpoints.md": "tests/backbones/checkpoints/test_page.py",
    "docs/memlearner.md": "tests/recipes/memlearner/test_rollouts.py",
    "docs/poses.md": "tests/cameras/test_pose_files.py",
    "docs/probes.md": "tests/probes/test_page.py",
}
"""Pages whose code runs in a test of its own."""
PYTHON = re.compile(r"^ *```python\n(.*?)^ *```", re.M | re.S)
NOT_RUN = re.compile(r"<!-- not run: \S.*? -->\n+ *```python\n.*?```", re.S)
"""A block of code that is not run has a comment above it that says why."""
CARDS = sorted((ROOT / "memkit" / "weights").glob("*/README.md"))
ALL_PAGES = [ROOT / "README.md", *sorted(DOCS.glob("*.md")), *CARDS]


def read(page):
    return (DOCS / f"{page}.md").read_text()


@pytest.fixture
def names(page, tmp_path, monkeypatch):
    """The names that a page's code leaves, run block after block on tiny-wan in an empty folder; steps are fewer."""
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr("diffusers.utils.dynamic_modules_utils.HF_MODULES_CACHE", str(tmp_path / "modules"))
    found = {}
    for block in re.findall(r"```python\n(.*?)```", read(page), re.S):
        exec(block.replace("set_timesteps(4)", "set_timesteps(1)").replace("steps=4", "steps=1"), found)
    return found


@pytest.mark.parametrize("page", PAGES)
def test_the_code_of_a_page_runs(names, page):
    if page == "worlds":
        assert names["event"].video().shape == (17, 64, 64, 3)
        return
    model = {"diffusers": "pipe", "tutorial": "backbone"}.get(page)
    model = names["transformer"] if model is None else names[model].transformer
    assert not any(m._forward_pre_hooks or m._forward_hooks for m in model.modules())
    if page == "kv-cache":
        assert names["video"].shape == (1, 16, 24, 8, 8) and names["video"].isfinite().all()
        assert names["held"].positions == (0, 1, 2, 18, 19, 20, 21, 22, 23)  # as the page says
        assert names["cache"].branch("uncond").positions == (0, 1, 2) and names["stream"].position == 5
        assert names["guided"].branch("uncond").positions == (0, 1, 2, 3, 4, 5)
        assert torch.equal(names["k"], names["cache"].get(names["layers"] - 1, [1, 2], "cond")[0])
        assert names["recorder"].shares().shape == (1, len(model.blocks), 1, 3, 3)
    elif page == "kv-parts":
        assert names["cache"].branch().capacity > 12 and names["video"].shape == (1, 16, 15, 8, 8)
        assert set(names["cache"].branch().table.places().values()) == {0, 1}
    elif page == "state-space":
        assert names["state"].frames == 12 and names["state"].nbytes == names["memory"].state_bytes(4, 4)
        assert names["turned"].shape == (1, 17, 64, 64, 3)
    elif page == "routing":
        assert names["velocity"].isfinite().all() and f"{names['routed'] / names['dense']:.0%}" == "19%"
    elif page == "geometry":
        assert len(names["hits"].ids) == 4 and names["votes"].shape == (20,) and len(names["retriever"]) == 22
        assert names["view"].mask.float().mean() > 0.5 and names["velocity"].isfinite().all()
    elif page == "write-your-own":
        assert names["velocity"].shape == (1, 16, 3, 8, 8)
        reports = {name: len(it.properties) for name, it in names.items() if name.endswith("_report")}
        counts = {"retriever": 10, "encoder": 13, "filters": 19, "bands": 3, "injector": 15, "text": 11, "backbone": 13}
        assert reports == {f"{name}_report": count for name, count in {**counts, "adapted": 15}.items()}
    elif page == "tutorial":
        assert all(id.startswith("mira") for id in names["hits"].ids) and len(names["bank"]) == 24
        assert torch.equal(names["without"], names["again"]) and not torch.equal(names["without"], names["video"])
        assert 0.01 < names["shares"].mean() < 0.9 and names["stream"].position == 12
    elif page == "diffusers":
        assert names["video"].shape == (1, 17, 3, 64, 64) and names["state"].get("memory_ids") == [["mira-3", "mira-0"]]
        assert names["latents"].shape == (1, 16, 12, 8, 8) and names["second"].get("position") == 12
        assert type(names["blocks"].sub_blocks["memory"]).__name__ == "RetrieveMemoryStep"
    else:
        assert names["video"].shape == (1, 3, 45, 64, 64) and names["latents"].shape == (1, 16, 12, 8, 8)
        assert any(p.grad.abs().max() > 0 for p in names["pm_rope"].parameters())
        assert torch.equal(names["latents"][:, :, :1], names["chunks"][0][:, :, :1])


@pytest.mark.parametrize("page", [ROOT / "README.md", *sorted(DOCS.glob("*.md"))], ids=lambda page: page.name)
def test_every_block_of_code_is_run_or_says_why_not(page):
    text, name = page.read_text(), str(page.relative_to(ROOT))
    if name in RUN_ELSEWHERE:
        source = (ROOT / RUN_ELSEWHERE[name]).read_text()
        assert page.name in source and "exec(" in source
    elif page.parent != DOCS or page.stem not in PAGES:
        assert not PYTHON.findall(NOT_RUN.sub("", text))
    else:
        assert not NOT_RUN.findall(text)  # all of it is run


@pytest.mark.parametrize("card", CARDS, ids=lambda card: card.parent.name)
def test_the_code_of_a_model_card_runs(card, tmp_path, monkeypatch):
    """In an empty folder, with one step and one clip; a card without code has commands."""
    monkeypatch.chdir(tmp_path)
    text, names = card.read_text(), {}
    for block in PYTHON.findall(NOT_RUN.sub("", text)):
        exec(re.sub(r"steps=\d+", "steps=1", block.replace("range(3)", "range(1)")), names)
    assert names or "```bash" in text
    if "video" in names:
        assert torch.as_tensor(names["video"]).shape[-4:] == (17, 64, 64, 3)


def test_a_block_that_is_not_run_needs_a_reason():
    block = "```python\nx = 1\n```\n"
    for text, left in (("", 1), ("<!-- not run: sketch -->\n", 0), ("<!-- not run: -->\n", 1), ("<!-- x -->\n", 1)):
        assert len(PYTHON.findall(NOT_RUN.sub("", text + block))) == left


def test_the_example_of_dit_mem_runs_on_a_random_pipeline(random_folder, tmp_path, monkeypatch):
    """The code of dit-mem.md, with the names of large models replaced."""
    monkeypatch.chdir(tmp_path)
    with MemoryBank.create("runs/dit-mem-wan2.1-1.3b/bank") as bank:
        for i in range(6):
            bank.add(f"clip{i}", torch.randn(16, 3, 4, 4), f"a glass of water tips over, number {i}")
    config = FrequencyEncoder.config_class(dim=48, hidden=16, width=48, heads=2, layers=1, patch=(1, 2, 2))
    FrequencyEncoder(config).save_pretrained("runs/dit-mem-wan2.1-1.3b/encoder")
    (code,) = PYTHON.findall(read("dit-mem"))
    smaller = {
        "Wan-AI/Wan2.1-T2V-1.3B-Diffusers": str(random_folder), "cuda": "cpu", "bfloat16": "float32",
        ', model="Alibaba-NLP/gte-base-en-v1.5", trust_remote_code=True': "",
        "num_frames=81": "num_frames=9, height=32, width=32, num_inference_steps=1",
    }  # fmt: skip
    videos = {}
    for name, instead in smaller.items():
        assert name in code
        code = code.replace(name, instead)
    monkeypatch.setattr("diffusers.utils.export_to_video", lambda frames, path, fps: videos.update({path: frames}))
    exec(code, names := {})
    assert (
        videos["tips.mp4"].shape == (9, 32, 32, 3)
        and len(names["hits"].ids) == 5
        and names["memory"].tokens.shape[::2] == (1, 48)
    )


def test_the_encoder_of_the_page_is_created_by_its_path_from_a_file(tmp_path, monkeypatch):
    """As the page says, in my_encoder.py."""
    blocks = re.findall(r"```python\n(.*?)```", read("write-your-own"), re.S)
    (source,) = [block for block in blocks if "class FrameEncoder(" in block]
    (tmp_path / "my_encoder.py").write_text(source)
    monkeypatch.syspath_prepend(tmp_path)
    for path in ("my_encoder:FrameEncoder", "my_encoder.FrameEncoder"):
        encoder = make_encoder(path, "tiny", dim=192, latent_channels=16)
        encoder.save_pretrained(tmp_path / "saved")
        loaded = load_encoder(tmp_path / "saved", path)
        latents = torch.randn(1, 2, 16, 3, 4, 4)
        assert torch.equal(loaded(latents).tokens, encoder(latents).tokens)
    del sys.modules["my_encoder"]


def test_the_retriever_of_the_page_has_eight_lines():
    (source,) = [
        block for block in re.findall(r"```python\n(.*?)```", read("write-your-own"), re.S) if "Retriever[str]" in block
    ]
    body = source[source.index("class WordRetriever") :].splitlines()[1:]
    assert len([line for line in body if line.strip()]) <= 8


@pytest.mark.parametrize("page", NAMING_TESTS)
def test_the_tests_that_a_page_names_are_there(page):
    named = re.findall(r"`(tests/[\w/]+\.py)::(\w+)`", read(page))
    assert named
    for file, name in named:
        assert re.search(rf"^(def {name}\(|{name} =)", (DOCS.parent / file).read_text(), re.M), (file, name)


def anchors(page):
    """The anchors that GitHub makes of the headings of a page."""
    headings = re.findall(r"^#+ (.+)$", re.sub(r"```.*?```", "", page.read_text(), flags=re.S), re.M)
    return {re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-") for heading in headings}


def test_the_anchor_of_a_heading():
    assert {"what-q-starts-from", "can-queries-be-learned-from-random-weights"} <= anchors(DOCS / "memlearner.md")


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_links_modules_and_files_of_a_page_exist(page):
    text = page.read_text()
    for link in re.findall(r"\]\((?!https?:)([^)\s]+)\)", text):
        file, _, anchor = link.partition("#")
        target = page.parent / file if file else page
        assert target.exists(), link
        assert not anchor or anchor in anchors(target), link
    for module in re.findall(r"(?:python|launch|torchrun.*) -m ((?:memkit|recipes|benchmarks)[.\w]*\w)", text):
        assert importlib.util.find_spec(module), module
    for path in re.findall(r"`((?:memkit|recipes|benchmarks|tests|docs)/[\w/.-]*)(?:::\w+)?`", text):
        assert (ROOT / path).exists(), path


@pytest.mark.parametrize("page", ALL_PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_every_figure_has_its_leading_zero(page):
    text = re.sub(r"```.*?```", "", page.read_text(), flags=re.S)
    assert not re.findall(r".*(?<![\w./])\.\d.*", text)


@pytest.mark.parametrize(
    ("template", "page"), [("card", "memkit/weights/tiny-wan/README.md"), ("page", "docs/tiny-wan.md")]
)
def test_the_pages_of_tiny_wan_are_their_templates_filled_in(template, page):
    """Only what stands for a name in braces may differ, so shipping again would not bring back older text."""
    parts = re.split(r"\{\w+\}", (ROOT / "recipes" / "tiny_wan" / f"{template}.md").read_text())
    assert len(parts) > 10 and re.fullmatch("(.+)".join(map(re.escape, parts)), (ROOT / page).read_text(), re.S)


def test_the_budgets_of_the_page_are_those_of_frame_bytes():
    rows = re.findall(r"\| (Wan[\w.-]+) \| (\d+)×(\d+) \| (\d+) \| ([\d.]+) MB \| ([\d.]+) GB \|", read("kv-cache"))
    assert len(rows) == 3
    for name, height, width, tokens, megabytes, gigabytes in rows:
        with torch.device("meta"):
            model = WanTransformer3DModel(**PRESETS[name.lower()]().transformer)
        tokens_per_frame = frame_bytes(model, int(height), int(width), dtype=torch.bfloat16)
        assert int(tokens) == int(height) * int(width) // 4
        assert (megabytes, gigabytes) == (f"{tokens_per_frame / 1e6:.1f}", f"{21 * tokens_per_frame / 1e9:.1f}")


def test_the_errors_that_the_page_quotes_are_raised_somewhere():
    quoted = re.findall(r"^\*\*.*", read("troubleshooting"), re.M)
    texts = [text for line in quoted for text in re.findall(r'"([^"]+)"', line)]
    sources = " ".join(file.read_text() for file in (ROOT / "memkit").rglob("*.py"))
    joined = re.sub(r'"\s*\n\s*f?"', "", sources)  # a message may go over several lines
    assert len(texts) > 12
    assert [text for text in texts if text.split("…")[0] not in joined] == []


def test_every_public_name_is_two_clicks_away(monkeypatch):
    """The reference's first page links to each of them; the strict build finds links that lead nowhere."""
    monkeypatch.syspath_prepend(DOCS)
    hooks = importlib.import_module("hooks")
    index = hooks.index()
    for name, (room, _) in memkit._PUBLIC.items():
        assert re.search(rf"\[`{name}`\]\({re.escape(room)}\.md", index), name
    for file in (ROOT / "memkit").glob("*/**/__init__.py"):
        room = ".".join(file.parent.relative_to(ROOT / "memkit").parts)
        assert all(f"[`{name}`]({room}.md" in index for name in hooks.exported(file)), room
    assert "  - API reference: api/index.md" in (ROOT / "mkdocs.yml").read_text()

"""How objects show themselves: one line with shapes and sizes, and tables whose texts are escaped."""

import re
from html.parser import HTMLParser

import pytest
import torch

from memkit import FrameGraph, History, Hits, KVCache, Memory, MemoryBank, SelfAttentionConcat, Stream, TeacherForcing
from memkit.backbones import VideoFormat, WanBackbone, WanCodec
from memkit.cameras import Cameras
from memkit.display import MOST_ROWS, changed_fields, counted, html_table, listed, parameters_of, size_of
from memkit.encoders import FrequencyEncoder, FrequencyEncoderConfig
from memkit.injectors import AttentionRecorder, FrameContext, FrameContextConfig, RecurrentState
from memkit.probes import make_probe
from memkit.retrievers import FOVRetriever, RandomRetriever
from memkit.rollout import Rollout
from memkit.rollout.methods import NoContext
from memkit.streaming import StreamConfig
from memkit.streaming.memories import longlive
from memkit.video import Video
from tests.helpers.random_wan import random_pipeline

SCRIPT = "<script>alert('&')</script>"
VOID = {"br", "img"}


class Strict(HTMLParser):
    """Collects tags and text, and fails where tags are not closed in order."""

    def __init__(self, page: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.tags: list[str] = []
        self.text = ""
        self.feed(page)
        assert not self.open

    def handle_starttag(self, tag, attrs):
        assert not any(name.startswith("on") for name, _ in attrs)
        self.tags.append(tag)
        self.open += [] if tag in VOID else [tag]

    def handle_endtag(self, tag):
        assert self.open.pop() == tag

    def handle_data(self, data):
        self.text += data


def path(count: int) -> Cameras:
    eye = torch.arange(count).float()[:, None] * torch.tensor([1.0, 0, 0])
    return Cameras.look_at(eye, eye + torch.tensor([0.0, 2, 0]), fov_degrees=60.0)


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    bank = MemoryBank.create(tmp_path_factory.mktemp("shown") / "bank")
    with bank:
        for i in range(MOST_ROWS + 2):
            bank.add(f"{SCRIPT}{i}", torch.zeros(16, 3, 4, 4), f"{SCRIPT} {'long ' * 200}", source=SCRIPT)
    return bank


def shown(bank):
    """Objects, and what their lines have to say."""
    backbone = WanBackbone.from_pipeline(random_pipeline(), VideoFormat(5, 32, 32, 8.0))
    stream = Stream(backbone, 7, 10**6, StreamConfig(chunk=1, steps=1, guidance_scale=1.0))
    stream.generate("a ball")
    history = History(budget=10**6)
    history.add(torch.zeros(2, 16, 3, 4, 4), None, [4, 5, 6])
    memory, cameras = Memory(torch.zeros(1, 20, 48)), path(3)
    encoder = FrequencyEncoder(FrequencyEncoderConfig(latent_channels=16, dim=48, hidden=16, width=24))
    injector = SelfAttentionConcat(memory)
    context = FrameContext(FrameContextConfig.of(backbone.transformer))
    batch = make_probe("recall").sample(torch.Generator().manual_seed(0), 2)
    with injector.attach(backbone) as attached:
        yield attached, ["attached to WanTransformer3DModel", "20, 48"]
    yield attached, ["detached"]
    yield injector, ["[1, 20, 48] float32"]
    yield cameras, ["[3]", "cpu"]
    yield Hits(["a", "b", "c", "d"], [0.91234, 0.5, 0.25, 0.1]), ["a 0.912", "c 0.25", "…"]
    yield stream, ["1 video", "seed 7", "position 1", "1 frame at 0", "MB"]
    yield stream.cache, ["cond: 1 frame at 0", "of 1.0 MB"]
    yield stream.cache.branch("cond"), ["1 frame at 0", "3 layers", "MB"]
    yield longlive(), ["9 frames", "window=12"]
    yield history, ["3 frames at times 4…6", "kB of 1.0 MB"]
    yield Rollout(backbone, NoContext(context), seeds=1), ["NoContext", "nothing observed"]
    yield encoder, ["dim=48", "hidden=16", "…", "k parameters"]
    yield AttentionRecorder(), ["0 forward passes"]
    yield RecurrentState(), ["main", "0 frames"]
    yield FOVRetriever(cameras), ["3 frames"]
    yield RandomRetriever(bank), ["12 clips"]
    yield WanCodec(backbone.pipeline().vae, backbone.video_format), ["16 channels", "parameters", "fps=8.0"]
    yield batch, ["memory=[2, 4, 11, 4, 4] float32", "questions"]
    yield batch.questions[0], ["kind='fact'", "answer=[2] int64"]
    yield FrameGraph.chunks(12, 3, degraded=[(3, 6)]), ["4 chunks", "12 frames", "1 seed", "2 recovery"]
    yield TeacherForcing(), ["TeacherForcing()"]
    yield Video(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), 8.0), ["frames=[4, 32, 32, 3] uint8", "fps=8.0"]


def test_a_line_says_what_one_wants_to_know(bank):
    for thing, facts in shown(bank):
        line = repr(thing)
        assert "\n" not in line and len(line) <= 320, line
        assert not [fact for fact in facts if fact not in line], line
    assert len(repr(bank)) <= 300 and len(repr(Hits([SCRIPT] * 500, [0.5] * 500))) <= 200


def test_tables_escape_what_others_wrote(bank):
    hits = Hits([f"{SCRIPT}{i}" for i in range(MOST_ROWS + 3)], [0.5] * (MOST_ROWS + 3))
    graph, video = FrameGraph.chunks(6, 3), Video(torch.zeros(4, 32, 32, 3, dtype=torch.uint8), 8.0)
    things = {"bank": bank, "hits": hits, "path": path(12), "graph": graph, "cache": KVCache(1000), "video": video}
    pages = {name: Strict(thing._repr_html_()) for name, thing in things.items()}
    for page in pages.values():
        assert "script" not in page.tags and len(page.tags) < 200
    assert pages["bank"].text.count(SCRIPT) == 3 * MOST_ROWS and "… and 2 more" in pages["bank"].text
    assert all(len(cell) < 300 for cell in re.split("<t[hd]", bank._repr_html_()))
    assert pages["hits"].text.count(SCRIPT) == MOST_ROWS and "… and 3 more" in pages["hits"].text
    assert pages["graph"].text.count("●") == len(graph.visible(1).nonzero()) // 9
    row = ["2", "2.00, 0.00, 0.00", "0.00, 1.00, 0.00", "60°"]
    assert "".join(row) in pages["path"].text and "… and 2 more" in pages["path"].text
    assert pages["video"].tags == ["video"]


def test_numbers_are_short():
    sizes = {0: "0 B", 999: "999 B", 1000: "1.0 kB", 287_539_200: "287.5 MB", 3 * 10**9: "3.0 GB"}
    assert [size_of(n) for n in sizes] == list(sizes.values())
    runs = {(): "", (3,): "3", (0, 1, 2): "0…2", (0, 2): "0, 2", (1, 2, 3, 5, 8, 9): "1, 2, 3, 5, …, 9"}
    assert [listed(run) for run in runs] == list(runs.values())
    assert counted(1, "frame") == "1 frame" and counted(1200, "pass", "passes") == "1,200 passes"
    assert parameters_of(torch.nn.Linear(10, 100)) == "1.1 k parameters"
    assert changed_fields(StreamConfig(chunk=5)) == "chunk=5, …"
    assert Strict(html_table("<b>", ["<i>"], [["<u>"]])).text == "<b><i><u>"

"""The report holds everything inside it and shows every text as it is; strips and sheets show the frames they name."""

import base64
import io
import math
import re
from html.parser import HTMLParser
from pathlib import Path

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from PIL import Image

from memkit.errors import InputError
from memkit.report import (
    Comparison,
    ContextAttention,
    GeneratedVideo,
    HitClip,
    RolloutSection,
    contact_sheet,
    filmstrip,
    render_report,
    render_rollouts,
)
from memkit.report.sheet import GAP, HEADING, LABEL_WIDTH, MARGIN, evenly
from memkit.video import read_video

VOID = {"meta", "img", "link", "br", "hr", "input", "source"}


class Page(HTMLParser):
    """Elements, their attributes and texts; refuses what is not closed in order."""

    def __init__(self, html: str) -> None:
        super().__init__()
        self.open: list[str] = []
        self.elements: list[tuple[str, dict[str, str]]] = []
        self.texts: list[str] = []
        self.feed(html)
        self.close()
        assert not self.open, f"never closed: {self.open}"

    def handle_starttag(self, tag, attrs):
        self.elements.append((tag, {name: value or "" for name, value in attrs}))
        if tag not in VOID:
            self.open.append(tag)

    def handle_endtag(self, tag):
        assert self.open and self.open.pop() == tag

    def handle_data(self, data):
        if self.open and self.open[-1] not in ("script", "style"):
            self.texts.append(data)

    def all(self, tag: str) -> list[dict[str, str]]:
        return [attributes for name, attributes in self.elements if name == tag]


def clip(seed: int, frames: int = 5, size: int = 32) -> torch.Tensor:
    """Blocks of colour that move from frame to frame."""
    generator = torch.Generator().manual_seed(seed)
    video = torch.randint(0, 256, (1, 4, 4, 3), generator=generator).repeat_interleave(size // 4, 1)
    video = video.repeat_interleave(size // 4, 2).repeat(frames, 1, 1, 1)
    return torch.stack([frame.roll(i, 1) for i, frame in enumerate(video)]).to(torch.uint8)


def comparison(prompt: str = "a ball", caption: str = "a cube", hits: int = 2, seed: int = 0) -> Comparison:
    return Comparison(
        prompt=prompt,
        query="what is searched",
        without=clip(seed),
        with_memory=clip(seed + 1),
        hits=[HitClip(f"clip{i}.mp4", 0.5 - i / 10, caption, clip(seed + 2 + i)) for i in range(hits)],
        attention=torch.arange(12.0).reshape(4, 3) / 20,
        even_share=0.25,
        note="watch the ball",
    )


def render(*comparisons: Comparison, **settings_: str) -> str:
    return render_report("A title", "An introduction.", "A caveat.", comparisons, settings_, 8.0)


def video_of(uri: str, folder: Path) -> torch.Tensor:
    head, data = uri.split(",")
    assert head == "data:video/mp4;base64"
    (folder / "v.mp4").write_bytes(base64.b64decode(data, validate=True))
    video = read_video(folder / "v.mp4")
    assert video.fps == pytest.approx(8.0)
    return video.frames


def psnr(a: torch.Tensor, b: torch.Tensor) -> float:
    return 10 * math.log10(255**2 / (a.float() - b.float()).square().mean().item())


def test_nothing_is_loaded_from_outside():
    html = render(comparison(), comparison(), Model="tiny")
    page = Page(html)
    assert not re.search(r"https?:|@import|url\(|//[a-z]", re.sub(r"base64,[^\"]*", "", html))
    for tag, attributes in page.elements:
        assert tag not in ("link", "iframe", "object", "embed", "base") and "href" not in attributes
        assert attributes.get("src", "data:").startswith("data:") and "srcset" not in attributes
    policy = next(m["content"] for m in page.all("meta") if m.get("http-equiv") == "Content-Security-Policy")
    assert "default-src 'none'" in policy


def test_every_video_plays_by_itself_and_keeps_its_frames_and_colours(tmp_path):
    compared = [comparison(), comparison(seed=10, hits=3)]
    expected = [v for c in compared for v in (c.without, c.with_memory, *(hit.frames for hit in c.hits))]
    videos = Page(render(*compared)).all("video")
    assert len(videos) == len(expected) == 9
    for attributes, frames in zip(videos, expected, strict=True):
        assert {"autoplay", "loop", "muted", "playsinline"} <= attributes.keys()
        shown = video_of(attributes["src"], tmp_path)
        assert shown.shape == (5, 64, 64, 3)  # doubled: colour is stored at half the resolution
        assert psnr(shown[:, ::2, ::2], frames) > 30 and psnr(shown[:, 1::2, 1::2], frames) > 30


def test_colours_of_single_pixels_survive(tmp_path):
    stripes = torch.zeros(3, 32, 32, 3, dtype=torch.uint8)
    stripes[:, :, ::2, 0], stripes[:, :, 1::2, 2] = 220, 220  # red and blue, one pixel wide
    pair = Comparison("x", "q", stripes, stripes, [], torch.zeros(1, 1), 0.0)
    shown = video_of(Page(render(pair)).all("video")[0]["src"], tmp_path)
    assert psnr(shown[:, ::2, ::2], stripes) > 30


def test_large_videos_are_not_enlarged(tmp_path):
    large = clip(0, 2, 256)[:, :, :200]
    pair = Comparison("x", "q", large, large, [], torch.zeros(1, 1), 0.0)
    html = render(pair)
    assert video_of(Page(html).all("video")[0]["src"], tmp_path).shape == (2, 256, 200, 3)
    assert "pixelated" not in html and "pixelated" in render(comparison())


EVIL = '<script>alert("1")</script> & "\'</style><img src=x onerror=alert(1)> {{ 7 * 7 }} {% raw %}'


@given(st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), min_size=1))
@settings(max_examples=10, deadline=None)
def test_texts_are_shown_as_they_are(text):
    frame = clip(0, 1, 4)
    one = Comparison("x", "q", frame, frame, [HitClip("i", 0.5, "c", frame)], torch.zeros(1, 1), 0.0, "n")
    plain = Page(render(one, Model="m", other="v"))
    text = text + EVIL
    other = Comparison(text, text, frame, frame, [HitClip(text, 0.5, text, frame)], torch.zeros(1, 1), 0.0, text)
    page = Page(render(other, Model=text, **{text: "v"}))
    assert [tag for tag, _ in page.elements] == [tag for tag, _ in plain.elements]
    assert page.texts.count(text) == 4  # note, caption, value and name of settings
    assert f"“{text}”" in page.texts and f"Memory: found for “{text}”" in page.texts
    assert f"{text} · score 0.500" in page.texts
    assert [m["aria-label"] for m in page.all("video")][2] == f"retrieved clip {text}"


def test_the_table_shows_each_layer_and_step_on_one_scale():
    first, second = comparison(), comparison()
    second.attention[:] = second.attention / 2
    page = Page(render(first, second))
    shades = torch.tensor([float(cell["style"].removeprefix("--a:")) for cell in page.all("td")]).reshape(2, 3, 4)
    assert torch.allclose(shades[0], first.attention.T / first.attention.max(), atol=6e-4)
    assert torch.allclose(shades[1], shades[0] / 2, atol=1.1e-3)
    assert page.all("td")[5]["title"] == "layer 2, step 2: 20.0 %"
    assert "28 % on average; 25 % if every token got the same" in page.texts


def test_a_report_without_hits_or_attention_is_still_a_report():
    html = render(Comparison("x", "q", clip(0, 1), clip(0, 1), [], torch.zeros(0, 0), 0.0))
    assert len(Page(html).all("video")) == 2 and "nan" not in html.split("<body>")[1].split("base64")[0].lower()
    with pytest.raises(InputError, match="at least one"):
        render()


def test_strips_in_the_page_are_the_frames():
    one = comparison()
    images = [attributes["src"].split(",")[1] for attributes in Page(render(one)).all("img")]
    for data, frames in zip(images, (one.without, one.with_memory, one.hits[0].frames), strict=True):
        strip = np.asarray(Image.open(io.BytesIO(base64.b64decode(data))).convert("RGBA"))
        assert strip.shape == (32, 5 * 32 + 4 * 2, 4)
        for i in range(5):
            assert (strip[:, 34 * i : 34 * i + 32, :3] == frames[i].numpy()).all()
        assert not strip[:, 32:34, 3].any()


@given(st.integers(1, 100), st.integers(1, 100))
def test_chosen_frames_are_evenly_spaced(length, count):
    chosen = evenly(length, count)
    assert len(chosen) == min(length, count) and chosen[0] == 0
    if len(chosen) > 1:
        steps = [b - a for a, b in zip(chosen, chosen[1:], strict=False)]
        assert chosen[-1] == length - 1 and min(steps) >= 1 and max(steps) - min(steps) <= 1


@pytest.mark.parametrize("columns", [1, 3, 5, 9])
def test_a_sheet_has_its_rows_and_columns(columns):
    a, b, c = clip(0), clip(1), clip(2)
    sheet = contact_sheet(
        [("one", [("a", a), ("b", b)]), ("two " * 200, [("c" * 90 + "\n" + "d" * 90, c)])], columns, 64
    )
    shown = min(columns, 5)
    assert sheet.width == 2 * MARGIN + LABEL_WIDTH + shown * 64 + (shown - 1) * GAP
    assert sheet.height == MARGIN + 2 * (HEADING + MARGIN) + 3 * (64 + GAP)
    pixels = np.asarray(sheet)
    tops = [MARGIN + HEADING, MARGIN + HEADING + 64 + GAP, 2 * MARGIN + 2 * HEADING + 2 * (64 + GAP)]
    for frames, top in zip((a, b, c), tops, strict=True):
        for column, index in enumerate(evenly(5, columns)):
            left = MARGIN + LABEL_WIDTH + column * (64 + GAP)
            cell = pixels[top : top + 64, left : left + 64]
            assert (cell[::2, ::2] == frames[index].numpy()).all() and (cell[1::2, 1::2] == cell[::2, ::2]).all()
    labels = pixels[tops[2] : tops[2] + 64, MARGIN : MARGIN + LABEL_WIDTH]
    inked = (labels != labels[0, 0]).any((1, 2))
    assert inked[:31].any() and not inked[31:33].any() and inked[33:].any()  # two lines, which stay in their place
    assert (pixels[tops[2] : tops[2] + 64, MARGIN + LABEL_WIDTH - 6 : MARGIN + LABEL_WIDTH] == labels[0, 0]).all()


def test_frames_are_averaged_when_reduced_and_keep_their_proportions():
    frames = clip(0, 3, 64)[:, :, :32]
    strip = np.asarray(filmstrip(frames, 3, 32).convert("RGB"))
    assert strip.shape == (32, 3 * 16, 3)
    mean = frames[1].float().reshape(32, 2, 16, 2, 3).mean((1, 3)).numpy()
    assert np.abs(strip[:, 16:32].astype(float) - mean).max() <= 1
    for wrong in ({"columns": 0}, {"height": 0}, {"gap": -1}):
        with pytest.raises(InputError, match="positive sizes"):
            filmstrip(frames, **{"columns": 3, "height": 32, **wrong})
    with pytest.raises(InputError, match="at least one row"):
        contact_sheet([("a heading alone", [])])


def rollouts(marks: int = 20, **changes: object) -> str:
    watched = ContextAttention("What <b>", "note", [3, 4, 4], noise(3), torch.tensor([0.1, 0.4, 0.0]), 0.2)
    videos = [GeneratedVideo(name, f"{i} dB", noise(20)) for i, name in enumerate(("truth", "a&b"))]
    section = RolloutSection("room <1>", "turns", videos, "Frames", [f"{i}°" for i in range(marks)], [watched])
    return render_rollouts("Title", "intro", "caveat", [section], {"a": "600 steps"}, 8.0)


def noise(frames: int) -> torch.Tensor:
    return torch.randint(0, 256, (frames, 16, 16, 3), dtype=torch.uint8, generator=torch.Generator().manual_seed(0))


def test_rollouts_are_side_by_side_with_what_was_attended_to():
    html = rollouts()
    assert not re.search(r"https?:|@import|url\(|//[a-z]", re.sub(r"base64,[^\"]*", "", html))
    assert html.count("<video") == 2 and "room &lt;1&gt;" in html and "What &lt;b&gt;" in html and "a&amp;b" in html
    assert re.findall(r"<i style=\"height:([\d.]+)px", html) == ["18.0", "72.0", "0.0"]
    assert set(re.findall(r"<u style=\"bottom:([\d.]+)px", html)) == {"36.0"}
    marks = re.findall(r"<span>(\d+)°</span>", html)
    assert marks == [str(i) for i in evenly(20, 17)]
    with pytest.raises(InputError, match="equal length"):
        rollouts(marks=19)

"""What a caption file names is in the bank, encoded as it would be by hand; what cannot be is reported."""

import csv
import random
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.autoencoders.autoencoder_kl_wan import AutoencoderKLWan
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import Tensor

from memkit.banks import MemoryBank, build_bank, read_captions
from memkit.errors import BankError, InputError
from memkit.video import read_clip, resize, to_model, write_video
from memkit.worlds import sample_law
from tests.helpers.forked import wait_for


@dataclass(frozen=True)
class Format:
    num_frames: int = 5
    height: int = 32
    width: int = 48
    fps: float = 8.0


class Encoder:
    """A stock Wan VAE, small and untrained."""

    def __init__(self) -> None:
        torch.manual_seed(0)
        self.vae = AutoencoderKLWan(
            base_dim=8, z_dim=16, dim_mult=[1, 2, 4], num_res_blocks=1, temperal_downsample=[True, True],
            patch_size=2, in_channels=12, out_channels=12,
        ).eval()  # fmt: skip
        self.video_format = Format()
        self.calls = 0
        self.fail_at = -1

    def encode_video(self, video: Tensor) -> Tensor:
        assert not torch.is_grad_enabled()
        self.calls += 1
        if self.calls == self.fail_at:
            raise KeyboardInterrupt
        encoded: Any = self.vae.encode(video)
        return encoded.latent_dist.mode()


@pytest.fixture(scope="module")
def vae_encoder() -> Encoder:
    return Encoder()


@pytest.fixture
def encoder(vae_encoder) -> Encoder:
    vae_encoder.calls, vae_encoder.fail_at = 0, -1
    return vae_encoder


@pytest.fixture(scope="module")
def made(tmp_path_factory) -> Path:
    folder = tmp_path_factory.mktemp("videos")
    (folder / "sub").mkdir()
    for i, name in enumerate(("a.mp4", "b.mp4", "sub/a.mp4")):
        write_video(folder / name, sample_law(random.Random(i)).video(fps=8.0), 8)
    (folder / "broken.mp4").write_bytes(b"no video")
    return folder


def write_csv(path: Path, rows: list[list[str]], encoding: str = "utf-8") -> Path:
    with open(path, "w", newline="", encoding=encoding) as file:
        csv.writer(file).writerows(rows)
    return path


def test_a_clip_in_the_bank_is_what_its_parts_give(tmp_path, made, encoder):
    rows = [["video", "caption"], ["a.mp4", 'a "red", round ball'], ["sub/a.mp4", "zweiter Ball, größer"]]
    report = build_bank(made, write_csv(tmp_path / "c.csv", rows), tmp_path / "b", encoder, "m", dtype="fp32")
    assert report == (["a.mp4", "sub/a.mp4"], [], [])
    bank = MemoryBank.open(tmp_path / "b")
    assert bank.ids == ["a.mp4", "sub/a.mp4"] and bank.sources == ["a", "a"]
    assert bank.captions == ['a "red", round ball', "zweiter Ball, größer"]
    assert bank.info == {
        "model": "m", "num_frames": 5, "height": 32, "width": 48, "fps": 8.0,
        "cut": "start", "pad": "hold", "resize": "crop", "dtype": "fp32",
    }  # fmt: skip
    for id in bank.ids:
        with torch.no_grad():
            by_hand = encoder.encode_video(to_model(resize(read_clip(made / id, 8, 5), 32, 48)))[0]
        assert by_hand.shape == (16, 2, 4, 6) and torch.equal(bank.clip(id).latents, by_hand)
    assert not torch.equal(bank.clip("a.mp4").latents, bank.clip("sub/a.mp4").latents)


def test_the_format_and_the_rules_can_be_chosen(tmp_path, made, encoder):
    captions = write_csv(tmp_path / "c.csv", [["video", "caption"], ["a.mp4", "x"]])
    options: dict[str, Any] = {"num_frames": 9, "height": 64, "width": 32, "fps": 4.0, "cut": "center", "pad": "loop"}
    build_bank(made, captions, tmp_path / "b", encoder, "m", resize_rule="stretch", dtype="fp16", **options)
    bank = MemoryBank.open(tmp_path / "b")
    frames = resize(read_clip(made / "a.mp4", 4.0, 9, "center", "loop"), 64, 32, "stretch")
    with torch.no_grad():
        assert torch.equal(bank.clip("a.mp4").latents, encoder.encode_video(to_model(frames))[0].half())
    assert bank.info == {"model": "m", "resize": "stretch", "dtype": "fp16", **options}
    build_bank(made, captions, tmp_path / "default", encoder, "m")
    assert MemoryBank.open(tmp_path / "default").dtypes == [torch.bfloat16]
    wrong: dict[str, Any]
    for wrong in ({"num_frames": 0}, {"height": -2}, {"fps": 0.0}, {"fps": 1e-9}):
        with pytest.raises(InputError, match="sizes of 1 or more|fps is"):
            build_bank(made, captions, tmp_path / "c", encoder, "m", **wrong)


def test_every_bad_item_is_reported_and_every_good_one_kept(tmp_path, made, encoder):
    rows = [
        ["video_path", "caption", "id", "source", "score"],
        ["a.mp4", "good", "one", "film", "0.5"],
        ["b.mp4", "  ", "two", "", ""],
        ["gone.mp4", "x", "three", "", ""],
        ["../secret.mp4", "x", "four", "", ""],
        ["broken.mp4", "x", "five", "", ""],
        ["b.mp4", "x", "one", "", ""],
        ["", "x", "six", "", ""],
        ["b.mp4", "a ball", " falls", "", "", "too", "many"],
        ["b.mp4"],
        ["sub", "a folder", "", "", ""],
        ["/etc/hosts", "x", "", "", ""],
        [str(made / "b.mp4"), "an absolute path inside", "", "", ""],
        ["sub/../b.mp4", "in and out again", "last", "", ""],
        ["b.mp4", "x", "a\tb", "", ""],
    ]
    (tmp_path / "secret.mp4").write_bytes((made / "a.mp4").read_bytes())
    report = build_bank(made, write_csv(tmp_path / "c.csv", rows), tmp_path / "b", encoder, "m")
    assert report.added == ["one", "b.mp4", "last"]
    bank = MemoryBank.open(tmp_path / "b")
    assert bank.ids == report.added and bank.sources == ["film", "b", "b"] and bank.verify().clips == 3
    assert bank.captions == ["good", "an absolute path inside", "in and out again"]
    reasons = {item.line: (item.name, item.reason) for item in report.bad}
    expected = {
        3: ("b.mp4", "caption is blank"),
        4: ("gone.mp4", "no file .*gone.mp4"),
        5: ("../secret.mp4", "leads out of"),
        6: ("five", "broken.mp4 cannot be opened"),
        7: ("one", "line 2 has the id 'one'"),
        8: ("line 8", "names no video"),
        9: ("b.mp4", "more fields than columns"),
        10: ("b.mp4", "caption is blank"),
        11: ("sub", "no file"),
        12: ("/etc/hosts", "leads out of"),
        15: ("a\tb", "cannot be the id"),
    }
    assert list(reasons) == list(expected)
    for line, (name, reason) in expected.items():
        assert reasons[line][0] == name
        with pytest.raises(InputError, match=reason):
            raise InputError(reasons[line][1])


def test_an_interrupted_build_goes_on_and_ends_as_if_it_had_not_been(tmp_path, made, encoder):
    rows = [["video", "caption"], ["a.mp4", "x"], ["b.mp4", "y"], ["sub/a.mp4", "z"]]
    captions = write_csv(tmp_path / "c.csv", rows)
    build_bank(made, captions, tmp_path / "whole", encoder, "m")
    encoder.calls, encoder.fail_at = 0, 2
    with pytest.raises(KeyboardInterrupt):
        build_bank(made, captions, tmp_path / "b", encoder, "m")
    assert MemoryBank.open(tmp_path / "b").ids == ["a.mp4"]
    encoder.calls, encoder.fail_at = 0, -1
    report = build_bank(made, captions, tmp_path / "b", encoder, "m")
    assert report == (["b.mp4", "sub/a.mp4"], ["a.mp4"], []) and encoder.calls == 2
    assert MemoryBank.open(tmp_path / "b").fingerprint == MemoryBank.open(tmp_path / "whole").fingerprint
    rows[1][1] = "another caption"
    report = build_bank(made, write_csv(tmp_path / "c.csv", rows), tmp_path / "b", encoder, "m")
    assert [item.name for item in report.bad] == ["a.mp4"] and "another caption" in report.bad[0].reason


def test_clips_are_committed_while_the_build_runs(tmp_path, made, encoder, monkeypatch):
    """After the commit interval nothing waits: at each clip, all before it can be read by others."""
    monkeypatch.setattr("memkit.banks.build.COMMIT_SECONDS", 0.0)
    seen = []
    encode = encoder.encode_video
    monkeypatch.setattr(
        encoder, "encode_video", lambda video: (seen.append(MemoryBank.open(tmp_path / "b").ids), encode(video))[1]
    )
    rows = [["video", "caption"], ["a.mp4", "x"], ["b.mp4", "y"], ["sub/a.mp4", "z"]]
    build_bank(made, write_csv(tmp_path / "c.csv", rows), tmp_path / "b", encoder, "m")
    assert seen == [[], ["a.mp4"], ["a.mp4", "b.mp4"]]


def test_the_next_video_is_decoded_while_one_is_encoded(tmp_path, made, encoder, monkeypatch):
    """And those that are in the bank, or fail to be read, are neither awaited nor put in the place of others."""
    rows = [["video", "caption"], ["a.mp4", "x"], ["broken.mp4", "y"], ["sub/a.mp4", "z"], ["b.mp4", "z"]]
    build_bank(made, write_csv(tmp_path / "c.csv", [rows[0], rows[3]]), tmp_path / "b", encoder, "m")
    read, encoded = [], []

    def reading(file, *settings):
        read.append(str(file.relative_to(made)))
        return read_clip(file, *settings)

    def encode(video):
        encoded.append(video)
        wait_for(lambda: len(read) == 3)  # all, while the first is encoded
        return encode_video(video)

    encode_video = encoder.encode_video
    monkeypatch.setattr("memkit.banks.build.read_clip", reading)
    monkeypatch.setattr(encoder, "encode_video", encode)
    report = build_bank(made, write_csv(tmp_path / "c.csv", rows), tmp_path / "b", encoder, "m")
    assert (report.added, report.present) == (["a.mp4", "b.mp4"], ["sub/a.mp4"]) and len(report.bad) == 1
    assert sorted(read) == ["a.mp4", "b.mp4", "broken.mp4"] and len(encoded) == 2
    for id, video in zip(("a.mp4", "b.mp4"), encoded, strict=True):
        assert torch.equal(video, to_model(resize(read_clip(made / id, 8, 5), 32, 48)))


def test_a_bank_of_other_settings_is_refused(tmp_path, made, encoder):
    captions = write_csv(tmp_path / "c.csv", [["video", "caption"], ["a.mp4", "x"]])
    build_bank(made, captions, tmp_path / "b", encoder, "m")
    before = MemoryBank.open(tmp_path / "b").fingerprint
    options: dict[str, Any]
    for model, options in (("n", {}), ("m", {"width": 32}), ("m", {"dtype": "fp32"}), ("m", {"cut": "center"})):
        name, value = next(iter(options.items()), ("model", model))
        with pytest.raises(BankError, match=f"made with {name} .*not {value!r}"):
            build_bank(made, captions, tmp_path / "b", encoder, model, **options)
    (tmp_path / "full").mkdir()
    (tmp_path / "full" / "x").touch()
    with pytest.raises(BankError, match="not empty"):
        build_bank(made, captions, tmp_path / "full", encoder, "m")
    assert MemoryBank.open(tmp_path / "b").fingerprint == before


def test_a_bank_that_another_writes_stops_the_build(tmp_path, made, encoder):
    """It is no fault of the clips: they are not reported one by one."""
    captions = write_csv(tmp_path / "c.csv", [["video", "caption"], ["a.mp4", "x"], ["b.mp4", "y"]])
    build_bank(made, write_csv(tmp_path / "d.csv", [["video", "caption"]]), tmp_path / "b", encoder, "m")
    with MemoryBank.open(tmp_path / "b") as other:
        other.add("z", torch.ones(16, 2, 4, 6), "")
        with pytest.raises(BankError, match="another process"):
            build_bank(made, captions, tmp_path / "b", encoder, "m")
    assert encoder.calls == 1


def test_values_that_fp16_cannot_hold_are_reported(tmp_path, made, encoder, monkeypatch):
    encode = encoder.encode_video
    monkeypatch.setattr(encoder, "encode_video", lambda video: encode(video) * 1e6)
    captions = write_csv(tmp_path / "c.csv", [["video", "caption"], ["a.mp4", "x"]])
    report = build_bank(made, captions, tmp_path / "b", encoder, "m", dtype="fp16")
    assert not report.added and "'a.mp4'" in report.bad[0].reason and "not finite" in report.bad[0].reason
    assert len(MemoryBank.open(tmp_path / "b")) == 0


@pytest.mark.parametrize("column", ["video", "Video", "video_path"])
@pytest.mark.parametrize("encoding", ["utf-8", "utf-8-sig"])
def test_the_columns_of_the_release_are_known(tmp_path, made, column, encoding):
    rows = [[column, "caption", "Semantic", "quality"], ["a.mp4", "é, ü", "0.1", "2"]]
    good, bad = read_captions(write_csv(tmp_path / "c.csv", rows, encoding), made)
    assert not bad and good == [(2, made / "a.mp4", "é, ü", "a.mp4", "a")]


@pytest.mark.parametrize(
    "row, reason",
    [
        ('a.mp4,"never closed', "unexpected end"),
        ('a.mp4,"a \\"red\\" ball, falls"', "expected after"),
        (f'a.mp4,"{"x" * 200_000}"', "field larger than"),
        ("a.mp4,a red ball, falls", "more fields than columns"),
    ],
)
def test_a_bad_row_is_named_and_the_rows_around_it_are_read(tmp_path, made, row, reason):
    path = tmp_path / "c.csv"
    path.write_text(f'video,caption\nb.mp4,"in two\nlines"\n{row}\n\nsub/a.mp4,last\n')
    good, bad = read_captions(path, made)
    assert [(one.line, one.id, one.caption) for one in good] == [
        (2, "b.mp4", "in two\nlines"),
        (6, "sub/a.mp4", "last"),
    ]
    assert [one.line for one in bad] == [4] and reason in bad[0].reason


def test_a_file_that_is_no_caption_file_is_refused(tmp_path, made):
    path = tmp_path / "c.csv"
    for content, match in (
        (b"", "columns video and caption.*none"),
        (b"file,text\n", "columns video and caption.*file, text"),
        (b"video,text\n", "columns video and caption"),
        (b"video,caption\na.mp4,\xff\n", "not UTF-8"),
        (b'video,"caption\na.mp4,never closed\n', "it is not a row of a CSV"),
        (b"video,caption,Caption\n", "column caption twice"),
        (b"video,caption,video_path\n", "column video twice"),
    ):
        path.write_bytes(content)
        with pytest.raises(InputError, match=f"c.csv .*{match}"):
            read_captions(path, made)
    with pytest.raises(InputError, match="missing.csv"):
        read_captions(tmp_path / "missing.csv", made)
    path.write_text("video,caption\n")
    with pytest.raises(InputError, match="no folder"):
        read_captions(path, tmp_path / "nowhere")


text = st.text(st.characters(codec="utf-8", exclude_categories=("Cs", "Cc")), max_size=20)


@settings(deadline=None)
@given(rows=st.lists(st.tuples(st.sampled_from(["a.mp4", "b.mp4", "x.mp4"]), text, text, text), max_size=8))
def test_each_row_is_either_good_or_bad(made, tmp_path_factory, rows):
    path = write_csv(tmp_path_factory.mktemp("c") / "c.csv", [["video", "caption", "id", "source"], *map(list, rows)])
    good, bad = read_captions(path, made)
    assert sorted([row.line for row in good] + [item.line for item in bad]) == list(range(2, len(rows) + 2))
    assert len({row.id for row in good}) == len(good)
    for row in good:
        video, caption, id, source = rows[row.line - 2]
        assert row.file == made / video != made / "x.mp4" and row.caption == caption.strip() != ""
        assert row.id == (id.strip() or video) and row.source == (source.strip() or video[0])

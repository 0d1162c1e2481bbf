"""A folder of the DiT-Mem release becomes a bank: every clip that can be used, bit for bit; the others are named."""

import csv
import json
import os
import pickle
from pathlib import Path

import faiss
import pytest
import torch

from memkit import cli
from memkit.banks import MemoryBank, import_dit_mem
from memkit.cli import bank as bank_commands
from memkit.encoders import DitMemConfig, DitMemEncoder
from memkit.errors import BankError, InputError
from memkit.retrievers import TextEmbedder, TextRetriever
from memkit.video import read_clip, resize, to_model, write_video
from tests.banks.test_build import Encoder

NAMES = ["drop.mp4", "ramp.mp4", "glass.mp4", "ice.mp4"]
CAPTIONS = ["a ball falls on the moon", "a red cube slides down a ramp", "water fills a glass", "ice melts in the sun"]
SHAPE = (16, 13, 13, 13)


def latents(seed: int, shape=SHAPE) -> torch.Tensor:
    return torch.randn(shape, generator=torch.Generator().manual_seed(seed)).bfloat16()


def save(file: Path, value: torch.Tensor, **more) -> None:
    content = {"latent": value, "video_id": file.stem, "shape": tuple(value.shape), "dtype": str(value.dtype)}
    file.parent.mkdir(parents=True, exist_ok=True)
    torch.save(content | more, file)


def write_json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content))


def write_csv(path: Path, rows: list[list[str]]) -> Path:
    with open(path, "w", newline="") as file:
        csv.writer(file).writerows(rows)
    return path


@pytest.fixture(scope="module")
def embedder() -> TextEmbedder:
    return TextEmbedder(pooling="cls", device="cpu")


@pytest.fixture
def folder(tmp_path, embedder) -> Path:
    folder = tmp_path / "release"
    for i, name in enumerate(NAMES):
        save(folder / "latents" / f"{Path(name).stem}.pt", latents(i))
    index = faiss.IndexFlatIP(embedder.dim)
    index.add(embedder.encode(CAPTIONS).numpy())  # type: ignore
    faiss.write_index(index, str(folder / "labels.index"))
    write_json(folder / "id_map.json", {str(i): name for i, name in enumerate(NAMES)})
    write_json(folder / "metadata.json", [{"video": n, "caption": c} for n, c in zip(NAMES, CAPTIONS, strict=True)])
    return folder


def test_the_folder_becomes_a_bank_bit_for_bit(folder, tmp_path, embedder):
    report = import_dit_mem(folder, tmp_path / "b")
    assert report == (NAMES, [], [], 0, 0)
    bank = MemoryBank.open(tmp_path / "b")
    assert bank.ids == NAMES and bank.captions == CAPTIONS and bank.sources == ["drop", "ramp", "glass", "ice"]
    for i, name in enumerate(NAMES):
        assert torch.equal(bank.clip(name).latents, latents(i)) and bank.clip(name).latents.dtype == torch.bfloat16
    assert bank.info == {"imported": "DiT-Mem", "model": None, "folder": str(folder)}
    assert bank.verify().clips == 4
    released = TextRetriever.from_dit_mem(folder / "labels.index", folder / "id_map.json", embedder)
    for prompt in ("something drops on the moon", "it gets warm"):
        here, there = TextRetriever(bank, embedder)(prompt, 4), released(prompt, 4)
        assert here.ids == there.ids and here.scores == pytest.approx(there.scores, abs=1e-5)


def test_the_bank_feeds_the_released_encoder(folder, tmp_path):
    import_dit_mem(folder, tmp_path / "b")
    encoder = DitMemEncoder(DitMemConfig(channels=(2, 2), grid=(1, 1), dim=8))
    memory = encoder(MemoryBank.open(tmp_path / "b").latents(NAMES[:3]))
    assert memory.tokens.shape == (1, 6, 8) and memory.tokens.isfinite().all()


@pytest.mark.parametrize(
    "content",
    [
        [{"caption": caption} for caption in CAPTIONS],
        {str(i): {"caption": caption, "score": 1} for i, caption in enumerate(CAPTIONS)},
        {str(i): caption for i, caption in enumerate(CAPTIONS)},
        dict(reversed(list(zip(NAMES, CAPTIONS, strict=True)))),
        {name.removesuffix(".mp4"): {"caption": c} for name, c in zip(NAMES, CAPTIONS, strict=True)},
        [{"path": f"/far/{n}", "caption": c} for n, c in reversed(list(zip(NAMES, CAPTIONS, strict=True)))],
    ],
)
def test_every_form_of_metadata_is_read(folder, tmp_path, content):
    write_json(folder / "metadata.json", content)
    assert import_dit_mem(folder, tmp_path / "b").added == NAMES
    assert MemoryBank.open(tmp_path / "b").captions == CAPTIONS


def test_a_memory_csv_takes_the_place_of_metadata_and_blank_captions_are_counted(folder, tmp_path, capsys):
    rows = [["video", "caption", "Semantic", "quality"]]
    rows += [[name, f"{caption}, again", "0.5", "2"] for name, caption in zip(NAMES, CAPTIONS, strict=True)]
    rows[2][1] = "  "
    rows += [["blank.mp4", "", "", ""], ["elsewhere.mp4", "a bell rings", "", ""]]
    captions = write_csv(tmp_path / "memory.csv", rows)
    assert (
        cli.main(["bank", "import-dit-mem", str(folder), "--out", str(tmp_path / "b"), "--captions", str(captions)])
        == 0
    )
    assert MemoryBank.open(tmp_path / "b").captions == [f"{CAPTIONS[i]}, again" for i in (0, 2, 3)]
    expected = "3 clips added, 2 with a blank caption left out, 1 captions are of clips outside the id map, 0 could not"
    said, _next, end = capsys.readouterr().out.split("\n")
    assert said == f"{tmp_path / 'b'}: {expected} be used" and end == ""


def test_without_an_id_map_the_clips_are_those_of_the_captions(folder, tmp_path):
    (folder / "id_map.json").unlink()
    rows = [["video", "caption"], ["ice.mp4", "ice"], ["blank.mp4", ""], ["drop", "drop"]]
    report = import_dit_mem(folder, tmp_path / "b", write_csv(tmp_path / "memory.csv", rows))
    assert report == (["ice.mp4", "drop"], [], [], 1, 0)


def test_of_several_captions_of_a_clip_the_first_that_says_something_counts(folder, tmp_path, caplog):
    rows = [["video", "caption"], *([name, f"{i}"] for i in ("", "one", "two") for name in NAMES)]
    report = import_dit_mem(folder, tmp_path / "b", write_csv(tmp_path / "memory.csv", rows))
    assert report.added == NAMES and report.blank == 4
    assert MemoryBank.open(tmp_path / "b").captions == ["one"] * 4
    assert "4 captions are of clips that already have one" in caplog.text


def test_a_caption_goes_by_its_stem_only_where_that_is_clear(folder, tmp_path):
    for at in ("x", "y"):
        save(folder / at / "drop.pt", latents(7))
    (folder / "labels.index").unlink()
    write_json(folder / "id_map.json", ["x/drop.mp4", "y/drop.mp4", "ice.mp4"])
    write_json(folder / "metadata.json", {"drop": "of which?", "/far/ice.mp4": "ice"})
    report = import_dit_mem(folder, tmp_path / "b")
    assert report.added == ["ice.mp4"] and [item.name for item in report.bad] == ["x/drop.mp4", "y/drop.mp4"]
    assert all("no caption" in item.reason for item in report.bad) and report.unlisted == 1


class Payload:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


def test_every_bad_clip_is_named_and_every_good_one_kept(folder, tmp_path, capsys):
    at = folder / "latents"
    names = [*NAMES, "cut.mp4", "evil.mp4", "small.mp4", "half.mp4", "gone.mp4", "mute.mp4", "two.mp4", "film.mp4",
             "swap.mp4", "nan.mp4"]  # fmt: skip
    (folder / "labels.index").unlink()
    write_json(folder / "id_map.json", names)
    write_json(folder / "metadata.json", {name: f"caption of {name}" for name in names if name != "mute.mp4"})
    (at / "cut.pt").write_bytes((at / "ice.pt").read_bytes()[:-100])
    torch.save({"latent": Payload(tmp_path / "executed")}, at / "evil.pt")
    save(at / "small.pt", latents(5, (16, 5, 13, 13)))
    save(at / "half.pt", latents(5).half())
    save(at / "mute.pt", latents(5))
    save(at / "1" / "two.pt", latents(5))
    save(at / "2" / "two.pt", latents(5))
    save(at / "swap.pt", latents(5), video_id="drop")
    save(at / "nan.pt", latents(5) * torch.nan)
    (folder / "film.mp4").touch()
    command = ["bank", "import-dit-mem", str(folder), "--out", str(tmp_path / "b")]
    assert cli.main(command) == 1
    said = capsys.readouterr()
    out = tmp_path / "b"
    done = f"{out}: 4 clips added, 10 could not be used"
    assert said.out == f'{done}\nNext: memkit retrieve {out} "what to search for"\n' and "Traceback" not in said.err
    reasons = {
        "cut.mp4": "cut off",
        "evil.mp4": "refused",
        "small.mp4": "[16, 5, 13, 13], but the bank's clips are torch.bfloat16 [16, 13, 13, 13]",
        "half.mp4": "torch.float16",
        "gone.mp4": "neither gone.pt nor gone.mp4",
        "mute.mp4": "no caption",
        "two.mp4": "1/two.pt",
        "film.mp4": "give a model",
        "swap.mp4": "the latents of 'drop'",
        "nan.mp4": "not finite",
    }
    lines = [line for line in said.err.splitlines() if line.startswith(f"{folder}: ")]
    assert len(lines) == 10
    for name, reason in reasons.items():
        (line,) = (line for line in lines if line.startswith(f"{folder}: {name}: "))
        assert reason in line
    assert not (tmp_path / "executed").exists()
    assert MemoryBank.open(tmp_path / "b").ids == NAMES
    assert cli.main([*command, "--skip-bad"]) == 0
    assert "0 clips added, 4 were there, 10 could not be used" in capsys.readouterr().out
    save(at / "cut.pt", latents(9))
    assert cli.main([*command, "--skip-bad"]) == 0
    assert MemoryBank.open(tmp_path / "b").ids == [*NAMES, "cut.mp4"]


def test_rows_of_the_csv_that_cannot_be_used_are_named(folder, tmp_path):
    rows = [["video", "caption"], *([n, "x"] for n in NAMES), ["", "y"], ["drop.mp4", "a, b", "c"], ["ice.mp4"]]
    report = import_dit_mem(folder, tmp_path / "b", write_csv(tmp_path / "memory.csv", rows))
    assert report.added == NAMES and report.blank == 1
    assert [(item.line, item.name) for item in report.bad] == [(6, "line 6"), (7, "drop.mp4")]
    assert "names no video" in report.bad[0].reason and "more fields" in report.bad[1].reason


def test_an_interrupted_import_goes_on_and_ends_as_if_it_had_not_been(folder, tmp_path, monkeypatch):
    import_dit_mem(folder, tmp_path / "whole")
    add, calls = MemoryBank.add, iter(range(9))

    def stop_at_the_third(self, *arguments):
        if next(calls) == 2:
            raise KeyboardInterrupt
        add(self, *arguments)

    monkeypatch.setattr(MemoryBank, "add", stop_at_the_third)
    with pytest.raises(KeyboardInterrupt):
        import_dit_mem(folder, tmp_path / "b")
    assert MemoryBank.open(tmp_path / "b").ids == NAMES[:2]
    report = import_dit_mem(folder, tmp_path / "b")
    assert report.added == NAMES[2:] and report.present == NAMES[:2]
    assert MemoryBank.open(tmp_path / "b").fingerprint == MemoryBank.open(tmp_path / "whole").fingerprint


def film(path: Path, value: int) -> None:
    write_video(path, torch.full((6, 32, 48, 3), value, dtype=torch.uint8), 8)


def test_videos_are_encoded_as_bank_build_does(folder, tmp_path, monkeypatch, capsys):
    shape = (16, 2, 4, 6)  # what the encoder below makes
    for i, name in enumerate(NAMES[:2]):
        save(folder / "latents" / f"{Path(name).stem}.pt", latents(i, shape).half())
    for i, name in enumerate(NAMES[2:]):
        (folder / "latents" / f"{Path(name).stem}.pt").unlink()
        film(folder / name, 60 + 90 * i)
    encoder = Encoder()
    monkeypatch.setattr(bank_commands, "_load_encoder", lambda model: encoder)
    command = ["bank", "import-dit-mem", str(folder), "--out", str(tmp_path / "b"), "--model", "some-wan"]
    assert cli.main(command) == 0
    bank = MemoryBank.open(tmp_path / "b")
    assert bank.ids == NAMES and set(bank.shapes) == {shape} and set(bank.dtypes) == {torch.float16}
    assert encoder.calls == 2
    for name in NAMES[2:]:
        with torch.no_grad():
            by_hand = encoder.encode_video(to_model(resize(read_clip(folder / name, 8, 5), 32, 48)))[0].half()
        assert torch.equal(bank.clip(name).latents, by_hand)
    assert bank.info["model"] == "some-wan" and bank.info["num_frames"] == 5 and bank.info["cut"] == "start"
    assert cli.main(command) == 0 and encoder.calls == 4
    assert "0 clips added, 4 were there" in capsys.readouterr().out
    with pytest.raises(BankError, match="made with model 'some-wan', not None"):
        import_dit_mem(folder, tmp_path / "b")


def test_videos_alone_need_no_latents(folder, tmp_path):
    for i, name in enumerate(NAMES):
        (folder / "latents" / f"{Path(name).stem}.pt").unlink()
        film(folder / name, 30 + 50 * i)
    report = import_dit_mem(folder, tmp_path / "b", encoder=Encoder(), model="m")
    assert report.added == NAMES and MemoryBank.open(tmp_path / "b").dtypes == [torch.bfloat16] * 4
    with pytest.raises(InputError, match="give model"):
        import_dit_mem(folder, tmp_path / "c", encoder=Encoder())


def test_a_model_of_another_shape_is_refused_at_the_first_video(folder, tmp_path):
    for name in ("drop", "ice"):
        (folder / "latents" / f"{name}.pt").unlink()
        film(folder / f"{name}.mp4", 90)
    encoder = Encoder()
    with pytest.raises(BankError, match=r"m makes latents \[16, 2, 4, 6\].*\[16, 13, 13, 13\]"):
        import_dit_mem(folder, tmp_path / "b", encoder=encoder, model="m")
    assert encoder.calls == 1


def test_a_folder_that_cannot_be_used_as_a_whole_says_why(folder, tmp_path, capsys):
    def refused(match):
        with pytest.raises(InputError, match=match):
            import_dit_mem(folder, tmp_path / "b")

    with pytest.raises(InputError, match="no folder"):
        import_dit_mem(tmp_path / "nowhere", tmp_path / "b")
    write_json(folder / "metadata.json", {"model": {"name": "gte"}, "count": 4})
    refused("metadata.json has no captions; give a CSV")
    (folder / "metadata.json").write_text("{")
    refused("metadata.json cannot be read as JSON")
    (folder / "metadata.json").unlink()
    refused("no metadata.json.* give a CSV")
    write_json(folder / "id_map.json", NAMES[:3])
    refused("names 3 videos .* 4 vectors")
    (folder / "id_map.json").unlink()
    (folder / "id_map.pkl").write_bytes(pickle.dumps(Payload(tmp_path / "executed")))
    refused("id_map.pkl is a pickle")
    assert not (tmp_path / "executed").exists() and not (tmp_path / "b").exists()
    assert cli.main(["bank", "import-dit-mem", str(folder), "--out", str(tmp_path / "b")]) == 2
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("memkit: ") and "pickle" in line


def test_a_bank_that_was_not_imported_is_refused(folder, tmp_path):
    MemoryBank.create(tmp_path / "b", info={"model": "tiny"})
    with pytest.raises(BankError, match="made with imported None, not 'DiT-Mem'"):
        import_dit_mem(folder, tmp_path / "b")

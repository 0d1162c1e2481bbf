"""The command line: what it prints, where, and with which exit code."""

import subprocess
import sys
from pathlib import Path

import pytest
import torch

from memkit import cli
from memkit.backbones.codec import tiny_folder
from memkit.banks import ClipStream, MemoryBank
from memkit.cli import bank as bank_commands
from memkit.video import write_video
from tests.banks.test_build import Encoder, write_csv


@pytest.fixture
def videos(tmp_path) -> Path:
    folder = tmp_path / "videos"
    folder.mkdir()
    for i, name in enumerate(("a.mp4", "b.mp4")):
        write_video(folder / name, torch.full((6, 32, 48, 3), 90 * i + 20, dtype=torch.uint8), 8)
    return folder


@pytest.fixture
def bank(tmp_path) -> Path:
    bank = MemoryBank.create(tmp_path / "bank", info={"model": "tiny", "fps": 8})
    captions = ["a rubber ball\tbounces\non the moon", "a glass of water is poured", "an iron cube falls in the desert"]
    for i, caption in enumerate(captions):
        bank.add(f"clip{i}", torch.full((16, 2, 4, 4), float(i)).half(), caption, source="one film")
    return bank.path


def build(videos: Path, captions: Path, out: Path, *options: str) -> int:
    paths = ["--videos", str(videos), "--captions", str(captions), "--out", str(out)]
    return cli.main(["bank", "build", *paths, *options])


def test_build_lists_bad_items_and_exits_accordingly(tmp_path, videos, capsys, monkeypatch):
    monkeypatch.setattr(bank_commands, "_load_encoder", lambda model: Encoder())
    rows = [["video", "caption"], ["a.mp4", "x"], ["gone.mp4", "y"], ["b.mp4", "z"]]
    captions = write_csv(tmp_path / "c.csv", rows)
    assert build(videos, captions, tmp_path / "b", "--model", "tiny", "--dtype", "fp32", "--num-frames", "9") == 1
    said = capsys.readouterr()
    assert f"{captions}:3: gone.mp4: there is no file" in said.err and "Traceback" not in said.err
    bank = tmp_path / "b"
    done = f"{bank}: 2 clips added, 1 could not be used"
    assert said.out == f'{done}\nNext: memkit retrieve {bank} "what to search for"\n'
    bank = MemoryBank.open(tmp_path / "b")
    assert bank.ids == ["a.mp4", "b.mp4"] and bank.shapes == [(16, 3, 4, 6)] * 2 and bank.dtypes[0] == torch.float32
    same = ("--model", "tiny", "--dtype", "fp32", "--num-frames", "9")
    assert build(videos, captions, tmp_path / "b", *same, "--skip-bad") == 0
    said = capsys.readouterr()
    assert "gone.mp4" in said.err and "0 clips added, 2 were there, 1 could not be used\n" in said.out
    assert build(videos, captions, tmp_path / "b", "--model", "other", "--dtype", "fp32", "--num-frames", "9") == 2
    assert "made with model 'tiny', not 'other'" in capsys.readouterr().err
    del rows[2]
    assert build(videos, write_csv(captions, rows), tmp_path / "b", *same) == 0


@pytest.mark.skipif(not tiny_folder().exists(), reason="the weights of tiny-wan are not in this checkout")
def test_build_with_tiny_wan(tmp_path, videos):
    captions = write_csv(tmp_path / "c.csv", [["video", "caption"], ["a.mp4", "x"]])
    assert build(videos, captions, tmp_path / "b", "--model", "tiny") == 0
    bank = MemoryBank.open(tmp_path / "b")
    assert bank.shapes == [(16, 5, 8, 8)] and bank.info["num_frames"] == 17 and bank.info["model"] == "tiny"


def test_an_interrupted_build_says_how_to_go_on(tmp_path, videos, capsys, monkeypatch):
    encoder = Encoder()
    encoder.fail_at = 2
    monkeypatch.setattr(bank_commands, "_load_encoder", lambda model: encoder)
    captions = write_csv(tmp_path / "c.csv", [["video", "caption"], ["a.mp4", "x"], ["b.mp4", "z"]])
    assert build(videos, captions, tmp_path / "b", "--model", "tiny") == 130
    assert capsys.readouterr().err.splitlines()[-1].startswith("memkit: interrupted")
    assert MemoryBank.open(tmp_path / "b").ids == ["a.mp4"]


def test_a_model_that_is_not_there_is_one_line(tmp_path, videos, capsys):
    captions = write_csv(tmp_path / "c.csv", [["video", "caption"], ["a.mp4", "x"]])
    (tmp_path / "model").mkdir()
    (tmp_path / "model" / "model_index.json").write_text("{}")
    for model in ("model", "videos"):
        assert build(videos, captions, tmp_path / "b", "--model", str(tmp_path / model)) == 2
        (line,) = capsys.readouterr().err.strip().splitlines()[-1:]
        assert line.startswith("memkit: ") and model in line
    assert not (tmp_path / "b").exists()


def test_verify(bank, capsys):
    assert cli.main(["bank", "verify", str(bank)]) == 0
    assert "3 clips in 3 shards" in capsys.readouterr().out
    shard = bank / "shards" / "000001.safetensors"
    shard.write_bytes(shard.read_bytes()[:-1] + b"\xff")
    assert cli.main(["bank", "verify", str(bank)]) == 2
    said = capsys.readouterr()
    assert not said.out and "'clip1'" in said.err and "'clip0'" not in said.err and "Traceback" not in said.err


def test_show(bank, capsys):
    assert cli.main(["bank", "show", str(bank), "--first", "2"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines == [
        f"{bank}: 3 clips from 1 source",
        "  model: tiny",
        "  fps: 8",
        "  3 clips of [16, 2, 4, 4] float16",
        "clip0\ta rubber ball bounces on the moon",
        "clip1\ta glass of water is poured",
        "… and 1 more",
    ]


def test_retrieve_prints_one_line_a_hit(bank, capsys):
    assert cli.main(["retrieve", str(bank), "an iron cube falls in the desert", "-k", "2"]) == 0
    lines = [line.split("\t") for line in capsys.readouterr().out.splitlines()]
    assert [len(line) for line in lines] == [3, 3]
    assert lines[0] == ["clip2", "1.0000", "an iron cube falls in the desert"]
    assert cli.main(["retrieve", str(bank), "a rubber ball bounces on the moon", "-k", "1"]) == 0
    (line,) = capsys.readouterr().out.splitlines()
    id, score, caption = line.split("\t")
    assert id == "clip0" and float(score) > 0.9 and caption == "a rubber ball bounces on the moon"


def test_export_also_of_a_url(bank, tmp_path, capsys):
    assert cli.main(["bank", "verify", f"file://{bank}"]) == 0
    assert cli.main(["bank", "export", f"file://{bank}", "--out", str(tmp_path / "tars"), "--seed", "1"]) == 0
    assert "clips in 1 shard" in capsys.readouterr().out
    assert sorted(clip.id for clip in ClipStream(tmp_path / "tars")) == sorted(MemoryBank.open(bank).ids)


@pytest.mark.parametrize("command", [["bank", "verify"], ["bank", "show"], ["retrieve"]])
def test_a_missing_bank_is_one_clean_line(tmp_path, command, capsys):
    missing = str(tmp_path / "none")
    assert cli.main([*command, missing, *(["x"] if command == ["retrieve"] else [])]) == 2
    assert capsys.readouterr() == ("", f"memkit: There is no bank at {missing}; check the path, or create one there.\n")


def test_a_process_of_its_own_gives_the_exit_code(tmp_path):
    run = subprocess.run(
        [sys.executable, "-m", "memkit.cli", "bank", "show", str(tmp_path / "none")], capture_output=True, text=True
    )
    assert run.returncode == 2 and not run.stdout and len(run.stderr.splitlines()) == 1
    assert run.stderr.startswith("memkit: There is no bank")


def test_help_does_not_wait_for_torch():
    code = (
        "import sys\nfrom memkit.cli import main\n"
        "try:\n    main(sys.argv[1:])\nexcept SystemExit as end:\n    assert not end.code\n"
        "heavy = {'torch', 'av', 'diffusers', 'transformers', 'memkit.banks.bank'} & set(sys.modules)\n"
        "assert not heavy, heavy"
    )
    for arguments in (["--help"], ["bank", "build", "--help"]):
        run = subprocess.run([sys.executable, "-c", code, *arguments], capture_output=True, text=True)
        assert run.returncode == 0, run.stderr
        assert "usage: memkit" in run.stdout


def test_errors_that_memkit_did_not_raise_are_not_hidden(monkeypatch, bank):
    monkeypatch.setattr(MemoryBank, "verify", lambda self: 1 / 0)
    with pytest.raises(ZeroDivisionError):
        cli.main(["bank", "verify", str(bank)])

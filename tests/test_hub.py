"""Folders on the Hugging Face Hub: what is fetched, with which options, and what an upload leaves there.

Downloads are real, from a cache made by hand; only what needs the network is a stand-in.
"""

import shutil
from pathlib import Path
from types import SimpleNamespace

import huggingface_hub
import huggingface_hub.constants
import pytest
import torch

from memkit.encoders import MemoryGate, PatchEncoder, load_encoder, make_encoder
from memkit.errors import InputError

both = pytest.mark.parametrize("load", [PatchEncoder.from_pretrained, load_encoder])


def encoder(start=None):
    new = make_encoder("patch", "tiny").eval()
    if start is not None:
        new.gate = MemoryGate(2, 3, start)
    return new


def assert_same(a, b):
    left, right = a.state_dict(), b.state_dict()
    assert type(a) is type(b) and a.config == b.config and left.keys() == right.keys()
    assert all(torch.equal(left[name], right[name]) for name in left)


def snapshot(cache: Path, branch="main") -> Path:
    """The folder of a snapshot in a cache, as if ``someone/part`` had been downloaded."""
    place, commit = cache / "models--someone--part", ("0" if branch == "main" else "1") * 40
    (place / "refs").mkdir(parents=True, exist_ok=True)
    (place / "refs" / branch).write_text(commit)
    return place / "snapshots" / commit


@both
def test_hub_ids_come_from_the_hub_cache_with_their_gate(load, tmp_path, monkeypatch):
    cache, saved = tmp_path / "cache", encoder(0.5)
    saved.save_pretrained(snapshot(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_CACHE", str(cache))
    monkeypatch.setattr(huggingface_hub.constants, "HF_HUB_OFFLINE", True)
    monkeypatch.chdir(tmp_path)
    assert_same(load("someone/part"), saved)
    with pytest.raises(InputError, match="'someone/else' is not a folder.*config.json, model.safetensors"):
        load("someone/else")
    with pytest.raises(InputError, match="no/such/folder"):
        load(tmp_path / "no/such/folder")


@both
def test_a_cache_a_branch_and_a_subfolder_may_be_named(load, tmp_path):
    cache, (main, branch, below) = tmp_path / "elsewhere", (encoder(), encoder(), encoder(0.5))
    main.save_pretrained(snapshot(cache))
    branch.save_pretrained(snapshot(cache, "trial"))
    below.save_pretrained(snapshot(cache) / "part" / "one")
    local = {"cache_dir": cache, "local_files_only": True}
    assert_same(load("someone/part", **local), main)
    assert_same(load("someone/part", revision="trial", **local), branch)
    assert_same(load("someone/part", subfolder="part/one", **local), below)
    assert_same(load(snapshot(cache), subfolder="part/one"), below)
    with pytest.raises(InputError, match=r"nowhere.config.json is missing"):
        load(snapshot(cache), subfolder="nowhere")


@both
def test_a_download_asks_for_the_files_of_the_part_alone(load, tmp_path, monkeypatch):
    encoder().save_pretrained(tmp_path / "sub")
    asked = {}

    def snapshot_download(repo_id, **options):
        asked.update(options, repo_id=repo_id)
        return str(tmp_path)

    monkeypatch.setattr(huggingface_hub, "snapshot_download", snapshot_download)
    load("someone/part", revision="v1", subfolder="sub", cache_dir="c", token="t", force_download=True)
    assert asked == {
        "repo_id": "someone/part",
        "revision": "v1",
        "cache_dir": "c",
        "token": "t",
        "local_files_only": False,
        "force_download": True,
        "allow_patterns": ["sub/config.json", "sub/model.safetensors", "sub/gate.safetensors"],
    }


class FakeHub:
    """The calls of ``HfApi`` that an upload makes, on a local folder per branch."""

    def __init__(self, root: Path) -> None:
        self.root, self.asked = root, {}

    def __call__(self, token):
        self.asked["token"] = token
        return self

    def create_repo(self, repo_id, *, private, exist_ok):
        assert exist_ok
        self.asked["private"] = private
        (self.root / "main").mkdir(parents=True, exist_ok=True)
        return SimpleNamespace(repo_id=f"someone/{repo_id}")

    def create_branch(self, repo_id, *, branch, exist_ok):
        shutil.copytree(self.root / "main", self.root / branch, dirs_exist_ok=exist_ok)

    def file_exists(self, repo_id, filename, *, revision):
        return (self.root / (revision or "main") / filename).exists()

    def upload_folder(
        self, *, repo_id, folder_path, path_in_repo, commit_message, revision, create_pr, delete_patterns
    ):
        self.asked.update(repo_id=repo_id, commit_message=commit_message, create_pr=create_pr)
        place = self.root / (revision or "main") / (path_in_repo or "")
        for name in delete_patterns:
            (place / name).unlink(missing_ok=True)
        shutil.copytree(folder_path, place, dirs_exist_ok=True)
        return SimpleNamespace(commit_url=f"https://hub/{repo_id}/commit/1")


@pytest.fixture
def hub(tmp_path, monkeypatch) -> FakeHub:
    fake = FakeHub(tmp_path / "hub")
    monkeypatch.setattr(huggingface_hub, "HfApi", fake)
    return fake


def test_what_is_pushed_is_loaded_back(hub):
    saved = encoder(0.5)
    url = saved.push_to_hub("part", private=True, token="t", commit_message="First")
    assert url == "https://hub/someone/part/commit/1"
    want = {"token": "t", "private": True, "repo_id": "someone/part", "commit_message": "First", "create_pr": False}
    assert hub.asked == want
    assert_same(load_encoder(hub.root / "main"), saved)
    card = (hub.root / "main" / "README.md").read_text()
    assert "library_name: memkit" in card and 'PatchEncoder.from_pretrained("someone/part")' in card


def test_a_push_replaces_the_files_of_an_earlier_one_and_no_others(hub):
    encoder(0.5).push_to_hub("part")
    (hub.root / "main" / "README.md").write_text("mine")
    plain = encoder()
    plain.push_to_hub("part")
    assert (hub.root / "main" / "README.md").read_text() == "mine"
    assert_same(load_encoder(hub.root / "main"), plain)  # the gate of the first is gone
    assert hub.asked["commit_message"] == "Upload PatchEncoder"


def test_a_branch_and_a_subfolder_are_pushed_to(hub):
    main, other = encoder(), encoder()
    main.push_to_hub("part")
    other.push_to_hub("part", revision="trial", subfolder="second")
    assert_same(load_encoder(hub.root / "main"), main)
    assert_same(load_encoder(hub.root / "trial", subfolder="second"), other)
    assert not (hub.root / "main" / "second").exists() and not (hub.root / "trial" / "second" / "README.md").exists()

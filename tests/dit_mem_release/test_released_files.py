"""The clips of a DiT-Mem release: latents are read bit for bit and nothing is executed; names find their one file."""

import os
import pathlib
import pickle
import re
import zipfile

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.dit_mem_release import find_released_clips, read_released_latents
from memkit.errors import InputError

LATENTS = torch.randn(16, 13, 13, 13, generator=torch.Generator().manual_seed(0)).bfloat16()


def content(**changes):
    whole = {"latent": LATENTS, "video_id": "drop", "shape": LATENTS.shape, "dtype": "torch.bfloat16"}
    return {key: value for key, value in (whole | changes).items() if value is not None}


@pytest.mark.parametrize(
    "changes",
    [
        {},
        {"shape": list(LATENTS.shape), "dtype": torch.bfloat16},
        {"shape": None, "dtype": None},
        {"latent": LATENTS.float(), "dtype": "float32"},
        {"latent": LATENTS.transpose(2, 3)},
    ],
)
def test_latents_are_read_bit_for_bit(tmp_path, changes):
    torch.save(content(**changes), tmp_path / "drop.pt")
    latents, video_id = read_released_latents(tmp_path / "drop.pt")
    expected = content(**changes)["latent"]
    assert latents.dtype == expected.dtype and torch.equal(latents, expected) and video_id == "drop"


def test_an_id_that_is_missing_or_a_number(tmp_path):
    for video_id, expected in ((None, None), (7, "7")):
        torch.save(content(video_id=video_id), tmp_path / "drop.pt")
        assert read_released_latents(tmp_path / "drop.pt").video_id == expected


class Payload:
    """Unpickled, it makes a file."""

    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return os.mkdir, (str(self.path),)


@pytest.mark.parametrize("place", ["latent", "video_id", "extra", "bare pickle"])
def test_code_in_a_file_is_not_executed(tmp_path, place):
    mark, file = tmp_path / "executed", tmp_path / "evil.pt"
    if place == "bare pickle":
        file.write_bytes(pickle.dumps(content(extra=Payload(mark))))
    else:
        torch.save(content(**{place: Payload(mark)}), file)
    with pytest.raises(InputError, match="evil.pt") as refused:
        read_released_latents(file)
    assert not mark.exists()
    assert "weights_only" not in str(refused.value)  # torch advises to switch the check off
    if place != "bare pickle":
        assert "mkdir" in str(refused.value) and "refused" in str(refused.value)
        torch.load(file, weights_only=False)
        assert mark.exists()  # so the payload does work where it is let


@pytest.mark.parametrize(
    ("saved", "says"),
    [
        ({"video_id": "drop"}, "no key latent .*video_id"),
        ([LATENTS], "no key latent .*list"),
        (
            content(latent=LATENTS[None], shape=None),
            r"bfloat16 \(1, 16, 13, 13, 13\), not floating point \[C, T, H, W\]",
        ),
        (content(latent=LATENTS[:, :0], shape=None), r"\(16, 0, 13, 13\), not"),
        (content(latent=LATENTS.int(), dtype=None), "int32"),
        (content(latent=LATENTS.tolist()), "no plain tensor"),
        (content(latent=LATENTS.float().to_sparse(), dtype=None), "no plain tensor"),
        (content(latent=LATENTS.to("meta")), "no plain tensor"),
        (content(latent=torch.zeros(1).expand(16, 10**4, 10**4, 10**3), shape=None, dtype=None), "fewer values"),
        (content(latent=LATENTS * torch.nan), "not finite"),
        (content(shape=[16, 21, 60, 104]), r"states shape \[16, 21, 60, 104\] but holds \(16, 13, 13, 13\)"),
        (content(shape=4), "states shape 4"),
        (content(shape=[torch.zeros(2)] * 4), "states shape .*tensor"),
        (content(dtype="torch.float16"), "states dtype float16 but holds bfloat16"),
        (content(video_id=pathlib.PurePosixPath("drop")), "asks for pathlib"),
    ],
)
@pytest.mark.filterwarnings("ignore:Validating sparse")
def test_what_is_not_latents_is_named(tmp_path, saved, says):
    torch.save(saved, tmp_path / "drop.pt")
    with pytest.raises(InputError, match=f"drop.pt.*{says}"):
        read_released_latents(tmp_path / "drop.pt")


def test_a_compressed_archive_is_refused_before_it_is_unpacked(tmp_path):
    """A megabyte of it could fill the memory of any machine."""
    torch.save(content(), tmp_path / "whole.pt")
    with zipfile.ZipFile(tmp_path / "whole.pt") as whole, zipfile.ZipFile(tmp_path / "drop.pt", "w") as packed:
        for name in whole.namelist():
            packed.writestr(name, whole.read(name), zipfile.ZIP_DEFLATED)
    with pytest.raises(InputError, match="drop.pt is a compressed archive"):
        read_released_latents(tmp_path / "drop.pt")


def test_a_missing_file_is_named(tmp_path):
    with pytest.raises(InputError, match="no file .*drop.pt"):
        read_released_latents(tmp_path / "drop.pt")


@settings(max_examples=60, deadline=None)
@given(data=st.data())
def test_damage_is_an_error_or_harms_nothing(tmp_path_factory, data):
    """Cut anywhere, or one bit turned: torch itself would give the turned bits of a tensor without a word."""
    file = tmp_path_factory.mktemp("damage") / "drop.pt"
    small = LATENTS[:2, :2, :3, :3].clone()
    torch.save(content(latent=small, shape=small.shape), file)
    whole = bytearray(file.read_bytes())
    at = data.draw(st.integers(0, len(whole) - 1))
    if data.draw(st.booleans()):
        del whole[at:]
    else:
        whole[at] ^= 1 << data.draw(st.integers(0, 7))
    file.write_bytes(whole)
    try:
        latents = read_released_latents(file).latents
    except InputError as error:
        assert "drop.pt" in str(error)
    else:
        assert torch.equal(latents, small)


def test_a_turned_bit_in_the_latents_is_noticed(tmp_path):
    torch.save(content(), tmp_path / "drop.pt")
    data = bytearray((tmp_path / "drop.pt").read_bytes())
    data[data.index(LATENTS.view(torch.uint8).numpy().tobytes()[:64]) + 9] ^= 1
    (tmp_path / "drop.pt").write_bytes(data)
    with pytest.raises(InputError, match="drop.pt .*is damaged.*checksum"):
        read_released_latents(tmp_path / "drop.pt")


# Names and files


def make(folder, *files):
    for file in files:
        (folder / file).parent.mkdir(parents=True, exist_ok=True)
        (folder / file).touch()
    return folder


@pytest.mark.parametrize(
    ("name", "files", "expected"),
    [
        ("drop.mp4", ["drop.pt", "drop.mp4", "other.pt"], "drop.pt"),
        ("drop.mp4", ["drop.mp4.pt", "drop.mp4"], "drop.mp4.pt"),
        ("drop", ["drop.pt"], "drop.pt"),
        ("drop.pt", ["drop.pt"], "drop.pt"),
        ("drop.mp4", ["drop.mp4", "drop.txt"], "drop.mp4"),
        ("drop", ["DROP.pt", "drop.MP4"], "drop.MP4"),
        ("./x/drop.mp4", ["x/drop.pt", "y/drop.pt"], "x/drop.pt"),
        ("x\\drop.mp4", ["x/drop.pt", "y/drop.pt"], "x/drop.pt"),
        ("/home/them/videos/drop.mp4", ["latents/drop.pt", "videos/drop.mp4"], "latents/drop.pt"),
        ("drop.mp4", ["drop.mp4", "latents/drop.pt"], "latents/drop.pt"),
        ("../drop.mp4", ["drop.pt"], "drop.pt"),
        ("a.b-0.5.mp4", ["a.b-0.5.pt", "a.b-0.pt"], "a.b-0.5.pt"),
        ("a.b-0.5", ["a.b-0.5.pt", "a.b-0.pt"], "a.b-0.5.pt"),
    ],
)
def test_a_name_finds_its_file(tmp_path, name, files, expected):
    folder = make(tmp_path / "f", *files)
    make(tmp_path, "drop.pt")  # outside the folder
    assert find_released_clips([name], folder) == {name: folder / expected}


def test_names_that_share_a_stem_keep_to_their_folders(tmp_path):
    make(tmp_path, "y/drop.pt", "x/drop.mp4")
    names = ["x/drop.mp4", "y/drop.mp4"]
    assert find_released_clips(names, tmp_path) == {names[0]: tmp_path / "x/drop.mp4", names[1]: tmp_path / "y/drop.pt"}
    with pytest.raises(InputError, match="z/drop.mp4: it is not clear"):
        find_released_clips([*names, "z/drop.mp4"], tmp_path)


def test_all_that_is_missing_or_ambiguous_is_listed_by_name(tmp_path):
    make(tmp_path, "a.pt", "1/b.pt", "2/b.pt", "b.mp4", "c.pt", "c.mp4.pt")
    with pytest.raises(InputError) as error:
        find_released_clips(["a.mp4", "b", "c.mp4", "gone.mp4"], tmp_path)
    lines = str(error.value).splitlines()
    assert "(3)" in lines[0] and str(tmp_path) in lines[0]
    assert [line.split(":")[0].strip() for line in lines[1:]] == ["b", "c.mp4", "gone.mp4"]
    assert "1/b.pt, 2/b.pt" in lines[1] and "c.mp4.pt, c.pt" in lines[2] and "neither gone.pt nor gone.mp4" in lines[3]
    with pytest.raises(InputError, match="no folder"):
        find_released_clips(["a"], tmp_path / "nowhere")
    with pytest.raises(InputError, match="and 10 more"):
        find_released_clips([f"gone{i}" for i in range(60)], tmp_path)


def test_folders_that_are_links_are_followed_once(tmp_path):
    make(tmp_path / "disk", "drop.pt")
    (tmp_path / "f").mkdir()
    (tmp_path / "f" / "latents").symlink_to(tmp_path / "disk")
    (tmp_path / "disk" / "loop").symlink_to(tmp_path / "disk")
    assert find_released_clips(["drop.mp4"], tmp_path / "f") == {"drop.mp4": tmp_path / "f" / "latents" / "drop.pt"}


words = st.sampled_from(["a", "b", "a.1"])
paths = st.lists(words, min_size=1, max_size=3).map("/".join)


@settings(max_examples=60, deadline=None)
@given(
    files=st.sets(st.tuples(paths, st.sampled_from([".pt", ".mp4", ".mp4.pt", ".txt"])), max_size=6),
    names=st.lists(paths, max_size=4, unique=True),
)
def test_no_two_names_get_one_file_and_each_file_has_the_names_stem(tmp_path_factory, files, names):
    folder = make(tmp_path_factory.mktemp("clips"), *(f"{path}{suffix}" for path, suffix in files))
    found = {}
    for name in names:  # by turns: the error of one must not hide what another finds
        try:
            found |= find_released_clips([name], folder)
        except InputError as error:
            assert re.search(rf"^  {re.escape(name)}: ", str(error), re.MULTILINE)
    for name, file in found.items():
        assert re.sub(r"(\.mp4)?(\.pt)?$", "", file.name) == name.split("/")[-1]
    try:
        together = find_released_clips(names, folder)
    except InputError:
        return
    assert set(together) == set(names) and len(set(together.values())) == len(names)

"""Retrieval by caption, from a bank and from the released files, with the small model that needs no download."""

import json
import pickle
import shutil
import subprocess
import sys

import faiss
import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from memkit.banks import MemoryBank
from memkit.dit_mem_release import read_released_latents
from memkit.errors import InputError
from memkit.retrievers import Approximate, Hits, LanceDB, Qdrant, TextEmbedder, TextRetriever
from memkit.testing import check_retriever

CAPTIONS = [
    "a ball falls on the moon",
    "a red cube slides down a ramp",
    " ",
    "water fills a glass",
    "a ball falls on the moon",
    "ice melts in the sun",
    "",
    "a pendulum swings",
    "a man walks past a pillar",
]
SOURCES = ["a", "a", "b", "b", "c", None, None, "d", "a"]
PROMPTS = ["something drops on the moon", "liquid in a cup", "it gets warm", "a ball falls on the moon"]


@pytest.fixture(scope="module")
def embedder():
    return TextEmbedder(device="cpu")


@pytest.fixture(scope="module")
def bank(tmp_path_factory):
    path = tmp_path_factory.mktemp("text") / "bank"
    with MemoryBank.create(path) as bank:
        for i, (caption, source) in enumerate(zip(CAPTIONS, SOURCES, strict=True)):
            bank.add(f"clip{i}", torch.zeros(1, 1, 1, 1), caption, source)
    return bank


@pytest.fixture(scope="module")
def retriever(bank, embedder):
    return TextRetriever(bank, embedder)


@pytest.fixture(scope="module")
def vectors(embedder):
    return {i: embedder.encode([c])[0].double() for i, c in enumerate(CAPTIONS) if c.strip()}


@settings(max_examples=25, deadline=None)
@given(
    prompt=st.sampled_from(PROMPTS),
    k=st.integers(1, 12),
    exclude=st.sets(st.integers(0, 8)),
    sources=st.sets(st.sampled_from("abcdx")),
)
def test_hits_are_those_of_brute_force_with_the_same_exclusions(
    retriever, embedder, vectors, prompt, k, exclude, sources
):
    query = embedder.encode([prompt])[0].double()
    hits = retriever(prompt, k, exclude={f"clip{i}" for i in exclude}, exclude_sources=sources)
    left = [i for i in vectors if i not in exclude and SOURCES[i] not in sources]
    cosine = {i: round(float(vectors[i] @ query), 6) for i in left}  # companions move the last bits of a caption
    assert hits.ids == [f"clip{i}" for i in sorted(left, key=lambda i: (-cosine[i], i))[:k]]
    np.testing.assert_allclose(hits.scores, sorted(cosine.values(), reverse=True)[:k], atol=1e-5)


def test_the_nearest_captions_come_first_and_equal_ones_in_bank_order(retriever):
    hits = retriever("a ball falls on the moon", 3)
    assert hits.ids[:2] == ["clip0", "clip4"] and hits.scores[0] == hits.scores[1] == pytest.approx(1)
    assert retriever("a glass of water", 1).ids == ["clip3"]
    assert retriever("it is getting hot and the snow thaws", 1).ids == ["clip5"]


def test_it_has_the_properties_of_a_retriever(retriever):
    sources = {f"clip{i}": source for i, source in enumerate(SOURCES) if source is not None}
    check_retriever(retriever, PROMPTS, sources=sources)


@pytest.mark.parametrize(
    "engine", [Approximate(), LanceDB(), Qdrant(location=":memory:")], ids=lambda x: type(x).__name__
)
def test_any_engine_gives_the_hits_of_exact_search(bank, retriever, embedder, engine, tmp_path):
    copy = MemoryBank.open(shutil.copytree(bank.path, tmp_path / "bank", ignore=shutil.ignore_patterns("index")))
    exclusions = {"exclude": [["clip0"], [], [], []], "exclude_sources": [[], ["a", "no film"], [], ["b"]]}
    found = TextRetriever(copy, embedder, engine=engine)(PROMPTS, 4, **exclusions)
    for hits, wanted in zip(found, retriever(PROMPTS, 4, **exclusions), strict=True):
        assert hits.ids == wanted.ids
        np.testing.assert_allclose(hits.scores, wanted.scores, rtol=0, atol=1e-6)


def test_blank_captions_never_come_back(retriever):
    everything = retriever("a ball", 100)
    assert sorted(everything.ids) == [f"clip{i}" for i, caption in enumerate(CAPTIONS) if caption.strip()]


def test_a_prompt_has_the_same_hits_alone_and_in_a_list(retriever):
    many = [*PROMPTS, "a much longer prompt than all the others, which fills the batch with padding " * 3]
    assert retriever(many, 4) == [retriever(prompt, 4) for prompt in many]
    assert retriever([], 4) == []
    apart = retriever(many[:2], 9, exclude=[["clip0"], ["clip3"]], exclude_sources=[["c"], []])
    assert not {"clip0", "clip4"} & set(apart[0].ids) and "clip3" in apart[0].ids
    assert "clip3" not in apart[1].ids and {"clip0", "clip4"} <= set(apart[1].ids)


def test_a_new_retriever_gives_the_same_hits_from_disk(bank, retriever, embedder):
    files = {p: p.read_bytes() for p in (bank.path / "index").rglob("*") if p.is_file()}
    assert len(files) == 1
    assert TextRetriever(MemoryBank.open(bank.path), embedder)(PROMPTS, 5) == retriever(PROMPTS, 5)
    assert {p: p.read_bytes() for p in files} == files
    assert bank.verify().clips == len(CAPTIONS)


def test_clips_added_later_are_found(tmp_path, embedder):
    bank = MemoryBank.create(tmp_path / "bank")
    retriever = TextRetriever(bank, embedder)
    assert retriever("a ball") == Hits([], []) and retriever(["a ball"], exclude_sources=["a"]) == [Hits([], [])]
    bank.add("one", torch.zeros(1, 1, 1, 1), " ")
    assert retriever("a ball") == Hits([], [])
    bank.add("two", torch.zeros(1, 1, 1, 1), "a ball", "film")
    assert retriever("a ball").ids == ["two"] and retriever("a ball", exclude_sources=["film"]) == Hits([], [])


@pytest.mark.parametrize("query", ["", "  \n", ["a ball", "\t"], "a\udc80"])
def test_queries_that_say_nothing_are_refused(retriever, query):
    with pytest.raises(InputError, match="query"):
        retriever(query)


def test_a_shared_embedder_takes_no_second_settings(bank, embedder):
    with pytest.raises(InputError, match="TextEmbedder already"):
        TextRetriever(bank, embedder, pooling="cls")


def test_importing_the_retrievers_imports_no_large_package():
    code = "import sys, memkit.retrievers; print({'faiss', 'transformers', 'timm'} & set(sys.modules))"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.strip() == "set()"


# The released format

NAMES = ["drop.mp4", "ramp.mp4", "glass.mp4", "ice.mp4"]
LABELS = ["a ball falls on the moon", "a red cube slides down a ramp", "water fills a glass", "ice melts in the sun"]


@pytest.fixture(scope="module")
def cls_embedder():
    return TextEmbedder(pooling="cls", device="cpu")


@pytest.fixture
def released(tmp_path, cls_embedder):
    index = faiss.IndexFlatIP(cls_embedder.dim)
    index.add(cls_embedder.encode(LABELS).numpy())  # type: ignore
    faiss.write_index(index, str(tmp_path / "labels.index"))
    (tmp_path / "id_map.json").write_text(json.dumps({str(i): name for i, name in enumerate(NAMES)}))
    return tmp_path


def load(folder, embedder, id_map="id_map.json"):
    return TextRetriever.from_dit_mem(folder / "labels.index", folder / id_map, embedder)


def test_released_files_are_searched_as_the_release_does(released, cls_embedder):
    retriever = load(released, cls_embedder)
    score, row = faiss.read_index(str(released / "labels.index")).search(cls_embedder.encode(PROMPTS[:1]).numpy(), 4)
    hits = retriever(PROMPTS[0], 4)
    assert hits.ids == [NAMES[i] for i in row[0]]
    np.testing.assert_allclose(hits.scores, score[0], atol=1e-6)
    assert [hits.ids for hits in retriever(LABELS, 1)] == [[name] for name in NAMES]
    everything = retriever(LABELS[0], 9).ids
    assert everything[0] == "drop.mp4" and retriever(LABELS[0], 9, exclude=["drop.mp4"]).ids == everything[1:]
    with pytest.raises(InputError, match="source"):
        retriever(LABELS[0], exclude_sources=["drop"])


def test_the_released_index_is_pooled_by_cls_unless_told_otherwise(released, cls_embedder):
    by_name = TextRetriever.from_dit_mem(released / "labels.index", released / "id_map.json", "minilm", device="cpu")
    assert by_name.embedder.pooling == "cls" and by_name(PROMPTS, 2) == load(released, cls_embedder)(PROMPTS, 2)


@pytest.mark.parametrize("key", [None, "video_path", "path", "video", "video_id", "id"])
def test_every_form_of_id_map_is_read(released, cls_embedder, key):
    content = NAMES if key is None else [{key: name, "score": 1} for name in NAMES]
    (released / "id_map.json").write_text(json.dumps(content))
    assert load(released, cls_embedder)("ice", 1).ids == ["ice.mp4"]


@pytest.mark.parametrize(
    "content, says",
    [
        (b"\x80\x04N.", "pickle"),
        (pickle.dumps(NAMES, protocol=0), "not JSON"),
        (b"", "not JSON"),
        (b"\xff\xfe", "not JSON"),
        (b"[" * 100_000, "not JSON"),
        (b'"drop.mp4"', "neither"),
        (json.dumps(NAMES[:3]).encode(), "3 videos .* 4 vectors"),
        (json.dumps({str(i + 1): n for i, n in enumerate(NAMES)}).encode(), "no entry '0'"),
        (json.dumps([*NAMES[:3], 7]).encode(), "Entry 3"),
        (json.dumps([*NAMES[:3], {"name": "ice.mp4"}]).encode(), "Entry 3"),
        (json.dumps([*NAMES[:3], ""]).encode(), "Entry 3"),
    ],
)
def test_an_id_map_that_does_not_fit_is_refused(released, cls_embedder, content, says):
    (released / "id_map.json").write_bytes(content)
    with pytest.raises(InputError, match=says):
        load(released, cls_embedder)


class Bomb:
    def __reduce__(self):
        return print, ("ran",)


def test_a_pickle_is_refused_unread(released, cls_embedder, capsys):
    for name in ("id_map.pkl", "id_map.pickle", "map.json"):
        (released / name).write_bytes(pickle.dumps(Bomb()))
        with pytest.raises(InputError, match="pickle"):
            load(released, cls_embedder, name)
    assert capsys.readouterr().out == ""


def test_a_video_that_is_named_twice_counts_once(released, cls_embedder, caplog):
    (released / "id_map.json").write_text(json.dumps(["drop.mp4", "ramp.mp4", "drop.mp4", "ice.mp4"]))
    hits = load(released, cls_embedder)("water fills a glass", 9)
    assert sorted(hits.ids) == ["drop.mp4", "ice.mp4", "ramp.mp4"] and max(hits.scores) < 0.99
    assert "named more than once" in caplog.text


def test_the_files_of_the_clips_are_found(released, cls_embedder, bank):
    folder = released / "clips"
    (folder / "latents").mkdir(parents=True)
    (folder / "glass.mp4").touch()
    for i, name in enumerate(("drop", "ramp", "ice")):
        torch.save({"latent": torch.full((2, 3, 4, 5), float(i)).bfloat16()}, folder / "latents" / f"{name}.pt")
    files = released / "labels.index", released / "id_map.json"
    retriever = TextRetriever.from_dit_mem(*files, cls_embedder, clips=folder)
    assert retriever.files["glass.mp4"] == folder / "glass.mp4" and list(retriever.files) == NAMES
    (name,) = retriever("ice melts in the sun", 1).ids
    assert (read_released_latents(retriever.files[name]).latents == 2).all()
    assert TextRetriever.from_dit_mem(*files, cls_embedder).files == {} == TextRetriever(bank, cls_embedder).files
    (folder / "latents" / "ice.pt").unlink()
    (folder / "more").mkdir()
    (folder / "more" / "ramp.pt").touch()
    with pytest.raises(InputError, match="(?s)ramp.mp4: it is not clear.*ice.mp4: there is neither"):
        TextRetriever.from_dit_mem(*files, cls_embedder, clips=folder)


def test_an_index_of_another_model_or_of_junk_is_refused(released, cls_embedder):
    index = faiss.IndexFlatIP(8)
    index.add(np.eye(8, dtype=np.float32)[:4])  # type: ignore
    faiss.write_index(index, str(released / "labels.index"))
    with pytest.raises(InputError, match="vectors of 8"):
        load(released, cls_embedder)
    (released / "labels.index").write_bytes(b"x" * 300)
    with pytest.raises(InputError, match="not a FAISS"):
        load(released, cls_embedder)

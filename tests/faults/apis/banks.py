"""Banks, retrieval from them, and tables of captions and prompts."""

from __future__ import annotations

import functools
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch

from memkit.banks import MemoryBank, build_bank, join_banks, padded_latents, read_captions
from memkit.prompts import read_prompts
from memkit.retrievers import LearnedQuery, RandomRetriever, TextEmbedder, TextRetriever
from tests.faults.bank_kinds import make_bank
from tests.faults.bank_writers import Mean, videos
from tests.faults.inputs import INF, NAN, NO_NUMBER, NO_PATH, NO_PLACE, NO_POSITIVE_COUNT, Api
from tests.helpers.sentence_folders import save_sentence_folder
from tests.helpers.small_banks import latents


def folder() -> Path:
    return Path(tempfile.mkdtemp())


@functools.cache
def bank() -> MemoryBank:
    place = folder()
    make_bank(place, 0)
    return MemoryBank.open(place)


@functools.cache
def embedder_folder() -> str:
    return save_sentence_folder(folder() / "model")


@functools.cache
def retriever() -> TextRetriever:
    return TextRetriever(bank(), embedder_folder())


def created(path: Any, info: Any, shard_bytes: Any) -> object:
    made = MemoryBank.create(folder() / "bank" if path is None else path, info, shard_bytes)
    with made:
        made.add("a", latents(0), "a")
    return made.info, made.ids


def added(id: Any, latents: Any, caption: Any, source: Any) -> object:
    made = MemoryBank.create(folder() / "bank")
    made.add(id, latents, caption, source)
    return MemoryBank.open(made.path).clip(made.ids[0])


def opened(path: Any) -> object:
    return MemoryBank.open(bank().path if path is None else path).ids


def at(key: Any) -> object:
    return bank()[key]


def read(ids: Any) -> object:
    return bank().latents(ids)


def padded(ids: Any, count: Any) -> object:
    return padded_latents(bank(), ids, count)


def built(**options: Any) -> object:
    place = folder()
    videos(place)
    given = {"videos": place / "videos", "captions": place / "captions.csv", "out": place / "bank", **options}
    report = build_bank(**given, backbone=Mean(), model="mean")
    return report.added, MemoryBank.open(given["out"]).latents(report.added)


def joined(parts: Any, order: Any) -> object:
    return join_banks([bank().path] if parts is None else parts, folder() / "joined", order).ids


def retrieved(query: Any, k: Any, exclude: Any, exclude_sources: Any, min_score: Any) -> object:
    return tuple(retriever()(query, k, exclude=exclude, exclude_sources=exclude_sources, min_score=min_score))


def embedded(texts: Any, batch_size: Any) -> object:
    return TextEmbedder(embedder_folder()).encode(texts, batch_size)


def embedder(**options: Any) -> object:
    return TextEmbedder(**{"model": embedder_folder(), **options}).encode(["a red ball"])


def randomly(seed: Any, k: Any) -> object:
    return RandomRetriever(bank(), seed)("a", k).ids


def attended(shares: Any, ids: Any) -> object:
    return tuple(LearnedQuery(lambda query: shares, ids)("a", 2))


def captions(content: Any) -> object:
    place = folder()
    (place / "a.mp4").write_bytes(b"x")
    (place / "captions.csv").write_bytes(content)
    rows, bad = read_captions(place / "captions.csv", place)
    if bad:
        raise _Reported(bad)
    return [row.caption for row in rows]


def prompted(prompts: Sequence[str], content: Any) -> object:
    file = None
    if content is not None:
        file = folder() / "prompts.csv"
        file.write_bytes(content)
    return read_prompts(prompts, file)


def _Reported(bad: Any) -> Exception:
    """A row that is reported as bad is a refusal of its own kind."""
    from memkit.errors import InputError

    return InputError("; ".join(f"captions.csv, line {item.line}: {item.name}: {item.reason}" for item in bad))


WHOLE = b"video,caption\na.mp4,a ball\n"
IN_FILE = {"content": ("captions.csv", "prompts.csv", "prompt")}

APIS = (
    Api(
        "MemoryBank.create",
        created,
        {"path": None, "info": {"fps": 8}, "shard_bytes": 2**20},
        {
            "path": (*NO_PLACE, lambda: folder() / "x" / ("n" * 300)),
            "info": ({"a": {1, 2}}, {"a": NAN}, {"a": INF}, {"a": b"x"}, [1], "info", {"a": object()}, {("a",): 1}),
            "shard_bytes": NO_POSITIVE_COUNT,
        },
        {"path": ("cannot create", "bank at"), "shard_bytes": ("shard",)},
    ),
    Api(
        "MemoryBank.add",
        added,
        {"id": "a", "latents": latents(0), "caption": "a", "source": None},
        {
            "id": ("", None, 3, "a\0b", "a\nb", ["a"], "\ud800"),
            "latents": (
                torch.full((2, 3, 2, 2), NAN),
                torch.full((2, 3, 2, 2), INF),
                latents(0).long(),
                torch.ones(2, 3, 2, 2, dtype=torch.cfloat),
                latents(0)[0],
                latents(0)[None],
                latents(0)[:, :0],
                latents(0).to_sparse(),
                latents(0).to("meta"),
            ),
            "caption": (None, 3, b"x", ["a"], "\ud800"),
            "source": (3, b"x", ["a"], "\ud800"),
        },
        {"latents": ("'a'",), "caption": ("'a'",), "source": ("'a'",), "id": ("id",)},
    ),
    Api("MemoryBank.open", opened, {"path": None}, {"path": (*NO_PATH, lambda: folder())}, {"path": ("no bank at",)}),
    Api(
        "MemoryBank[...]",
        at,
        {"key": 1},
        {"key": (99, -99, "nobody", "", None, 1.5, NAN)},
        {"key": ("position", "id", "clip")},
    ),
    Api(
        "MemoryBank.latents",
        read,
        {"ids": ["ball"]},
        {"ids": ("ball", ["nobody"], ["ball", "ice"], [["ball"], []], [["ball"], "cube"], [3], None, [None])},
        {"ids": ("clip", "shape")},
    ),
    Api(
        "padded_latents",
        padded,
        {"ids": [["ball"], ["cube", "walk"]], "count": 2},
        {
            "ids": ([["nobody"]], [["ball", "cube", "walk"]], "ball", [["ball", "ice"]]),
            "count": (*NO_POSITIVE_COUNT, 10**15),
        },
        {"ids": ("clip", "shape"), "count": ("clips",)},
    ),
    Api(
        "build_bank",
        built,
        {
            "num_frames": 5,
            "fps": 8.0,
            "height": 16,
            "width": 16,
            "cut": "start",
            "pad": "hold",
            "dtype": "fp32",
            "resize_rule": "crop",
        },
        {
            "videos": NO_PATH[:3],
            "captions": NO_PATH[:3],
            "out": NO_PLACE,
            "num_frames": (*NO_POSITIVE_COUNT[:2], NAN, INF, 1.5, -1, 0, 10**12),
            "fps": (*NO_NUMBER[:1], NAN, INF, 0, -1.0, 1e-9),
            "height": ("16", NAN, 0, -16, 1.5, 10**9),
            "width": ("16", NAN, 0, -16, 1.5, 10**9),
            "cut": ("end", None, 3),
            "pad": ("zero", None, 3),
            "dtype": ("int8", None, torch.float32),
            "resize_rule": ("zoom", None, 3),
        },
        {
            "out": ("cannot create", "cannot write"),
            "num_frames": ("frames",),
            "fps": ("rate",),
            "height": ("size",),
            "width": ("size",),
            "resize_rule": ("resize",),
            "videos": ("folder",),
        },
    ),
    Api(
        "join_banks",
        joined,
        {"parts": None, "order": None},
        {
            "parts": ([], ["/proc/nowhere"], lambda: [bank().path, bank().path]),
            "order": ([], ["ball"], ["ball"] * 4, ["x", "y", "z", "w"]),
        },
        {"parts": ("part", "bank"), "order": ("order",)},
    ),
    Api(
        "TextRetriever(...)",
        retrieved,
        {"query": "a ball", "k": 2, "exclude": (), "exclude_sources": (), "min_score": None},
        {
            "query": (None, 3, b"a", [None], ["a", 3], ""),
            "k": (*NO_POSITIVE_COUNT,),
            "exclude": ("ball", 3, [3]),
            "exclude_sources": ("film.mp4", 3),
            "min_score": ("0.5", NAN, []),
        },
        {"query": ("text", "prompt")},
    ),
    Api(
        "TextEmbedder.encode",
        embedded,
        {"texts": ["a"], "batch_size": 32},
        {"texts": ("a ball", [None], [3], None), "batch_size": NO_POSITIVE_COUNT},
        {"texts": ("text",)},
    ),
    Api(
        "TextEmbedder",
        embedder,
        {"pooling": "mean"},
        {
            "model": ("/proc/nowhere/at/all", "", None, "a\0b", lambda: folder()),
            "pooling": ("sum", 3),
            "max_length": (*NO_POSITIVE_COUNT[:1], NAN, INF, 0, -1, 1.5, 10**9),
            "device": ("gpu", "", 3.5),
        },
    ),
    Api("RandomRetriever", randomly, {"seed": 0, "k": 2}, {"seed": ("0", NAN, 1.5, []), "k": NO_POSITIVE_COUNT}),
    Api(
        "LearnedQuery",
        attended,
        {"shares": torch.tensor([0.2, 0.8]), "ids": ["a", "b"]},
        {
            "shares": (torch.tensor([NAN, 1.0]), torch.tensor([-1.0, 1.0]), torch.ones(3), [0.2, 0.8], None),
            "ids": ("ab", ["a"], [1, 2]),
        },
        {"shares": ("share", "frames"), "ids": ("frames",)},
    ),
    Api(
        "read_captions",
        captions,
        {"content": WHOLE},
        {
            "content": (
                b"",
                b"\n\n",
                b"video\na.mp4\n",
                b"video,caption,caption\na.mp4,a,b\n",
                b"video,caption,Caption\na.mp4,a,b\n",
                b"video,video_path,caption\na.mp4,a.mp4,b\n",
                b"video,caption\na.mp4,\n",
                b"video,caption\n,a ball\n",
                b"video,caption\na.mp4,a,b\n",
                b"video,caption\n../a.mp4,a\n",
                b"video,caption\n/etc/passwd,a\n",
                b"video,caption\ngone.mp4,a\n",
                b"video,caption\na.mp4,\xff\xfe\n",
                b'video,caption\na.mp4,"open\n',
                b"video,caption\na.mp4,a\na.mp4,b\n",
                b"video,caption\na\0.mp4,a\n",
                b"video,caption\na.mp4," + b"x" * 200_000 + b"\n",
                WHOLE.decode().encode("utf-16"),
                b"video;caption\na.mp4;a\n",
            )
        },
        IN_FILE,
    ),
    Api(
        "read_prompts",
        prompted,
        {"prompts": ["a ball"], "content": None},
        {
            "prompts": ([], [""], [" "], [None], [3]),
            "content": (
                b"",
                b"video\na.mp4\n",
                b"caption\n\n",
                b"caption\n \n",
                b"caption\n\xff\n",
                b"video,caption\nx.mp4,a\nx.mp4,b\n",
                b"caption,caption\na,b\n",
            ),
        },
        IN_FILE,
    ),
)

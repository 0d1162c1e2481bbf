"""Models in the formats of others: diffusers folders, original checkpoints, text encoders, the DiT-Mem release."""

from __future__ import annotations

import functools
import json
import shutil
from pathlib import Path
from typing import Any

import torch
from safetensors.torch import save_file

from memkit import MemoryBank, WanBackbone, load_dit_mem
from memkit.backbones import WanCodec
from memkit.banks import import_dit_mem
from memkit.encoders import DitMemConfig, DitMemEncoder
from memkit.errors import InputError
from memkit.files.checksums import write_sums
from memkit.retrievers import TextEmbedder
from memkit.retrievers.text import TextRetriever
from tests.faults.kinds import ANY, CONTENT, FileKind
from tests.faults.part_kinds import seeded_weights
from tests.helpers.original_wan import random_state
from tests.helpers.random_wan import write_random_pipeline
from tests.helpers.sentence_folders import save_sentence_folder
from tests.helpers.wan_files import HEADS

NO_SUMS = "files of other programs have no checksums: another number in a weight or a setting is as valid"
WHOLE_JSON = ANY - {"cut", "cut at a line"}
FOLDER = {"*.safetensors": CONTENT, "*.json": WHOLE_JSON, "*.txt": ANY, "*.md": ANY, "*.model": ANY}
FOLDER["video_format.json"] = {"delete"}  # folders of other programs never have it


def make_folder(folder: Path, seed: int) -> None:
    write_random_pipeline(folder, seed)


def make_summed(folder: Path, seed: int) -> None:
    write_random_pipeline(folder, seed)
    write_sums(folder)


def use_folder(folder: Path) -> object:
    """The modules of the pipeline, what it makes of a text, and its settings."""
    backbone = WanBackbone.from_pretrained(folder)
    pipe: Any = backbone.pipeline()
    modules = [backbone.transformer, pipe.vae, pipe.text_encoder]
    settings = [repr(sorted(dict(x.config).items())) for x in (backbone.transformer, pipe.vae, pipe.scheduler)]
    return modules, settings, backbone.encode_text(["a red ball"], 8), repr(backbone.video_format)


def use_codec(folder: Path) -> object:
    codec = WanCodec.from_pretrained(folder)
    return codec.vae, repr(codec.video_format)


def make_safetensors(folder: Path, seed: int) -> None:
    save_file({name: x.contiguous() for name, x in random_state(seed=seed).items()}, folder / "wan.safetensors")


def make_torch(folder: Path, seed: int) -> None:
    torch.save(random_state(seed=seed), folder / "wan.pth")


def make_old_torch(folder: Path, seed: int) -> None:
    torch.save(random_state(seed=seed), folder / "wan.pth", _use_new_zipfile_serialization=False)


def use_original(folder: Path) -> object:
    file = folder / "wan.safetensors"
    return WanBackbone.from_original(file if file.exists() else folder / "wan.pth", HEADS).transformer


def make_dit_mem(folder: Path, seed: int) -> None:
    config = DitMemConfig(latent_channels=4, channels=(4, 8), grid=(2, 2), dim=8, heads=2, copies=1)
    torch.save(seeded_weights(DitMemEncoder(config), seed).state_dict(), folder / "encoder.pt")


def use_dit_mem(folder: Path) -> object:
    config = DitMemConfig(latent_channels=4, channels=(4, 8), grid=(2, 2), dim=8, heads=2, copies=1)
    return load_dit_mem(folder / "encoder.pt", config)


def make_embedder(folder: Path, seed: int) -> None:
    torch.manual_seed(seed)
    save_sentence_folder(folder)


def use_embedder(folder: Path) -> object:
    return TextEmbedder(str(folder), device="cpu").encode(["a red ball falls", "ice"])


@functools.cache
def embedder() -> TextEmbedder:
    return TextEmbedder(device="cpu")


def make_release(folder: Path, seed: int) -> None:
    """Latents, captions, and an index over them, as DiT-Mem publishes them."""
    import faiss

    names, captions = ["drop.mp4", "roll.mp4"], [f"a ball falls {seed}", "a ball rolls"]
    for number, name in enumerate(names):
        latents = torch.randn(4, 2, 2, 2, generator=torch.Generator().manual_seed(10 * seed + number))
        torch.save({"latent": latents, "video_id": Path(name).stem, "shape": latents.shape}, folder / f"{name[:-4]}.pt")
    index = faiss.IndexFlatIP(embedder().dim)
    index.add(embedder().encode(captions).numpy())  # pyright: ignore
    faiss.write_index(index, str(folder / "labels.index"))
    (folder / "id_map.json").write_text(json.dumps({str(i): name for i, name in enumerate(names)}))
    rows = [{"video": name, "caption": caption} for name, caption in zip(names, captions, strict=True)]
    (folder / "metadata.json").write_text(json.dumps(rows), encoding="utf-8")


def use_release(folder: Path) -> object:
    """The bank that it becomes, and a search in its index; clips that are reported as bad are an error."""
    out = folder.parent / "imported"
    shutil.rmtree(out, ignore_errors=True)
    if bad := import_dit_mem(folder, out).bad:
        raise InputError(f"{folder}: {bad}")
    retriever = TextRetriever.from_dit_mem(folder / "labels.index", folder / "id_map.json", embedder(), pooling=None)
    bank = MemoryBank.open(out)
    clips = [(clip.id, clip.caption, clip.latents) for clip in bank]
    return clips, tuple(retriever("a ball", 2))


KINDS = (
    FileKind("diffusers folder", make_folder, use_folder, blind=FOLDER, why_blind=NO_SUMS),
    FileKind("diffusers folder with SHA256SUMS", make_summed, use_folder, blind={"SHA256SUMS": {"delete"}}),
    FileKind("VAE alone", make_folder, use_codec, ("vae/*", "video_format.json"), FOLDER, NO_SUMS),
    FileKind("original Wan .safetensors", make_safetensors, use_original, blind={"*": CONTENT}, why_blind=NO_SUMS),
    FileKind("original Wan .pth", make_torch, use_original),
    FileKind("original Wan .pth of old torch", make_old_torch, use_original, blind={"*": ANY}, why_blind=NO_SUMS),
    FileKind("DiT-Mem encoder .pt", make_dit_mem, use_dit_mem),
    FileKind("text encoder", make_embedder, use_embedder, blind=FOLDER, why_blind=NO_SUMS),
    FileKind(
        "DiT-Mem release",
        make_release,
        use_release,
        blind={"*.json": WHOLE_JSON, "*.index": CONTENT, "*.pt": {"swap"}},
        why_blind=NO_SUMS,
    ),
)

"""What memories keep beside sessions: recurrent states, surfels, and latents in space."""

from __future__ import annotations

from pathlib import Path

import torch

from memkit import LiftedLatents, RecurrentState, StateSpaceConfig, StateSpaceMemory, SurfelRetriever
from memkit.retrievers import SurfelRule
from tests.faults.kinds import FileKind
from tests.helpers.random_wan import SMALL, random_transformer
from tests.helpers.small_banks import cameras
from tests.helpers.streams import seeded


def make_state(folder: Path, seed: int) -> None:
    model = random_transformer(num_layers=1)
    memory, state = StateSpaceMemory(StateSpaceConfig.of(model)), RecurrentState()
    with memory.attach(model, state=state) as attached, attached.chunk(write=True), torch.no_grad():
        model(seeded(1, 16, 2, 4, 4, seed=seed), torch.zeros(1), seeded(1, 4, SMALL["text_dim"], seed=seed))
    state.save(folder / "state.safetensors")


def use_state(folder: Path) -> object:
    state = RecurrentState.load(folder / "state.safetensors")
    name, branch = state.branch()
    return name, branch.frames, branch.size, sorted(branch.tensors.items())


def make_surfels(folder: Path, seed: int) -> None:
    depth = 2 + seeded(2, 6, 8, seed=seed).abs()
    SurfelRetriever(cameras(2, seed), depth, SurfelRule(columns=3, pixels=(6, 8))).save(folder / "surfels.safetensors")


def use_surfels(folder: Path) -> object:
    retriever = SurfelRetriever.load(folder / "surfels.safetensors")
    arrays = *retriever.map.surfels, retriever.map.seen_by
    return retriever.rule, retriever._table().ids, [torch.from_numpy(x) for x in arrays]


def make_latents(folder: Path, seed: int) -> None:
    store = LiftedLatents(channels=2, size=(2, 2))
    store.add(cameras(2, seed), seeded(2, 2, 2, 2, seed=seed), 2 + seeded(2, 4, 4, seed=seed).abs())
    store.save(folder / "latents.safetensors")


def use_latents(folder: Path) -> object:
    store = LiftedLatents.load(folder / "latents.safetensors")
    return store.rule, store._table().ids, list(store.cells)


KINDS = (
    FileKind("recurrent state", make_state, use_state),
    FileKind("surfels", make_surfels, use_surfels),
    FileKind("latents in space", make_latents, use_latents),
)

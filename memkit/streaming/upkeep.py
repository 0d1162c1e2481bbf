"""What a stream does for its cache around a chunk: scores are told what they need, and old chunks written anew."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from torch import Tensor

from memkit.backbones.wan import WanBackbone
from memkit.injectors.kv_cache.cache import KVCache
from memkit.injectors.kv_cache.scores.base import Need, Score
from memkit.injectors.kv_cache.scores.prompt import text_keys
from memkit.injectors.kv_cache.slots import SlotCache
from memkit.streaming.read_policies import Read
from memkit.streaming.recent import Recent


@dataclass(frozen=True)
class Upkeep:
    """The upkeep of the cache of a stream."""

    backbone: WanBackbone
    cache: KVCache
    read: Read
    recent: Recent | None
    """The newest latents, where they are computed anew at new prompts."""

    def stale(self, prompts: Sequence[str]) -> list[tuple[range, Tensor]]:
        """The chunks, positions and latents, that are to be written anew under new prompts; the cache then holds the
        pinned frames alone. None, where the prompts are the same."""
        if self.recent is None or self.recent.prompts in (None, tuple(prompts)):
            return []
        branches = self._branches().values()
        pinned = {p for branch in branches for p in branch.pinned}
        for branch in branches:
            branch.drop([p for p in branch.positions if p not in branch.pinned])
        return [(at, latents) for at, latents in self.recent.chunks if not pinned.issuperset(at)]

    def begin(self, text: dict[str, Tensor]) -> None:
        """Before a chunk is generated or written, with the embeddings of its prompts for each branch."""
        needs = frozenset[Need]().union(*(score.needs for score in self._scores()))
        for name, branch in self._branches().items():
            branch.needs = needs
            if "prompt" in needs:
                branch.prompt = [k for model in self.backbone.transformers for k in text_keys(model, text[name])]

    def wrote(self, latents: Tensor, at: range) -> None:
        """After a chunk of clean latents was written."""
        notes = {name: values for score in self._scores() for name, values in score.describe(latents).items()}
        for branch in self._branches().values():
            held = [i for i, p in enumerate(at) if p in branch.positions]
            for note, values in notes.items():
                branch.note(note, [at[i] for i in held], [values[i] for i in held])

    def _branches(self) -> dict[str, SlotCache]:
        return {name: self.cache.branch(name) for name in self.cache.branches}

    def _scores(self) -> list[Score]:
        """The scores by which frames are kept, and read."""
        read = getattr(self.read, "score", None)
        return [self.cache.parts.keep, *([read] if isinstance(read, Score) else [])]

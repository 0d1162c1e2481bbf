"""Retrieval by visual similarity: image features of a few frames of each clip."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import numpy as np
import torch
from jaxtyping import Float32, UInt8
from torch import Tensor

from memkit.checks import shown
from memkit.display import counted, described
from memkit.errors import InputError, MemkitError
from memkit.files.models import loading
from memkit.files.tensors import check_values
from memkit.files.values import is_count
from memkit.retrievers.engines.protocol import Engine, VectorIndex
from memkit.retrievers.hits import ClipTable
from memkit.retrievers.index import BankIndex, ClipBank
from memkit.retrievers.vector_retriever import VectorRetriever
from memkit.video.pixels import from_model


class VisualRetriever(VectorRetriever[Tensor]):
    """Clips that look most like an image or a video: cosine of image features, in [-1, 1].

    The features are those of a timm model (by default DINOv2, arXiv 2304.07193), averaged over ``frames`` frames, each
    the middle one of an equal part of the clip; timm's own configuration of the model resizes, crops and normalises.
    ``decode`` turns a bank's latents ``[1, C, T, H, W]`` into video ``[1, 3, T', H', W']`` in [-1, 1], as
    `WanBackbone.decode_latents` does. The features are kept in ``<bank>/index/`` and follow the bank as it grows; when
    the index is opened, one clip is decoded again to check that they still fit the model. ``device`` None is CUDA if
    available. ``engine`` searches the features, as in `TextRetriever`.

    A query is an image ``[H, W, 3]`` or a video ``[T, H, W, 3]``, uint8 RGB; a list of them gives a list of `Hits`.
    """

    def __init__(
        self,
        bank: ClipBank,
        decode: Callable[[Tensor], Tensor],
        model: str = "vit_small_patch14_dinov2.lvd142m",
        pretrained: bool = True,
        frames: int = 3,
        device: torch.device | str | None = None,
        engine: Engine | None = None,
    ) -> None:
        if not is_count(frames):
            raise InputError(f"frames is {shown(frames)}; look at 1 frame at least.")
        self.frames, self.model = frames, model
        self._model, self._transform = _load(model, pretrained)
        check_values(self._model.named_parameters(), f"The image model {model!r}")
        with loading(f"The image model {model!r}", "give a device of this machine"):
            self.device = torch.device(device or ("cuda" if torch.cuda.is_available() else "cpu"))
            self._model.to(self.device).eval().requires_grad_(False)
        self._bank, self._decode = bank, decode
        self._index = BankIndex(
            bank,
            name=f"{model}-{frames}-frames",
            settings={"visual": model, "frames": frames},
            dim=len(self.embed(torch.zeros(1, 8, 8, 3, dtype=torch.uint8))),  # timm does not state it for all models
            contents=lambda bank: list(bank.ids),
            embed=self._embed_clips,
            chunk=16,
            tied_to_bank=True,
            engine=engine,
        )

    def __repr__(self) -> str:
        return described(self, repr(self.model), counted(self.frames, "frame") + " per clip", f"on {self.device}")

    @torch.inference_mode()
    def embed(self, video: UInt8[Tensor, "time height width 3"]) -> Float32[Tensor, " dim"]:
        """The unit vector of a video, on the CPU."""
        count = min(self.frames, len(video))
        middles = [(2 * i + 1) * len(video) // (2 * count) for i in range(count)]
        images = torch.stack([self._transform(_pil(video[i])) for i in middles]).to(self.device)
        return torch.nn.functional.normalize(self._model(images).float().mean(0), dim=0).cpu()

    def _embed_clips(self, ids: Sequence[str]) -> Float32[Tensor, "clips dim"]:
        return torch.stack([self.embed(self._frames(id)) for id in ids])

    @torch.inference_mode()
    def _frames(self, id: str) -> UInt8[Tensor, "time height width 3"]:
        video = self._decode(self._bank.clip(id).latents[None])
        if video.ndim != 5 or video.shape[:2] != (1, 3) or not bool(video.isfinite().all()):
            raise InputError(
                f"decode gave {tuple(video.shape)} for clip {id!r}, or numbers that are not finite; "
                "it must give a video [1, 3, T, H, W] in [-1, 1]."
            )
        return from_model(video).cpu()

    def _check(self, query: Tensor, name: str) -> None:
        shape = tuple(query.shape) if isinstance(query, Tensor) else None
        if shape is None or query.dtype != torch.uint8 or len(shape) not in (3, 4) or shape[-1] != 3 or 0 in shape:
            what = type(query).__name__ if shape is None else f"{query.dtype} {shape}"
            raise InputError(f"{name} is {what}; give a uint8 tensor, an image [H, W, 3] or a video [T, H, W, 3].")

    def _current(self) -> tuple[ClipTable, VectorIndex]:
        self._index.refresh()
        return self._index.table, self._index.vectors

    def _vector(self, query: Tensor) -> Float32[np.ndarray, " dim"]:
        vector = self.embed(query if query.ndim == 4 else query[None]).numpy()
        if not np.isfinite(vector).all():
            raise InputError("The image model gives features that are not finite for the query; check its weights.")
        return vector


def _pil(image: UInt8[Tensor, "height width 3"]) -> Any:
    from PIL import Image

    return Image.fromarray(image.cpu().numpy())


def _load(name: str, pretrained: bool) -> tuple[Any, Callable[[Any], Tensor]]:
    try:
        import timm
        from timm.data import create_transform, resolve_model_data_config  # pyright: ignore[reportPrivateImportUsage]
    except ImportError:
        raise MemkitError("Visual retrieval needs timm; install it: pip install timm") from None
    try:
        model = timm.create_model(name, pretrained=pretrained, num_classes=0)
    except Exception as error:  # of timm, safetensors and huggingface_hub
        raise InputError(
            f"The image model {name!r} cannot be loaded: {error}\nGive the name of a timm model whose weights are here "
            "or can be downloaded, or pretrained=False for random weights."
        ) from error
    return model, create_transform(**resolve_model_data_config(model), is_training=False)  # type: ignore

"""`QueryLayers`: query tokens fetch context inside the model (MemLearner, arXiv 2606.31734).

Beside the frames P that are to be made, the model carries as many query frames Q. In its first layers, the query
layers, Q sees the context C (clean frames of the past, up to nine times as many) and P; P sees itself and Q, never C.
After them C is gone, Q sees P, and P sees itself and Q:

    | who asks             | sees C | sees Q | sees P |
    | query layer: Q       | yes    | no     | yes    |
    | query layer: P       | no     | yes    | yes    |
    | the rest: Q          | –      | no     | yes    |
    | the rest: P          | –      | yes    | yes    |

C never asks: it passes the self-attention unchanged, and goes through cross-attention and feed-forward as every token.
So nothing of C depends on Q or P, and it is run apart, through the query layers alone. With C at timestep 0, the
default, its keys and values serve every denoising step of a chunk.

The model is a stock Wan and its caller need not know: inside a chunk it takes the latents of P and gives their
velocity, so the stock pipelines run as they are.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

import torch
from torch import Tensor, nn

from memkit.backbones.attachment import wans_of
from memkit.errors import InputError
from memkit.injectors.camera_encoder import CameraEncoder
from memkit.injectors.query_layers.attachment import QueryAttachment
from memkit.pretrained import Pretrained


@dataclass(frozen=True)
class QueryLayersConfig:
    """What is trained and who sees whom; where the paper is silent, the default is our reading of it."""

    dim: int = 1536
    """Width of the backbone."""
    blocks: int = 30
    """Of the backbone."""
    layers: int = 5
    """The first so many are query layers; the paper takes 5 of 28, and found 10 no better."""
    query: Literal["noise", "copy", "learned"] = "copy"
    """What Q starts from: the noisy P of each step; noise, fixed for a chunk; or trained latents. The paper has noise,
    and found a copy as good."""
    query_shape: tuple[int, int, int, int] | None = None
    """[C, F, H, W] of trained latents."""
    query_time: Literal["clean", "shared"] = "shared"
    """Timestep of Q: that of P, or 0. A copy of P at P's changes nothing of a model until it sees context; all else
    does, and a model trained on from there learns to look away from Q."""
    context_time: Literal["clean", "shared"] = "clean"
    """Timestep of C: 0, or that of P, which has C run anew at each step."""
    query_sees_prediction: bool = True
    """The edge that the paper found to be essential: without it −4 dB."""
    query_sees_query: bool = False
    cameras: tuple[str, ...] = ("exact",)
    """Kinds of pose annotation, each with an encoder of its own: rendered ("exact"), estimated, …"""

    def __post_init__(self) -> None:
        if not 0 < self.layers <= self.blocks:
            raise InputError(f"layers is {self.layers} of {self.blocks} blocks; give 1 or more, and not more than all.")
        if (self.query == "learned") != (self.query_shape is not None):
            raise InputError('query="learned" and query_shape=(channels, frames, height, width) go together.')

    @classmethod
    def tiny(cls) -> QueryLayersConfig:
        """For ``WanBackbone.tiny()``: 2 of 8 blocks."""
        return cls(dim=192, blocks=8, layers=2)

    @classmethod
    def wan_1_3b(cls) -> QueryLayersConfig:
        """For Wan2.1 T2V 1.3B: 5 of 30 blocks."""
        return cls()

    @classmethod
    def wan_5b(cls) -> QueryLayersConfig:
        """For Wan2.2 TI2V 5B."""
        return cls(dim=3072)


class QueryLayers(Pretrained, nn.Module):
    """Query and generative layers on a stock Wan; what is its own to train is the camera encoders, and a learned Q.

        query = QueryLayers(QueryLayersConfig.wan_1_3b())
        with query.attach(pipe.transformer) as attached, attached.chunk(context):
            latents = pipe(prompt, output_type="latent").frames

    The paper trains the backbone along, whole. A single-frame prediction with no context is image-to-video.
    """

    config_class = QueryLayersConfig

    def __init__(self, config: QueryLayersConfig) -> None:
        super().__init__()
        self.config = config
        self.cameras = nn.ModuleDict({name: CameraEncoder(config.dim, config.blocks) for name in config.cameras})
        shape = config.query_shape
        self.learned = None if shape is None else nn.Parameter(torch.randn(shape))

    def attach(self, *transformers: nn.Module) -> QueryAttachment:
        """Attach to each transformer (both experts of Wan2.2 A14B) until ``detach()`` or the end of the ``with``.

        Attached, a transformer runs inside a chunk only; see `QueryAttachment.chunk`. Gradient checkpointing and
        other injections may be used along, ``torch.compile`` not.

        Raises:
            InputError: no transformer, one twice, not a Wan, of another width or depth, or one that has query layers.
        """
        models = wans_of(transformers)
        for model in models:
            width = model.config.num_attention_heads * model.config.attention_head_dim
            found, wanted = (width, len(model.blocks)), (self.config.dim, self.config.blocks)
            if found != wanted:
                raise InputError(
                    f"The transformer is {found[0]} wide with {found[1]} blocks, these query layers are for "
                    f"{wanted[0]} and {wanted[1]}; make them with dim={found[0]}, blocks={found[1]}."
                )
        return QueryAttachment(self, models)

    def start(self, given: Tensor | None, noisy: Tensor) -> Tensor:
        """Latents of Q [B,C,F,H,W] for the noisy latents of P: as the config says.

        Raises:
            InputError: ``given`` noise is missing, not wanted, or does not fit.
        """
        kind = self.config.query
        if (kind == "noise") != (given is not None):
            raise InputError(
                f"query={kind!r} and noise for Q do not fit; give the chunk noise for Q with 'noise' only."
            )
        if kind == "copy":
            return noisy
        query = self.learned[None] if self.learned is not None else given
        assert query is not None
        if query.shape[0] not in (1, noisy.shape[0]) or query.shape[1:] != noisy.shape[1:]:
            raise InputError(
                f"Q has latents {list(query.shape)}, P {list(noisy.shape)}; give Q as many, one row or all."
            )
        return query.to(noisy).expand_as(noisy)

    def camera_tokens(self, poses: Tensor | None, kind: str, block: int, tokens_per_frame: int) -> Tensor | None:
        """What is added to the tokens of frames with these poses [B,F,12], or None without poses."""
        if poses is None:
            return None
        return self.cameras[kind](poses, block).repeat_interleave(tokens_per_frame, dim=1)

"""`QueryLayers`: query tokens retrieve context inside the model (MemLearner, arXiv 2606.31734).

Beside the frames P to be generated, the model processes an equal number of query frames Q. In its first layers, the
query layers, Q attends to the context C (clean past frames, up to nine times as many) and to P; P attends to itself and
Q, never to C. In the remaining layers, C is absent:

    | queries of           | keys of C | keys of Q | keys of P |
    | Q, query layers      | yes       | no        | yes       |
    | P, query layers      | no        | yes       | yes       |
    | Q, remaining layers  | –         | no        | yes       |
    | P, remaining layers  | –         | yes       | yes       |

Context tokens are keys and values only: self-attention leaves them unchanged, while cross-attention and feed-forward
apply as usual. So C does not depend on Q or P, and is computed separately, through the query layers alone. With C at
timestep 0, the default, its keys and values are used for all denoising steps of a chunk.

The model is a stock Wan with its usual interface: inside a chunk, it takes the latents of P and returns their velocity,
so the stock pipelines work unchanged.
"""

from __future__ import annotations

import torch
from torch import Tensor, nn

from memkit.backbones.adapters.choice import adapter_of
from memkit.backbones.base import QUERY_LAYERS
from memkit.backbones.unwrap import Attachable, transformers_of
from memkit.errors import InputError
from memkit.injectors.camera_encoder import CameraEncoder
from memkit.injectors.query_layers.attachment import AttachedQueries
from memkit.injectors.query_layers.config import QueryLayersConfig
from memkit.pretrained import Pretrained


class QueryLayers(Pretrained, nn.Module):
    """Query layers for a stock Wan; its parameters are the camera encoders and, optionally, a learned Q.

        query = QueryLayers(QueryLayersConfig.wan_1_3b())
        with query.attach(pipe.transformer) as attached, attached.chunk(context):
            latents = pipe(prompt, output_type="latent").frames

    The paper also trains the whole backbone. A prediction of a single frame without context is image-to-video.
    """

    config_class = QueryLayersConfig

    def __init__(self, config: QueryLayersConfig) -> None:
        super().__init__()
        self.config = config
        self.cameras = nn.ModuleDict({name: CameraEncoder(config.dim, config.blocks) for name in config.cameras})
        shape = config.query_shape
        self.learned = None if shape is None else nn.Parameter(torch.randn(shape))

    def attach(self, *models: Attachable) -> AttachedQueries:
        """Attach to transformers, or to all experts of a pipeline or backbone, until ``detach()`` or the end of the
        ``with`` statement.

        While attached, a transformer runs only inside `AttachedQueries.chunk`. It can be combined with non-reentrant
        gradient checkpointing and with other injections, but not with diffusers' caches, which skip blocks.

        Raises:
            InputError: no transformer is given, one is repeated, cannot have query layers or already has them, or has
                another width or number of blocks.
        """
        transformers = transformers_of(models, QUERY_LAYERS)
        for model in transformers:
            sizes = adapter_of(model).sizes(model)
            width, blocks = sizes.width, sizes.layers
            if (width, blocks) != (self.config.dim, self.config.blocks):
                raise InputError(
                    f"The transformer has width {width} and {blocks} blocks, these query layers are for "
                    f"{self.config.dim} and {self.config.blocks}; make them with dim={width}, blocks={blocks}."
                )
        return AttachedQueries(self, transformers, self.config, self.start, self.cameras)

    def start(self, noise: Tensor | None, noisy: Tensor) -> Tensor:
        """Input latents of Q [B,C,F,H,W] for the noisy latents of P [B,C,F,H,W], according to the config.

        Raises:
            InputError: ``noise`` is missing, is given without ``query="noise"``, or does not fit P.
        """
        kind = self.config.query
        if (kind == "noise") != (noise is not None):
            raise InputError(
                f"query={kind!r} and the chunk has {'no' if noise is None else 'a'} noise for Q; give noise for Q if "
                "query='noise', and only then."
            )
        if kind == "copy":
            return noisy
        query = self.learned[None] if self.learned is not None else noise
        assert query is not None
        if query.shape[0] not in (1, noisy.shape[0]) or query.shape[1:] != noisy.shape[1:]:
            raise InputError(
                f"Q has latents {list(query.shape)}, P {list(noisy.shape)}; give Q the same shape, for one sample or "
                "all."
            )
        return query.to(noisy).expand_as(noisy)

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

import torch
from torch import Tensor, nn

from memkit.backbones.unwrap import Attachable, wans_of
from memkit.errors import InputError
from memkit.injectors.camera_encoder import CameraEncoder
from memkit.injectors.query_layers.attachment import AttachedQueries
from memkit.injectors.query_layers.config import QueryLayersConfig
from memkit.pretrained import Pretrained


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

    def attach(self, *models: Attachable) -> AttachedQueries:
        """Attach to each transformer, or each expert of a pipeline or backbone, until ``detach()`` or the end of the
        ``with``.

        Attached, a transformer runs inside `AttachedQueries.chunk` only. Gradient checkpointing (not the reentrant
        kind) and other injections may be used along, ``torch.compile`` not.

        Raises:
            InputError: no transformer, one twice, not a Wan, of another width or depth, or one that has query layers.
        """
        transformers = wans_of(models)
        for model in transformers:
            width = model.config.num_attention_heads * model.config.attention_head_dim
            found, wanted = (width, len(model.blocks)), (self.config.dim, self.config.blocks)
            if found != wanted:
                raise InputError(
                    f"The transformer is {found[0]} wide with {found[1]} blocks, these query layers are for "
                    f"{wanted[0]} and {wanted[1]}; make them with dim={found[0]}, blocks={found[1]}."
                )
        return AttachedQueries(self, transformers, self.config, self.start, self.cameras)

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

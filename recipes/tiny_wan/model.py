"""tiny-wan's text encoder and transformer, which are trained together; their loss; and the pipeline."""

from __future__ import annotations

import copy
import json
from pathlib import Path

import torch
from diffusers import AutoencoderKLWan, FlowMatchEulerDiscreteScheduler, WanPipeline, WanTransformer3DModel
from torch import Tensor, nn
from transformers import PreTrainedTokenizerFast, UMT5Config, UMT5EncoderModel

from memkit.backbones.codec import FORMAT_FILE
from memkit.files.atomic import write_text
from memkit.files.checksums import write_sums
from memkit.flow import NUM_TRAIN_TIMESTEPS
from memkit.generation.short_text import short_text
from memkit.worlds.event import FPS, IMAGE_SIZE, NUM_FRAMES
from recipes.tiny_wan.batches import Batch
from recipes.tiny_wan.stages import TransformerConfig


class TextAndVideo(nn.Module):
    """Text encoder and transformer, which are trained together."""

    def __init__(self, config: TransformerConfig, vocabulary: int) -> None:
        super().__init__()
        self.text_encoder = UMT5EncoderModel(
            UMT5Config(
                vocab_size=vocabulary,
                d_model=config.text_dim,
                d_kv=32,
                d_ff=256,
                num_layers=2,
                num_heads=4,
                dropout_rate=0.0,
                pad_token_id=0,
                eos_token_id=1,
                is_encoder_decoder=False,
            )
        )
        self.transformer = WanTransformer3DModel(
            num_attention_heads=config.heads,
            attention_head_dim=config.head_dim,
            in_channels=16,
            out_channels=16,
            text_dim=config.text_dim,
            ffn_dim=config.ffn_dim,
            num_layers=config.layers,
        )

    def forward(self, latents: Tensor, timestep: Tensor, tokens: Tensor, mask: Tensor) -> Tensor:
        """Predict the velocity. As in the pipeline, the text embeddings are zero where there is no token."""
        text = self.text_encoder(tokens, mask).last_hidden_state * mask[..., None]
        text = torch.cat([text, text.new_zeros(text.shape[0], 1, text.shape[2])], dim=1)
        return self.transformer(latents, timestep, text, return_dict=False)[0]


def flow_losses(config: TransformerConfig, model: TextAndVideo, x0: Tensor, noise: Tensor, batch: Batch) -> Tensor:
    """Flow-matching loss of each sample [B], over its frames that are not conditioning frames."""
    generated = torch.arange(x0.shape[2], device=x0.device) >= batch.conditioning_frames[:, None]
    levels = batch.sigma[:, None] * generated  # conditioning frames are clean
    grid = levels[:, None, :, None, None]
    latents = (1 - grid) * x0 + grid * noise
    timestep = batch.sigma * NUM_TRAIN_TIMESTEPS
    if batch.conditioning_frames.any():
        timestep = (levels * NUM_TRAIN_TIMESTEPS).repeat_interleave(x0[0, 0, 0].numel() // 4, dim=1)
    with short_text(model.transformer, config.text_length):
        predicted = model(latents, timestep, batch.tokens, batch.mask)
    error = (predicted - (noise - x0)).pow(2).mean(dim=(1, 3, 4))
    return (error * generated).sum(1) / generated.sum(1)


def write_pipeline(config: TransformerConfig, model: TextAndVideo, tokenizer: PreTrainedTokenizerFast) -> Path:
    """Assemble the stock pipeline and save it: transformer and autoencoder in fp16, the small text encoder in fp32."""
    tokenizer.backend_tokenizer.no_padding()  # training has set its own length
    tokenizer.backend_tokenizer.no_truncation()
    pipe = WanPipeline(
        tokenizer=tokenizer,  # type: ignore[arg-type]  # annotated as AutoTokenizer, of which there are no instances
        text_encoder=model.text_encoder,
        vae=AutoencoderKLWan.from_pretrained(config.vae).half(),
        scheduler=FlowMatchEulerDiscreteScheduler(shift=config.shift),
        transformer=copy.deepcopy(model.transformer).half(),
    )
    folder = config.out / "pipeline"
    pipe.vae.register_to_config(_name_or_path="tiny-wan")  # instead of the folder of the run
    pipe.save_pretrained(folder)
    video_format = {"num_frames": NUM_FRAMES, "height": IMAGE_SIZE, "width": IMAGE_SIZE, "fps": FPS}
    write_text(folder / FORMAT_FILE, json.dumps(video_format) + "\n")
    write_sums(folder)
    return folder

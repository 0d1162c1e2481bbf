"""The start of a small autoencoder."""

from __future__ import annotations

import torch

from memkit.training import initialise_vae
from recipes.tiny_wan import vae


def test_an_initialised_autoencoder_already_treats_a_still_video_as_one_frame():
    torch.manual_seed(0)
    model = vae.build()
    initialise_vae(model)
    image = torch.rand(1, 3, 1, 32, 32) * 2 - 1
    with torch.no_grad():
        one = model.encode(image).latent_dist.mode()
        still = model.encode(image.expand(-1, -1, 9, -1, -1)).latent_dist.mode()
    correlation = torch.nn.functional.cosine_similarity(still[:, :, -1].flatten(), one.flatten(), dim=0)
    assert correlation > 0.9

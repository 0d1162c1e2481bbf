"""Properties of plain patch tokens; what they share with the other encoders is in ``test_choice``."""

import dataclasses

import pytest
import torch

from memkit.encoders import PatchEncoder, PatchEncoderConfig
from memkit.errors import InputError

SMALL = PatchEncoderConfig(latent_channels=3, dim=24, width=16, patch=(2, 2, 3))


def build(config=SMALL):
    torch.manual_seed(0)
    return PatchEncoder(config).eval()


def clips(*shape, seed=0):
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def same(a, b):
    torch.testing.assert_close(a, b, rtol=1e-4, atol=1e-5)


def test_a_token_is_its_patch_and_its_place():
    """By a loop over the patches of one clip; a change in one patch changes one token."""
    encoder, x = build(), clips(1, 1, 3, 4, 4, 6)
    tokens = encoder(x).tokens[0].unflatten(0, (2, 2, 2))
    bare = build()
    bare.embed.weight = torch.nn.Parameter(torch.zeros_like(bare.embed.weight))
    for t, h, w in ((0, 0, 0), (1, 0, 1), (1, 1, 1)):
        patch = x[0, 0, :, 2 * t : 2 * t + 2, 2 * h : 2 * h + 2, 3 * w : 3 * w + 3]
        spoiled = x.clone()
        spoiled[0, 0, :, 2 * t : 2 * t + 2, 2 * h : 2 * h + 2, 3 * w : 3 * w + 3] += 1
        changed = (encoder(spoiled).tokens[0].unflatten(0, (2, 2, 2)) - tokens).norm(dim=-1) > 1e-6
        assert changed.sum() == 1 and changed[t, h, w]
        embedded = (encoder.embed.weight * patch.flatten()).sum(-1)
        bare.embed.bias = torch.nn.Parameter(embedded)  # this patch everywhere
        same(bare(x).tokens[0].unflatten(0, (2, 2, 2))[t, h, w], tokens[t, h, w])


@pytest.mark.parametrize("size", [(1, 1, 1), (3, 4, 5), (2, 3, 7)])
def test_incomplete_patches_repeat_the_last_cell(size):
    encoder, x = build(), clips(1, 3, *size)
    margins = [m for n, p in zip(reversed(size), (3, 2, 2), strict=True) for m in (0, -n % p)]
    padded = torch.nn.functional.pad(x, margins, mode="replicate")
    assert torch.equal(encoder(x[None]).tokens, encoder(padded[None]).tokens)
    assert encoder(x[None]).tokens.shape[1] == -(-size[0] // 2) * -(-size[1] // 2) * -(-size[2] // 3)


def test_equal_patches_know_their_place_and_tokens_have_unit_variance():
    encoder = build(PatchEncoderConfig.tiny())
    tokens = encoder(torch.ones(1, 1, 16, 5, 8, 8)).tokens[0]
    apart = torch.cdist(tokens, tokens) + torch.diag(torch.full((40,), torch.inf))
    assert apart.min() > 0.05 * tokens.norm(dim=-1).mean()
    assert 0.7 < encoder(clips(2, 3, 16, 5, 8, 8)).tokens.std() < 1.4


@pytest.mark.parametrize(("change", "named"), [({"patch": (1, 0, 1)}, "patch is"), ({"width": 0}, "width is 0")])
def test_configurations_that_cannot_be_are_named(change, named):
    with pytest.raises(InputError, match=named):
        dataclasses.replace(SMALL, **change)

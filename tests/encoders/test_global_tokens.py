"""`GlobalTokens`: what they depend on, that they change nothing at first, and saving."""

import torch

from memkit.encoders import GlobalTokens, GlobalTokensConfig
from memkit.injectors import SelfAttentionConcat
from tests.helpers.attachables import call, seeded
from tests.helpers.random_wan import SMALL, random_transformer

CONFIG = GlobalTokensConfig(5, 2, 4, 48, SMALL["text_dim"], 16, SMALL["num_layers"], 2)


def test_tokens_read_all_frames_and_the_text_and_change_nothing_at_first(tmp_path):
    torch.manual_seed(0)
    encoder = GlobalTokens(CONFIG).eval()
    frames, text = seeded(2, 16, 3, 4, 4), seeded(2, 6, SMALL["text_dim"], seed=1)
    model, plain = random_transformer(), call(random_transformer())
    memory = encoder(frames, text)
    assert memory.tokens.shape == (2, 5, 48)
    with SelfAttentionConcat(memory).attach(model):
        assert torch.equal(call(model), plain)
    torch.nn.init.constant_(encoder.gate.weight, 0.5)
    with SelfAttentionConcat(encoder(frames, text)).attach(model):
        assert not torch.allclose(call(model), plain, atol=1e-4)
    for other in ((frames.index_fill(2, torch.tensor([2]), 0.0), text), (frames, text * 0.5)):
        assert not torch.allclose(encoder(*other).tokens, memory.tokens, atol=1e-4)
    encoder.save_pretrained(tmp_path)
    assert torch.equal(GlobalTokens.from_pretrained(tmp_path)(frames, text).tokens, memory.tokens)

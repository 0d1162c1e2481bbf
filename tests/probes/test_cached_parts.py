"""A KV cache of other parts as a mechanism of the probes: coarser, and with room for some of the past."""

import pytest
import torch

from memkit.errors import InputError
from memkit.injectors.kv_cache import CacheParts, Integers, KeyDifference
from memkit.probes import ProbeSettings, make_probe
from memkit.probes.mechanisms import CachedKeys
from memkit.probes.training import predict


def test_a_coarse_cache_and_one_of_half_the_frames():
    model, probe = ProbeSettings(blocks=2, heads=2, batch=4).model(0), make_probe("recall", distance=0, distractors=4)
    batch = probe.sample(torch.Generator().manual_seed(2), 3)
    noise = torch.randn(batch.target.shape, generator=torch.Generator().manual_seed(3))
    settings = {
        "full": {},
        "int8": {"parts": CacheParts(storage=Integers(8))},
        "half": {"parts": CacheParts(keep=KeyDifference()), "share": 0.5, "at_once": 1},
        "none": {},
    }
    shown, held = {}, {}
    with torch.no_grad():
        for block in model.blocks:
            block.scale_shift_table.normal_(generator=torch.Generator().manual_seed(1))
        for name, given in settings.items():
            mechanism = CachedKeys(model, probe, cameras="off", **given)
            seen = batch.without_memory() if name == "none" else batch
            shown[name], held[name] = predict(model, mechanism, seen, noise), mechanism.held_bytes(batch)
    error = {name: float((x - shown["full"]).norm() / shown["full"].norm()) for name, x in shown.items()}
    assert 0 < error["int8"] < 0.05 * error["none"] and error["half"] > 0
    assert held["int8"] < 0.55 * held["full"] and held["half"] <= 0.6 * held["full"]
    with pytest.raises(InputError, match="share"):
        CachedKeys(model, probe, share=0.0)

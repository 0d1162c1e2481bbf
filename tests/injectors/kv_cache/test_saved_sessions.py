"""KVCache.save and KVCache.load."""

import pytest
import torch
from safetensors.torch import save_file

from memkit.errors import InputError
from memkit.injectors import KVCache
from tests.helpers.edited_files import edit_header
from tests.injectors.kv_cache.common import fill, latents, new_cache, same_slots, stream


@pytest.mark.parametrize("batch", [1, 2])
def test_a_saved_session_goes_on_to_the_bit(model, tmp_path, batch):
    cache = new_cache(model, 5, batch, ("cond", "uncond"))
    with cache.attach(model) as attached:
        chunks = [[10, 11], [-4, 2], [20, 15], [12]]  # in slots out of order
        stream(model, attached, latents(7, batch), chunks, branch="cond")
        cache.branch("cond").pin([12])
        stream(model, attached, latents(3, batch), [[4], [5, 6]], branch="uncond")
        cache.branch("uncond").drop([4])  # in order, but not from the first
        cache.save(tmp_path / "session")
        again = KVCache.load(tmp_path / "session")
        assert again.branches == cache.branches and again.budget_bytes == cache.budget_bytes
        for name in cache.branches:
            assert same_slots(again.branch(name), cache.branch(name))
        assert again.branch("cond").pinned == (12,)
        want = stream(model, attached, latents(2, batch, seed=3), [[30, 31]], branch="cond")
    with again.attach(model) as attached:
        assert torch.equal(stream(model, attached, latents(2, batch, seed=3), [[30, 31]], branch="cond"), want)
    assert same_slots(again.branch("cond"), cache.branch("cond"))
    assert [p.name for p in tmp_path.iterdir()] == ["session"]


def test_an_empty_session_is_saved_too(tmp_path):
    KVCache(1000, ("a", "b")).save(tmp_path / "session")
    assert KVCache.load(tmp_path / "session").branches == ("a", "b")


def test_a_file_that_is_no_session_is_named(model, tmp_path):
    cache, path = new_cache(model), tmp_path / "session"
    with pytest.raises(InputError, match="no saved cache at"):
        KVCache.load(path)
    with cache.attach(model) as attached:
        fill(model, attached)
    cache.save(path)
    with pytest.raises(InputError, match="Cannot write"):
        cache.save(tmp_path / "nowhere" / "session")
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(InputError, match="damaged"):
        KVCache.load(path)
    path.write_bytes(whole)
    for change, message in (
        ({"version": 2}, "version 1"),
        ({"format": "x"}, "version 1"),
        ({"branches": 3}, "damaged"),
    ):
        path.write_bytes(whole)
        edit_header(path, "session", **change)
        with pytest.raises(InputError, match=message):
            KVCache.load(path)
    save_file({"x": torch.zeros(1)}, path)
    with pytest.raises(InputError, match="damaged"):
        KVCache.load(path)
    path.write_bytes(whole)
    edit_header(path, "session", without=["0.1.v"])
    with pytest.raises(InputError, match="damaged"):
        KVCache.load(path)

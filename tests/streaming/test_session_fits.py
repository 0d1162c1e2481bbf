"""A saved stream is continued with the model, the size and the settings that it was saved with, or not at all."""

import json

import pytest
import torch

from memkit.errors import InputError
from memkit.streaming import Stream
from tests.helpers.edited_files import edit_json
from tests.helpers.streams import seeded, stream

PROMPTS = ["a red ball falls", "a green ball rolls"]


def saved(backbone, folder) -> dict:
    it = stream(backbone)
    it.generate(PROMPTS, seeded(2, 16, it.config.chunk, *it.size))
    it.save(folder)
    return json.loads((folder / "stream.json").read_text())


def test_a_stream_of_another_model_or_size_is_not_continued(backbone, tmp_path):
    content = saved(backbone, tmp_path)
    rows, columns = content["size"]
    changes = [
        ({"model": {**content["model"], name: 7}}, f"{name} 7, not")
        for name in ("layers", "heads", "head_dim", "channels", "patch_size", "dtype")
    ]
    changes += [
        ({"size": [2 * rows, 2 * columns]}, "rows and"),
        ({"size": [rows, columns + 1]}, "patches"),
        ({"seeds": [1, 2, 3]}, "of 2 videos"),
        ({"size": [True, 1.5]}, r"stream.json has size = \[True, 1.5\]"),
        ({"seeds": [1.5, 2]}, r"stream.json has seeds = \[1.5, 2\]"),
        ({"position": -1}, "stream.json: position is -1"),
        ({"position": 10**12}, "stream.json: position is 1000000000000"),
        ({"config": {**content["config"], "steps": 10**9}}, "steps is 1000000000"),
    ]
    for change, says in changes:
        edit_json(tmp_path / "stream.json", **content | change)
        with pytest.raises(InputError, match=says):
            Stream.load(tmp_path, backbone)
    edit_json(tmp_path / "stream.json", **{name: value for name, value in content.items() if name != "model"})
    assert Stream.load(tmp_path, backbone).position == content["position"]


def test_bad_numbers_of_a_stream_are_named_before_anything_is_allocated(backbone):
    for wrong, says in (
        ({"seeds": [1.5]}, r"seeds\[0\] is 1.5"),
        ({"seeds": [2**70]}, r"seeds\[0\] is"),
        ({"size": (3, 4)}, "patches"),
        ({"size": (10**12, 4)}, "height of the latents, is"),
    ):
        with pytest.raises(Exception, match=f"{says}|violates type hint|Type-check"):
            Stream(backbone, **{"seeds": [1], "budget_bytes": 10**6, **wrong})
    with pytest.raises(InputError, match="budget_bytes is 1000000000000000 bytes"):
        Stream(backbone, [1], 10**15)
    it = stream(backbone)
    with pytest.raises(Exception, match="holds no chunk of 1,000,000 frames"):
        it.generate(PROMPTS, frames=1_000_000)
    with pytest.raises(InputError, match="frames is 1000000000"):
        it.generate(PROMPTS, frames=10**9)
    for latents in (
        torch.full((1, 16, 1, *it.size), torch.nan),
        torch.full((1, 16, it.config.chunk, *it.size), torch.inf),
    ):
        with pytest.raises(InputError, match="NaN or infinite"):
            it.generate(PROMPTS, latents)
    with pytest.raises(InputError, match="position of a stream is True"):
        it.position = True
    assert it.position == 0 and it.generate(PROMPTS).isfinite().all()

"""Backbones and generation."""

from __future__ import annotations

import tempfile
from pathlib import Path
from typing import Any

import torch

from memkit import WanBackbone, generate_video, generate_videos
from memkit.backbones import VideoFormat
from memkit.files.tensors import write_safetensors
from tests.faults.inputs import INF, NAN, NO_NUMBER, NO_POSITIVE_COUNT, NO_RATE, Api
from tests.faults.session_kinds import backbone
from tests.helpers.original_wan import random_state
from tests.helpers.streams import seeded
from tests.helpers.wan_files import HEADS

LATENTS = seeded(1, 16, 2, 4, 4)
TEXT = seeded(1, 8, 32)


def velocity(**inputs: Any) -> object:
    with torch.no_grad():
        return backbone().velocity(**inputs)


def generated(**options: Any) -> object:
    return generate_video(small(), **options)


def several(**options: Any) -> object:
    return generate_videos(small(), **options)


def small() -> WanBackbone:
    """Videos of one second are too long for a table of hundreds of cases."""
    model = backbone()
    model.video_format = VideoFormat(5, 32, 32, 8.0)
    model.pipeline().set_progress_bar_config(disable=True)
    return model


def original(source: Any, config: Any) -> object:
    return WanBackbone.from_original(random_state() if source is None else source, config).transformer


def pretrained(name: Any) -> object:
    return None if name is None else WanBackbone.from_pretrained(name).transformer


def other(name: str, content: bytes) -> Path:
    file = Path(tempfile.mkdtemp()) / name
    file.write_bytes(content)
    return file


def tensors(**state: torch.Tensor) -> Path:
    file = Path(tempfile.mkdtemp()) / "model.safetensors"
    write_safetensors(file, state, "x", {})
    return file


POINTER = b"version https://git-lfs.github.com/spec/v1\noid sha256:00\nsize 28577092\n"

APIS = (
    Api(
        "WanBackbone.velocity",
        velocity,
        {"latents": LATENTS, "timestep": torch.tensor([500.0]), "text_embeds": TEXT},
        {
            "latents": (
                seeded(1, 4, 2, 4, 4),
                seeded(16, 2, 4, 4),
                seeded(1, 16, 2, 3, 4),
                seeded(1, 16, 0, 4, 4),
                seeded(2, 16, 2, 4, 4),
            ),
            "timestep": (torch.zeros(2), torch.zeros(1, 7), 500.0),
            "text_embeds": (seeded(1, 8, 31), seeded(8, 32), seeded(2, 8, 32)),
        },
        {"latents": ("timestep", "text"), "text_embeds": ("text", "embed"), "timestep": ("timestep", "batch")},
    ),
    Api(
        "WanBackbone.encode_text",
        lambda **x: backbone().encode_text(**x),
        {"prompts": ["a"], "max_sequence_length": 8},
        {"prompts": ([], [None], [3], None), "max_sequence_length": NO_POSITIVE_COUNT},
        {"prompts": ("prompt",), "max_sequence_length": ("length",)},
    ),
    Api(
        "WanBackbone.encode_video",
        lambda video: backbone().encode_video(video),
        {"video": seeded(1, 3, 5, 16, 16).clamp(-1, 1)},
        {
            "video": (
                seeded(1, 3, 1, 17, 16),
                seeded(1, 4, 1, 16, 16),
                seeded(3, 1, 16, 16),
                seeded(1, 3, 0, 16, 16),
                seeded(1, 3, 1, 16, 16) * NAN,
                torch.zeros(1, 3, 1, 16, 16).byte(),
                seeded(1, 3, 4, 16, 16),
            )
        },
        {"video": ("frames", "pixels", "height")},
    ),
    Api(
        "WanBackbone.decode_latents",
        lambda latents: backbone().decode_latents(latents),
        {"latents": LATENTS},
        {"latents": (seeded(1, 4, 2, 4, 4), seeded(16, 2, 4, 4), seeded(1, 16, 0, 4, 4), LATENTS * NAN)},
    ),
    Api(
        "generate_video",
        generated,
        {"prompt": "a red ball", "seed": 1, "steps": 1, "guidance_scale": 1.0, "text_length": 8},
        {
            "prompt": (None, 3, ["a"]),
            "seed": (NAN, "1", 1.5, None, 2**80),
            "steps": (*NO_POSITIVE_COUNT, 10**9),
            "guidance_scale": NO_NUMBER,
            "negative_prompt": (None, 3, ["a"]),
            "conditioning_latents": (
                seeded(1, 16, 9, 4, 4),
                seeded(1, 4, 1, 4, 4),
                seeded(1, 16, 1, 4, 5),
                LATENTS[:, :, :1] * NAN,
                seeded(3, 16, 1, 4, 4),
            ),
            "memory_guidance": ("always", NAN, INF, []),
            "text_length": (*NO_POSITIVE_COUNT, 513),
        },
        {"memory_guidance": ("guidance",), "conditioning_latents": ("conditioning",), "text_length": ("text",)},
    ),
    Api(
        "generate_videos",
        several,
        {"prompts": ["a red ball"], "seeds": [1], "steps": 1, "guidance_scale": 1.0, "text_length": 8},
        {"prompts": ([], ["a", "b"], [None], "a"), "seeds": ([], [1, 2], ["1"], [NAN], [1.5])},
        {"prompts": ("prompt",), "seeds": ("seed",)},
    ),
    Api(
        "WanBackbone.from_original",
        original,
        {"source": None, "config": HEADS},
        {
            "source": (
                "/proc/nowhere/at/all.pth",
                "",
                "a\0b",
                tempfile.gettempdir(),
                {},
                {"a": torch.zeros(1)},
                {"a": 3},
                lambda: other("lfs.safetensors", POINTER),
                lambda: other("lfs.pth", POINTER),
                lambda: other("m.gguf", b"GGUF\3\0\0\0" + bytes(64)),
                lambda: other("m.pth", b"<html>not found</html>"),
                lambda: other("m.safetensors", b"\xff" * 64),
                lambda: other("m.pth", b"\x80\x04x."),
                lambda: other("m.pth", b""),
                lambda: tensors(a=torch.zeros(2)),
                lambda: {**random_state(), "blocks.0.norm3.weight": torch.zeros(7)},
                lambda: {name: x for name, x in random_state().items() if "ffn.0" not in name},
                lambda: {**random_state(), "more.weight": torch.zeros(7)},
                lambda: {name: x.long() for name, x in random_state().items()},
            ),
            "config": (
                {"num_attention_heads": 0},
                {"num_attention_heads": 5, "attention_head_dim": 24},
                {"heads": 2},
                {"num_layers": 10**9},
                {"num_attention_heads": "2"},
                [1],
                "tiny",
                {"num_attention_heads": NAN, "attention_head_dim": 24},
            ),
        },
        {
            "source": ("lfs", "state dict", "weights", "blocks.", "tensor", "m.", "model.safetensors"),
            "config": ("heads", "head", "num_layers", "layers"),
        },
    ),
    Api(
        "WanBackbone.from_pretrained",
        pretrained,
        {"name": None},
        {"name": ("/proc/nowhere/at/all", "", "a\0b", "no/such/id", "x y z", lambda: tempfile.mkdtemp(), "/dev/null")},
        {"name": ("model_index.json",)},
    ),
    Api(
        "VideoFormat",
        VideoFormat,
        {"num_frames": 17, "height": 64, "width": 64, "fps": 8.0},
        {"num_frames": NO_POSITIVE_COUNT, "height": NO_POSITIVE_COUNT, "width": (0, -1, NAN), "fps": NO_RATE},
        {"num_frames": ("frames",), "fps": ("rate",)},
    ),
)

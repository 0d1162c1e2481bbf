"""docs/neighbours.md: the table of all neighbours, from their own metadata."""

from __future__ import annotations

import sys
from dataclasses import fields
from pathlib import Path
from typing import Any, cast

from memkit.files.atomic import write_text
from recipes.neighbours.methods import METHODS
from recipes.neighbours.neighbour import Method

PAGE = """# Neighbours

Methods of other papers for long or steered videos, in `recipes/neighbours/`: each is a file of at most 60 lines,
composed of memkit's parts. One command samples a short video by a method, beside plain sampling from the same noise:

```bash
python -m recipes.neighbours freelong --out out/freelong      # method.mp4, plain.mp4, sheet.png
python -m recipes.neighbours freelong --help                  # its settings
python -m recipes.neighbours page                             # this page, from the metadata in the code
```

The default model is tiny-wan, whose own videos have 5 latent frames. **It was trained for none of these methods.**
Those that need no training do what their papers say, to a very small model. Those that are trained run without their
training: layers of their own begin at zero or random, and a model that was never shown frames at several noise levels,
or a cache, sees them for the first time. Such videos show what is computed, not what the method can do, and the command
says so. No figure of these papers is reproduced here. The noise is the same as far as a method takes it as it is:
DualParal permutes that of its first block, and Reuse-and-Diffuse mixes it with that of the clip before.

Every method has a limit in which it must be plain sampling, or another method, and a test that it is: see
`tests/recipes/neighbours/`.

## Who sees whom, when, where

Frames are latent frames; a frame is clean at timestep 0. A "–" stands for no difference between frequencies. The last
column says what our notes on a paper are from: its abstract (A), its text (P), its code (C), or second hand (S).

| method | visibility | timesteps | positions | frequencies | trained? | notes |
|---|---|---|---|---|---|---|
{rows}

## What is our reading

What our notes on the papers leave open, or infer, is listed here. Where a setting stands for it, the setting is named,
with its default. Defaults of other settings are those of the authors, scaled to tiny-wan's 5 latent frames; their own
are in the settings' descriptions (``--help``).

{readings}

## Parts

What these methods needed and memkit did not have became parts of it:

| part | what it does | used by |
|---|---|---|
{parts}
"""

PARTS = {
    "memkit/generation/frame_sampler.py": "sampling in which each frame has a noise level of its own",
    "memkit/generation/frame_schedules.py": "schedules of those levels, and draws of them for training",
    "memkit/generation/overlapping.py": "one prediction for a long video, from windows that overlap",
    "memkit/generation/noise.py": "noise of a long video whose blocks permute one template",
    "memkit/injectors/frame_visibility.py": "which frames see which, without a mask: windows, causal, shifted by layer",
    "memkit/injectors/frequency_blend.py": "low frequencies of attention to all frames, high ones of a window",
    "memkit/injectors/block_layers.py": "small layers of one's own around the self-attention of some blocks",
    "memkit/injectors/reference_attention.py": "cross-attention to features of reference frames",
    "memkit/injectors/temporal_layer.py": "convolutions over time beside the self-attention",
    "memkit/injectors/control_branch/branch.py": "blocks that read control latents beside those of a model (VACE)",
    "memkit/injectors/text_regions.py": "a prompt of its own for each region of the frames",
    "memkit/training/tracking.py": "the loss along tracks, and tracks of cells that are alike",
    "memkit/positions/token_positions.py": "tokens at the place of other tokens of their frame",
    "memkit/encoders/global_tokens.py": "tokens of a whole noisy video, read anew at each step",
}
"""What each part is; who uses it follows from the imports of the methods."""


def row(name: str, method: type[Method]) -> str:
    """A line of the table."""
    about = method.about
    number, _, notes = about.paper.rpartition("[")
    title = f"[{about.title}](https://arxiv.org/abs/{number.strip()})" if number else about.title
    cells = (f"{title}, `{name}`", about.visibility, about.timesteps, about.positions, about.frequencies)
    return f"| {' | '.join(cells)} | {about.trained or 'no'} | {notes.removesuffix(']')} |"


def readings(method: type[Method]) -> str:
    """What the notes leave open, with the settings that are named in it and their defaults."""
    text = "; ".join(method.about.readings)
    for field in fields(cast(Any, method)):
        text = text.replace(f"`{field.name}`", f"`{field.name}` ({field.default})")
    return f"- **{method.about.title}**: {text}."


def users(part: str) -> str:
    """The methods whose files import something that is defined in this part; none by name where all do."""
    module, found = part.removesuffix(".py").replace("/", "."), []
    for method in METHODS.values():
        names = vars(sys.modules[method.__module__]).values()
        found += [method.about.title] if any(getattr(each, "__module__", "") == module for each in names) else []
    return ", ".join(found) or "all"


def page() -> str:
    """The text of the page."""
    return PAGE.format(
        rows="\n".join(row(name, method) for name, method in METHODS.items()),
        readings="\n".join(readings(method) for method in METHODS.values() if method.about.readings),
        parts="\n".join(f"| `{part}` | {text} | {users(part)} |" for part, text in PARTS.items()),
    )


def write_page(file: Path) -> Path:
    """Write the page."""
    write_text(file, page())
    return file

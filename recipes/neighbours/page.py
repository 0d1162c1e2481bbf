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

Methods of other papers for long or controlled videos, in `recipes/neighbours/`. Each is a file of at most 60
lines, composed of memkit's parts. Use them to read how a method works on a stock Wan, to compare it with
another one on the same noise, or as a starting point for your own. One command samples a short video with a
method, and another one without it from the same noise:

```bash
python -m recipes.neighbours freelong --out out/freelong      # method.mp4, plain.mp4, sheet.png; about 1 min
python -m recipes.neighbours freelong --help                  # its settings; a few seconds
python -m recipes.neighbours page                             # writes this page from the metadata in the code
```

## What the videos show

The default model is tiny-wan, whose own videos have 5 latent frames. **It was not trained for any of these
methods**, and the command says so.

- Methods that need no training do what their papers describe, with a very small model.
- Methods that need training run without it. Their additional layers are zero or random, and the model, which
  has never seen frames at different noise levels or a cache, meets them for the first time. These videos show
  what is computed, not what the method can achieve.

No figure of these papers is reproduced here. Both videos start from the same noise, except where a method
defines its own noise: DualParal permutes the noise of its first block, and Reuse-and-Diffuse mixes the noise
with that of the previous clip.

## The methods

Frames are latent frames. A frame is clean at timestep 0. "As in the model" means that the method leaves
positions alone, and "–" that it does not distinguish frequencies. "Sources" says what our notes on a paper are
based on: its abstract (A), its text (P), its code (C), or second-hand accounts (S).

| method and its name | a frame attends to | timesteps | temporal positions | frequencies | trained | sources |
|---|---|---|---|---|---|---|
{rows}

## Our readings

What our notes on the papers leave open or only imply is listed here, with the name and the default of the
setting where there is one. The other defaults are the authors', scaled to tiny-wan's 5 latent frames; the
original values are in the descriptions of the settings (`--help`).

{readings}

## Parts of memkit that they use

| part | what it does | used by |
|---|---|---|
{parts}

## How they are tested

Every method has settings with which it must equal plain sampling or another method, and a test in
`tests/recipes/neighbours/` that it does.
"""

PARTS = {
    "memkit/generation/frame_sampler.py": "samples videos in which each frame has its own noise level",
    "memkit/generation/frame_schedules.py": "schedules of noise levels per frame, and random ones for training",
    "memkit/generation/overlapping.py": "merges predictions of overlapping windows into one for a long video",
    "memkit/generation/noise.py": "noise for a long video, whose blocks are permutations of one template",
    "memkit/injectors/frame_visibility.py": "which frames attend to which, without a mask: windows, causal, shifted",
    "memkit/injectors/frequency_blend.py": "low frequencies of attention to all frames, high ones of a window",
    "memkit/injectors/block_layers.py": "additional small layers around the self-attention of some blocks",
    "memkit/injectors/reference_attention.py": "cross-attention to features of reference frames",
    "memkit/injectors/temporal_layer.py": "convolutions over time beside the self-attention",
    "memkit/injectors/control_branch/branch.py": "blocks that read control latents beside those of a model (VACE)",
    "memkit/injectors/text_regions.py": "a separate prompt for each region of the frames",
    "memkit/training/tracking.py": "the loss along tracks, and tracks between similar cells",
    "memkit/positions/token_positions.py": "gives tokens the positions of other tokens of their frame",
    "memkit/encoders/global_tokens.py": "tokens that summarise the whole noisy video, computed at each step",
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

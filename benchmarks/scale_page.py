"""The tables of docs/scale.md, computed by what ``memkit plan`` computes with; nothing is measured.

python -m benchmarks.scale_page
"""

from __future__ import annotations

import math
from pathlib import Path

from memkit.backbones import PRESETS
from memkit.backbones.cost import WanCost
from memkit.cli.plan import BYTES, memory_tokens
from memkit.display import size_of

PAGE = Path(__file__).parents[1] / "docs" / "scale.md"
BEGIN = "<!-- tables: written by python -m benchmarks.scale_page -->\n"
END = "<!-- end of the tables -->"

DEVICES = {
    "A100 80 GB": (80, 312),
    "H100 80 GB": (80, 989),
    "H200 141 GB": (141, 989),
    "RTX 4090 24 GB": (24, 165),
}
"""Memory in 10⁹ bytes, and the peak of dense bf16 matrix products in 10¹² operations per second, by data sheets."""
ACHIEVED = 0.4
"""The share of the peak that is assumed to be achieved, as in ``memkit plan``."""
STEPS, PASSES, CLIPS = 50, 2, 5
BANK = 400_000
ENTRY_BYTES = 430
"""Of a clip's line in a manifest, with a caption of 100 characters."""


def tables() -> str:
    """All tables, by the costs of the published models in the format that each was trained in."""
    costs = {name: WanCost(preset(), preset().video_format) for name, preset in PRESETS.items()}
    return "\n".join([_generation(costs), _devices(costs), _bank(costs)])


def _generation(costs: dict[str, WanCost]) -> str:
    lines = [
        f"### One video with {CLIPS} clips of memory",
        "",
        "| model | video | tokens | weights | hidden states of one layer | memory tokens | memory | operations per "
        "forward pass | share of memory |",
        "|---|---|---|---|---|---|---|---|---|",
    ]
    for name, cost in costs.items():
        form, memory = cost.video, memory_tokens(cost, CLIPS)
        whole = cost.operations(memory_tokens=memory)
        cells = [
            name,
            f"{form.num_frames}×{form.height}×{form.width}",
            f"{cost.tokens:,}",
            size_of(cost.parameters * BYTES * cost.preset.experts),
            size_of(cost.tokens * cost.width * BYTES),
            f"{memory:,}",
            size_of(memory * cost.width * BYTES),
            f"{whole / 1e12:,.0f}·10¹²",
            f"{100 * (1 - cost.operations() / whole):.1f} %",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _devices(costs: dict[str, WanCost]) -> str:
    lines = [
        f"### Time of {STEPS} steps with guidance and memory on one device",
        "",
        f"If {ACHIEVED:.0%} of the peak is achieved. A dash means that the weights alone exceed the device's memory.",
        "",
        f"| model | {' | '.join(DEVICES)} |",
        f"|---|{'---|' * len(DEVICES)}",
    ]
    for name, cost in costs.items():
        work = PASSES * STEPS * cost.operations(memory_tokens=memory_tokens(cost, CLIPS))
        weights = cost.parameters * BYTES * cost.preset.experts
        cells = [
            "–" if weights > memory * 1e9 else f"{work / (ACHIEVED * peak * 1e12) / 60:,.1f} min"
            for memory, peak in DEVICES.values()
        ]
        lines.append(f"| {name} | {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def _bank(costs: dict[str, WanCost]) -> str:
    lines = [
        f"### A bank of {BANK:,} clips in bf16",
        "",
        "| model | latents of one clip | latents of the bank | manifest | features of `FrequencyEncoder` | features of "
        "DiT-Mem's encoder | tar shards of 256 MiB |",
        "|---|---|---|---|---|---|---|",
    ]
    seen: set[tuple] = set()
    for name, cost in costs.items():
        if (cost.latents, cost.width) in seen:
            continue
        seen.add((cost.latents, cost.width))
        clip = math.prod(cost.latents) * BYTES
        cells = [
            name,
            size_of(clip),
            size_of(clip * BANK),
            size_of(ENTRY_BYTES * BANK),
            size_of(memory_tokens(cost, 1) * cost.width * BYTES * BANK),
            size_of(2 * cost.width * BYTES * BANK),
            f"{BANK / math.ceil(2**28 / clip):,.0f}",
        ]
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join([*lines, ""])


def page_with(text: str) -> str:
    """The page with these tables in place of its own."""
    page = PAGE.read_text(encoding="utf-8")
    start, end = page.index(BEGIN) + len(BEGIN), page.index(END)
    return page[:start] + "\n" + text + "\n" + page[end:]


if __name__ == "__main__":
    PAGE.write_text(page_with(tables()), encoding="utf-8")

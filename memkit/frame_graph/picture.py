"""A picture of a frame graph: both streams over time, and beside them the visibility matrix."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from memkit.errors import MemkitError
from memkit.frame_graph.graph import FrameGraph
from memkit.frame_graph.node import Node, Role

COLOURS: dict[Role, str] = {
    "seed": "#4c9f70",
    "anchor": "#e0a526",
    "degraded": "#8d8d97",
    "recovery": "#3f7fc4",
    "plain": "#b9cfe4",
}
_INK, _GREY = "#26303b", "#5f6b78"


def draw_graph(graph: FrameGraph, path: Path | str, title: str = "") -> Path:
    """Write a PNG of ``graph`` to ``path``.

    Left, the two streams over positions (latent frames): colour shows the role; hatched and pale chunks are dropped
    from memory; σ is the noise level of memory; "of" names the clip's frames that a moved chunk shows; "cond." counts
    conditioning frames; a bar below the noisy stream marks the frames that carry loss. Right, which chunks see which.

    Raises `MemkitError` where matplotlib is missing.
    """
    try:
        from matplotlib.figure import Figure
        from matplotlib.patches import Patch
    except ImportError as error:
        raise MemkitError("Pictures of frame graphs need matplotlib: pip install 'memkit[plots]'.") from error
    figure = Figure(figsize=(14, 5.2), dpi=110, layout="constrained", facecolor="white")
    streams, matrix = figure.subplots(1, 2, width_ratios=(1.7, 1))
    _draw_streams(streams, graph)
    _draw_matrix(matrix, graph)
    used: list[Role] = [role for role in COLOURS if any(node.role == role for node in graph.nodes)]
    keys: list[Any] = [Patch(facecolor=COLOURS[role], edgecolor=_INK, label=role) for role in used]
    if any(node.dropped for node in graph.nodes):
        keys.append(Patch(facecolor="white", edgecolor=_GREY, hatch="///", linestyle="--", label="dropped"))
    keys.append(Patch(facecolor="#c33c3c", edgecolor="none", label="loss"))
    streams.legend(handles=keys, loc="upper center", bbox_to_anchor=(0.5, -0.14), ncol=len(keys), frameon=False)
    if title:
        figure.suptitle(title, color=_INK)
    path = Path(path)
    figure.savefig(path, format="png")
    return path


def _draw_streams(axes: Any, graph: FrameGraph) -> None:
    carries = graph.given().logical_not().tolist()
    start = 0
    for i, node in enumerate(graph.nodes):
        memory = [f"σ {node.sigma:.2f}"] if node.sigma > 0 else []
        if node.source not in (None, node.time):
            memory.append(f"of {node.source}–{node.source + node.frames - 1}")
        given = f"{node.conditioning_frames} cond." if node.conditioning_frames else ""
        _draw_chunk(axes, node, 1.6, f"c{i}", node.dropped, "\n".join(memory))
        _draw_chunk(axes, node, 0.3, f"x{i}", False, given)
        for k in range(node.frames):
            position = node.time + k
            if carries[start + k]:
                axes.add_patch(_box(position + 0.06, 0.1, 0.88, 0.1, facecolor="#c33c3c", edgecolor="none"))
            if k:
                axes.plot([position] * 2, [0.3, 1.1], color=_INK, linewidth=0.4, alpha=0.5)
                axes.plot([position] * 2, [1.6, 2.4], color=_INK, linewidth=0.4, alpha=0.5)
        start += node.frames
    first, last = graph.nodes[0].time, graph.nodes[-1].stop
    axes.set(xlim=(first - 0.5, last + 0.5), ylim=(-0.05, 2.75), xlabel="position (latent frames)")
    axes.set_yticks([2.0, 0.7], ["clean\n(memory)", "noisy\n(denoised)"])
    step = max(1, -(-(last - first) // 24))
    ticks = range(first, last, step)
    axes.set_xticks([tick + 0.5 for tick in ticks], [str(tick) for tick in ticks])
    axes.tick_params(length=0, colors=_INK)
    for side in ("top", "right", "left"):
        axes.spines[side].set_visible(False)


def _draw_chunk(axes: Any, node: Node, low: float, name: str, dropped: bool, note: str) -> None:
    style = {"hatch": "///", "linestyle": "--", "edgecolor": _GREY, "alpha": 0.45} if dropped else {"edgecolor": _INK}
    axes.add_patch(_box(node.time + 0.04, low, node.frames - 0.08, 0.8, facecolor=COLOURS[node.role], **style))
    middle = node.time + node.frames / 2
    axes.text(middle, low + 0.4, name, ha="center", va="center", color=_INK, zorder=3)
    axes.text(middle, low + 0.84, note, ha="center", va="bottom", color=_GREY, fontsize=8)


def _draw_matrix(axes: Any, graph: FrameGraph) -> None:
    names, n = list(graph.groups()), len(graph.nodes)
    axes.imshow(graph.visible().float().numpy(), cmap="Blues", vmin=0, vmax=1.6, interpolation="nearest")
    axes.set_xticks(range(2 * n), names, rotation=90 if n > 8 else 0)
    axes.set_yticks(range(2 * n), names)
    dropped = [i for i, node in enumerate(graph.nodes) if node.dropped]
    for i, label in enumerate(axes.get_xticklabels()):
        label.set_color("#b0b0b0" if i in dropped else _INK)
    axes.set_xticks([i - 0.5 for i in range(2 * n + 1)], minor=True)
    axes.set_yticks([i - 0.5 for i in range(2 * n + 1)], minor=True)
    axes.grid(which="minor", color="white", linewidth=1)
    axes.tick_params(which="both", length=0)
    for draw in (axes.axhline, axes.axvline):
        draw(n - 0.5, color=_INK, linewidth=1)
    axes.set(xlabel="key", ylabel="query", title="visibility")


def _box(x: float, y: float, width: float, height: float, **style: Any) -> Any:
    from matplotlib.patches import Rectangle

    return Rectangle((x, y), width, height, **style)

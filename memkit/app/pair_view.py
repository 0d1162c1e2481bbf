"""What the page shows of a `Pair`, as HTML."""

from __future__ import annotations

from html import escape

from torch import Tensor

from memkit.app.clips import Gravity, Pair
from memkit.app.html import figure, group, image, percent, player
from memkit.report.html import HitClip


def hits_html(query: str, hits: list[HitClip], fps: float) -> str:
    """The retrieved clips, best first."""
    rows = "".join(
        f"<li>{player(hit.frames, f'retrieved clip {hit.id}', fps)}<div>{escape(hit.caption)}"
        f"<small>{escape(hit.id)} · score {hit.score:.3f}</small></div></li>"
        for hit in hits
    )
    return (
        f"<h3>Clips found for “{escape(query)}”</h3>"
        f'<div data-play="loop" role="group" aria-label="retrieved clips"><ol class="hits">{rows}</ol></div>'
    )


def pair_html(pair: Pair, fps: float) -> str:
    """The two videos, and what differs."""
    videos = [
        figure(pair.without, "Without memory", fps),
        figure(pair.with_memory, "With memory", fps),
    ]
    said = f"The two videos differ by {percent(pair.changed, 1)} of the range of a pixel on average."
    return (
        f"<h3>The same noise, without memory and with it</h3>{group(videos, 'the pair')}"
        f'<p class="said">{said} {_gravity(pair.gravity)}</p>'
        '<p class="said">One pair proves nothing: <code>memkit demo</code> measures 16 seeds, with clips of a wrong '
        "planet as a control.</p>"
    )


def _gravity(gravity: Gravity | None) -> str:
    if gravity is None:
        return "Gravity is measured for the examples only, whose first frame and body are known."

    def value(fitted: float | None) -> str:
        return "not measurable" if fitted is None else f"{fitted:.1f} m/s²"

    return (
        f"Gravity fitted to the fall: {value(gravity.without)} without memory, <b>{value(gravity.with_memory)} with "
        f"memory</b>; the planet has {gravity.truth:g} m/s², which the model was never told."
    )


def attention_html(pair: Pair) -> str:
    """The attention map: where in each generated frame memory is used, and which moment of which clip."""
    attention = pair.attention
    frames = attention.shape[0]
    stride = (len(pair.with_memory) - 1) // max(frames - 1, 1)
    of_frame = attention.sum((3, 4))
    least, most = float(of_frame.min()), float(of_frame.max()) + 1e-9
    shade = (of_frame - least) / (most - least)
    heads = "".join(
        f'<th scope="col">{_overlay(pair.with_memory[i * stride], shade[i], i * stride)}</th>' for i in range(frames)
    )
    by_clip = attention.mean((1, 2)).sum(2)  # [frames, clips]
    top = max(float(by_clip.max()), 1e-9)
    rows = "".join(
        f'<tr><th scope="row">{_moments(hit, attention[..., i, :].mean((0, 1, 2)))}</th>'
        + "".join(_cell(float(by_clip[frame, i]), top) for frame in range(frames))
        + "</tr>"
        for i, hit in enumerate(pair.hits)
    )
    what = "the attention's output that comes from memory" if pair.even is None else "attention that falls on memory"
    even = "" if pair.even is None else f" If all tokens got the same, each clip would have {percent(pair.even, 1)}."
    return (
        '<h3>What the generated frames look at</h3><div class="scroll" role="region" tabindex="0" '
        f'aria-label="attention map"><table class="map"><thead><tr><td></td>{heads}</tr></thead><tbody>{rows}</tbody>'
        f'</table></div><p class="said">Columns are frames of the video with memory, rows the clips. Cells: share of '
        f"{what}, mean over layers, heads and steps ({percent(float(of_frame.mean()), 1)} for all clips).{even} Blue "
        f"in the frames: where in the picture, from {percent(least, 1)} (clear) to {percent(most, 1)} (blue). Bars: "
        "which moment of a clip; equal bars mean that all moments count the same.</p>"
    )


def _overlay(frame: Tensor, strength: Tensor, number: int) -> str:
    cells = "".join(f'<i style="--a:{float(value):.3f}"></i>' for value in strength.flatten())
    grid = f'<span class="heat" style="--n:{strength.shape[1]}">{cells}</span>'
    name = f"frame {number + 1}"
    return f'<span class="seen">{image(frame, f"generated {name}")}{grid}</span><small>{name}</small>'


def _moments(hit: HitClip, shares: Tensor) -> str:
    stride = (len(hit.frames) - 1) // max(len(shares) - 1, 1)
    most = max(float(shares.max()), 1e-9)
    parts = "".join(
        f'<span title="{percent(float(share), 2)}"><b style="height:{20 * float(share) / most:.1f}px"></b>'
        f"{image(hit.frames[i * stride], f'{hit.id}, frame {i * stride + 1}')}</span>"
        for i, share in enumerate(shares)
    )
    return f'<small>{escape(hit.id)}</small><span class="moments">{parts}</span>'


def _cell(share: float, most: float) -> str:
    return f'<td style="--a:{share / most:.3f}"><span>{percent(share, 1)}</span></td>'

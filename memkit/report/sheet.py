"""Frames side by side: strips of one video, and sheets that compare several."""

from __future__ import annotations

from collections.abc import Sequence

from jaxtyping import UInt8
from PIL import Image, ImageDraw, ImageFont
from torch import Tensor

from memkit.errors import InputError

MARGIN, GAP, LABEL_WIDTH, HEADING = 16, 4, 160, 34  # pixels
_PAPER, _INK, _FAINT = (250, 250, 248), (28, 30, 33), (110, 115, 122)

Row = tuple[str, UInt8[Tensor, "_ _ _ 3"]]
"""A label and its video [T, H, W, 3]; the videos of a sheet may differ in size."""


def filmstrip(frames: UInt8[Tensor, "time height width 3"], columns: int, height: int, gap: int = 0) -> Image.Image:
    """``columns`` frames from the first to the last, evenly spaced, left to right; each ``height`` pixels high.

    The image is RGBA, transparent in the gaps. Enlarging repeats pixels, reducing averages them. A clip with fewer
    frames gives a shorter strip.
    """
    if not frames.numel() or columns < 1 or height < 1 or gap < 0:
        raise InputError(
            f"A strip of {columns} columns, {height} pixels high, {gap} apart, of {tuple(frames.shape)}: "
            "give frames, positive sizes and a gap of 0 or more."
        )
    width = cell_width(frames, height)
    chosen = evenly(len(frames), columns)
    strip = Image.new("RGBA", (len(chosen) * (width + gap) - gap, height))
    rule = Image.Resampling.NEAREST if height >= frames.shape[1] else Image.Resampling.BOX
    for column, index in enumerate(chosen):
        frame = Image.fromarray(frames[index].contiguous().cpu().numpy())
        strip.paste(frame.resize((width, height), rule), (column * (width + gap), 0))
    return strip


def contact_sheet(sections: Sequence[tuple[str, Sequence[Row]]], columns: int = 9, height: int = 128) -> Image.Image:
    """A sheet of strips: for each section its heading, then one row per video with its label at the left.

    Frames are ``height`` pixels high. Labels may have several lines; texts that are too long end in an ellipsis.
    """
    rows = [row for _, section in sections for row in section]
    if not rows:
        raise InputError("There is no video to show; give at least one row.")
    strips = [filmstrip(frames, columns, height, GAP) for _, frames in rows]
    width = 2 * MARGIN + LABEL_WIDTH + max(strip.width for strip in strips)
    sheet = Image.new("RGB", (width, sheet_height([len(section) for _, section in sections], height)), _PAPER)
    draw = ImageDraw.Draw(sheet)
    heading, label = ImageFont.load_default(17), ImageFont.load_default(14)
    y, remaining = MARGIN, iter(strips)
    for title, section in sections:
        draw.text((MARGIN, y + 4), _fitted(draw, title, heading, width - 2 * MARGIN), _INK, heading)
        y += HEADING
        for name, _ in section:
            text = "\n".join(_fitted(draw, line, label, LABEL_WIDTH - 8) for line in name.splitlines())
            draw.text((MARGIN, y + height // 2), text, _FAINT, label, anchor="lm")
            strip = next(remaining)
            sheet.paste(strip, (MARGIN + LABEL_WIDTH, y), strip)
            y += height + GAP
        y += MARGIN
    return sheet


def sheet_height(rows: Sequence[int], height: int) -> int:
    """Height in pixels of a sheet, from the number of rows in each section."""
    return MARGIN + sum(HEADING + count * (height + GAP) + MARGIN for count in rows)


def cell_width(frames: UInt8[Tensor, "time height width 3"], height: int) -> int:
    """Width of a frame shown ``height`` pixels high, at its own aspect ratio."""
    return max(1, round(frames.shape[2] * height / frames.shape[1]))


def evenly(length: int, count: int) -> list[int]:
    """At most ``count`` distinct, evenly spaced indices from 0 to ``length - 1``, both included if count > 1."""
    count = min(length, count)
    return [0] if count == 1 else [round(i * (length - 1) / (count - 1)) for i in range(count)]


def _fitted(
    draw: ImageDraw.ImageDraw, text: str, font: ImageFont.FreeTypeFont | ImageFont.ImageFont, width: int
) -> str:
    text = " ".join(text.split())
    if draw.textlength(text, font) <= width:
        return text
    while text and draw.textlength(f"{text}…", font) > width:
        text = text[:-1]
    return f"{text.rstrip()}…"

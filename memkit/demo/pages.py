"""What the demo writes when its videos are generated: figures, report and contact sheet."""

from __future__ import annotations

import platform
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import diffusers
import torch
import transformers

import memkit
from memkit.demo import plots
from memkit.demo.falls import Falls
from memkit.demo.figures import write_figures
from memkit.demo.stage import Stage
from memkit.demo.summary import falls_said, print_summary, rows
from memkit.display import counted
from memkit.files.atomic import atomic_write, write_text
from memkit.report.html import Comparison, render_report
from memkit.report.sheet import contact_sheet
from memkit.video.player import data_uri

TITLE = "A video model with a memory"
INTRO = (
    "Each prompt was generated from the same noise by the model alone, and with the memory of clips that were found by "
    "their captions."
)
CAVEAT = "One pair proves nothing: python -m recipes.dit_mem.evaluate measures many pairs, with controls."
FALLS_INTRO = (
    "All videos begin with the same first frame. The model was never trained on these planets, so only the clips show "
    "how fast things fall there."
)


def write_pages(
    out: Path,
    stage: Stage,
    comparisons: Sequence[Comparison],
    falls: Falls | None,
    gallery: Mapping[str, Any] | None,
    settings: Mapping[str, str],
    seconds: float,
) -> None:
    """Write all files, and print what they say. The report shows ``settings`` and those of the stage."""
    fps, sections, said = stage.backbone.video_format.fps, [], ""
    if falls is not None:
        figures = write_figures(out / "figures.json", falls.rows(), gallery)
        said = falls_said(figures)
        sections.append(_falls_section(figures, said, fps))
        if gallery is not None:
            sections.append(_gallery_section(figures, out / "gallery" / "sheet.png"))
    intro = INTRO if falls is None else f"{INTRO} {FALLS_INTRO}"
    settings = {**settings, **_settings(stage, seconds)}
    page = render_report(TITLE, intro, CAVEAT if falls is None else said, comparisons, settings, fps, sections)
    report, sheet = out / "report.html", out / "contact_sheet.png"
    write_text(report, page)
    with atomic_write(sheet) as partial:
        contact_sheet([(c.prompt, rows(c)) for c in comparisons]).save(partial, "PNG")
    print_summary(comparisons)
    if said:
        print(said)
    print(f"{seconds:.0f} s. Report: {report}  Contact sheet: {sheet}")


def _falls_section(figures: Mapping[str, Any], said: str, fps: float) -> str:
    """The card with the plots of ``figures.json``, as HTML."""
    falls = figures["falls"]
    seeds = len({fall["seed"] for fall in falls})
    return (
        f"<style>{plots.STYLE}</style><h2>How fast does it fall?</h2>"
        f'<p class="note">The same ball on {len(falls) // seeds} planets, {seeds} seeds each: medians of its height, '
        f"and the middle half of the seeds.</p>{plots.key()}{plots.height_plots(falls, fps)}"
        f'<p class="note">Gravity fitted to every fall; bars are medians.</p>{plots.gravity_plot(falls)}<p>{said}</p>'
    )


def _gallery_section(figures: Mapping[str, Any], sheet: Path) -> str:
    """The card with the gallery: accuracy of the panels that come back, and the videos of the first seeds."""
    panels, chance = figures["panel_accuracy"], figures["gallery"]["chance"]
    image = data_uri("image/png", sheet.read_bytes())
    return (
        "<h2>Does it look the same when the camera comes back?</h2>"
        f'<p class="note">Share of the panels with the right colour on return, over {len(figures["gallery"]["seeds"])} '
        f"seeds: {_percent(panels['with'])} with the past in memory, {_percent(panels['without'])} without; "
        f"{_percent(chance)} by chance.</p>"
        f'<img src="{image}" alt="panels that come back, with memory and without">'
    )


def _percent(share: float | None) -> str:
    return "not defined" if share is None else f"{100 * share:.0f} %"


def _settings(stage: Stage, seconds: float) -> dict[str, str]:
    form, guidance = stage.backbone.video_format, stage.memory_guidance or "off"
    return {
        "Video": f"{form.num_frames} frames of {form.height}×{form.width} at {form.fps:g} fps",
        "Bank": f"{counted(len(stage.bank), 'clip')}, {stage.k} retrieved per prompt by the cosine similarity of text "
        "embeddings",
        "Sampling": f"{stage.steps} steps, guidance scale {stage.guidance_scale:g}, memory guidance {guidance}",
        "Wall time": f"{seconds:.0f} s on {torch.get_num_threads()} threads, with the bank",
        "Versions": f"memkit {memkit.__version__}, torch {torch.__version__}, diffusers {diffusers.__version__}, "
        f"transformers {transformers.__version__}, Python {platform.python_version()}",
    }

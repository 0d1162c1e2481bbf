"""The tab of clips: a prompt, what it retrieves, and the pair."""

from __future__ import annotations

from typing import Any

from memkit.app.clips import EXAMPLES, MOST_CLIPS, Clips
from memkit.app.pair_view import attention_html, hits_html, pair_html
from memkit.app.session import Session, answer, reporter

INTRO = (
    "The model has never heard of these planets, so it cannot know how fast things fall there. **Memory** is a bank of "
    "24 short clips: those that fit the prompt are found by their captions, and the model attends to them while it "
    "generates."
)


def build_clips_tab(gr: Any, clips: Clips, session: Any) -> None:
    """Add the tab's controls to the page."""
    fps = clips.backbone.video_format.fps
    gr.Markdown(INTRO)
    with gr.Row():
        prompt = gr.Textbox(EXAMPLES[0], label="Prompt", lines=2, scale=3, elem_id="prompt", max_length=500)
        with gr.Column(scale=1, min_width=140):
            make = gr.Button("Generate the pair", variant="primary", elem_id="generate")
            stop = gr.Button("Stop", interactive=False, elem_id="stop-pair")
    gr.Examples([[text] for text in EXAMPLES], prompt, label="Examples: the same ball on planets of different gravity")
    with gr.Accordion("Settings", open=False), gr.Row():
        k = gr.Slider(1, MOST_CLIPS, 3, step=1, label="Clips to retrieve (the encoder was trained with 3)")
        seed = gr.Number(0, label="Seed of the noise", precision=0, minimum=0)
        start = gr.Checkbox(True, label="Begin with the red ball, two metres up", elem_id="from-start")
    status = gr.HTML("", elem_id="pair-status")
    pair = gr.HTML("", elem_id="pair", elem_classes="memkit")
    hits = gr.HTML("", elem_id="hits", elem_classes="memkit")
    attention = gr.HTML("", elem_id="attention", elem_classes="memkit")

    def begin(mine: Session) -> tuple[Any, Any]:
        mine.switch.clear()
        return gr.Button(interactive=False), gr.Button(interactive=True)

    def work(mine: Session, text: str, count: int, number: int, first: bool, progress=gr.Progress()) -> Any:  # noqa: B008 (Gradio's way)
        def generated() -> tuple[str, ...]:
            report = reporter(progress, "Generating without memory, then with it")
            made = clips.generate_pair(text, int(count), int(number or 0), first, mine.switch, report)
            return "", pair_html(made, fps), hits_html(made.query, made.hits, fps), attention_html(made)

        return answer(gr, 4, generated)

    def end() -> tuple[Any, Any]:
        return gr.Button(interactive=True), gr.Button(interactive=False)

    begun = gr.on([make.click, prompt.submit], begin, session, [make, stop], queue=False, show_progress="hidden")
    done = begun.then(
        work, [session, prompt, k, seed, start], [status, pair, hits, attention], concurrency_id="model",
        concurrency_limit=1, show_progress_on=status,
    )  # fmt: skip
    for event in (done.success, done.failure):
        event(end, None, [make, stop], queue=False, show_progress="hidden")
    stop.click(lambda mine: mine.switch.ask(), session, None, queue=False, show_progress="hidden")

"""The tab of the walk: buttons and keys, the newest step beside the truth, and the whole walk."""

from __future__ import annotations

from functools import partial
from typing import Any

from memkit.app.session import Session, answer, reporter
from memkit.app.walk import MOST_MOVES, MOST_SEED, Move, Room, Seen, Walk
from memkit.app.walk_memories import TITLES, MemoryName
from memkit.app.walk_view import now_html, whole_html

INTRO = (
    "You stand in a round room with eight coloured panels, which this model was not trained on. Each press of a button "
    "(or of the key that it names) generates the next two seconds twice, by the same weights from the same noise: "
    "**with a memory** of the way so far, and **without**. Panels that were never in view have to be invented; panels "
    "that come back should look as they did."
)
BUTTONS: tuple[tuple[Move, str], ...] = (
    ("left", "← Turn left"),
    ("half left", "A Half left"),
    ("forward", "↑ Step"),
    ("wait", "S Stand"),
    ("half right", "D Half right"),
    ("right", "→ Turn right"),
)
STARTS: dict[str, Seen] = {
    "The first view, for four seconds": "first view",
    "A turn once around the room": "once around",
}


def build_walk_tab(gr: Any, room: Room, session: Any, page: Any) -> None:
    """Add the tab's controls to the page."""
    gr.Markdown(INTRO)
    with gr.Row(elem_id="moves"):
        buttons: dict[Move, Any] = {
            move: gr.Button(text, elem_id=f"move-{move.replace(' ', '-')}", min_width=92) for move, text in BUTTONS
        }
    status = gr.HTML("", elem_id="walk-status")
    now = gr.HTML("", elem_id="now", elem_classes="memkit")
    with gr.Row():
        stop = gr.Button("Stop", interactive=False, elem_id="stop-walk", min_width=92)
        again = gr.Button("Start again", elem_id="start-again", min_width=92)
    memory = gr.Radio(
        [(title, name) for name, title in TITLES.items()], value="past", label="Memory, from the next step on",
        elem_id="memory-choice",
    )  # fmt: skip
    with gr.Accordion("Settings, for a new walk", open=False), gr.Row():
        gallery = gr.Number(0, label="Room", precision=0, minimum=0, maximum=99_999, elem_id="gallery")
        seed = gr.Number(0, label="Seed of the noise", precision=0, minimum=0, maximum=MOST_SEED)
        seen = gr.Radio(list(STARTS), value=next(iter(STARTS)), label="Given before the walk", elem_id="seen-choice")
        steps = gr.Slider(2, 12, 3, step=1, label="Sampling steps")
    whole = gr.HTML("", elem_id="whole", elem_classes="memkit")
    controls = [*buttons.values(), again, stop]

    def locked(busy: bool) -> list[Any]:
        return [*(gr.Button(interactive=not busy) for _ in controls[:-1]), gr.Button(interactive=busy)]

    def begin(mine: Session) -> list[Any]:
        mine.switch.clear()
        return locked(True)

    def start(mine: Session, room_number: int, number: int, given: str, count: int) -> Any:
        def started() -> tuple[str, ...]:
            mine.walk = Walk(room, int(room_number or 0), STARTS[given], int(number or 0), int(count))
            mine.chunks = []
            return "", now_html(mine.walk, None), whole_html(mine.walk, [])

        return answer(gr, 3, started)

    def step(move: Move, mine: Session, name: MemoryName, progress=gr.Progress()) -> Any:  # noqa: B008
        def stepped() -> tuple[str, ...]:
            walk = mine.walk = mine.walk or Walk(room)
            report = reporter(progress, f"Generating two seconds ({MOST_MOVES - len(walk.moves)} steps left)")
            mine.chunks.append(walk.step(move, name, mine.switch, report))
            return "", now_html(walk, mine.chunks[-1]), whole_html(walk, mine.chunks)

        return answer(gr, 3, stepped)

    model = {"concurrency_id": "model", "concurrency_limit": 1}
    quick = {"queue": False, "show_progress": "hidden"}
    shown, settings = [status, now, whole], [session, gallery, seed, seen, steps]

    def run(button: Any, work: Any, inputs: list[Any]) -> None:
        """Work that a button begins: meanwhile only Stop can be pressed."""
        done = button.click(begin, session, controls, **quick).then(
            work, inputs, shown, show_progress_on=status, **model
        )
        for event in (done.success, done.failure):
            event(lambda: locked(False), None, controls, **quick)

    for move, button in buttons.items():
        run(button, partial(step, move), [session, memory])
    run(again, start, settings)
    page.load(start, settings, shown, show_progress_on=status, **model)
    stop.click(lambda mine: mine.switch.ask(), session, None, **quick)

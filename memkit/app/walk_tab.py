"""The tab of the walk: buttons and keys, the newest step beside the truth, and the whole walk."""

from __future__ import annotations

from functools import partial
from typing import Any

from memkit.app.session import Session, messages, reporter
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
        buttons = {
            move: gr.Button(text, elem_id=f"move-{move.replace(' ', '-')}", min_width=92) for move, text in BUTTONS
        }
    memory = gr.Radio(
        [(title, name) for name, title in TITLES.items()], value="past", label="Memory, from the next step on",
        elem_id="memory-choice",
    )  # fmt: skip
    status = gr.HTML("", elem_id="walk-status")
    now = gr.HTML("", elem_id="now", elem_classes="memkit")
    with gr.Row():
        stop = gr.Button("Stop", interactive=False, elem_id="stop-walk", min_width=92)
        again = gr.Button("Start again", elem_id="start-again", min_width=92)
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

    def start(mine: Session, room_number: int, number: int, given: str, count: int) -> tuple[str, ...]:
        with messages(gr):
            walk = Walk(room, int(room_number or 0), STARTS[given], int(number or 0), int(count))
        mine.walk, mine.chunks = walk, []
        return "", now_html(walk, None), whole_html(walk, [])

    def step(move: Move, mine: Session, name: MemoryName, progress=gr.Progress()) -> tuple[str, ...]:  # noqa: B008
        with messages(gr):
            mine.walk = mine.walk or Walk(room)
            left = MOST_MOVES - len(mine.walk.moves)
            report = reporter(progress, f"Generating two seconds ({left - 1} steps left)")
            mine.chunks.append(mine.walk.step(move, name, mine.switch, report))
            return "", now_html(mine.walk, mine.chunks[-1]), whole_html(mine.walk, mine.chunks)

    model = {"concurrency_id": "model", "concurrency_limit": 1}
    quick = {"queue": False, "show_progress": "hidden"}
    shown, settings = [status, now, whole], [session, gallery, seed, seen, steps]
    for move, button in buttons.items():
        begun = button.click(begin, session, controls, **quick)
        done = begun.then(partial(step, move), [session, memory], shown, show_progress_on=status, **model)
        done.then(lambda: locked(False), None, controls, **quick)
    begun = again.click(begin, session, controls, **quick)
    begun.then(start, settings, shown, show_progress_on=status, **model).then(
        lambda: locked(False), None, controls, **quick
    )
    page.load(start, settings, shown, show_progress_on=status, **model)
    stop.click(lambda mine: mine.switch.ask(), session, None, **quick)

"""The page and the report in headless Chromium, by real clicks and keys: `make test-app` installs what this needs."""

from __future__ import annotations

import time

import pytest
import torch

from memkit.report import Comparison, HitClip, render_report
from tests.helpers.chromium import Watched, chromium

pytest.importorskip("playwright", reason="`make test-app` installs Playwright and runs this test")
pytest.importorskip("gradio", reason="`make test-app` installs Gradio and runs this test")

STEPS = "#whole .steps li"


@pytest.fixture(scope="module")
def browser():
    with chromium() as one:
        yield one


@pytest.fixture(scope="module")
def url(tmp_path_factory):
    """The address of a page that is served by this process, with few sampling steps."""
    from memkit.app.clips import Clips
    from memkit.app.page import build_page, launch_options
    from memkit.app.walk import Room

    clips = Clips.load(tmp_path_factory.mktemp("app") / "bank", None, None, steps=2, guidance_scale=1.0)
    page = build_page(clips, Room.load())
    _, address, _ = page.launch(server_name="127.0.0.1", prevent_thread_lock=True, **launch_options())
    yield address
    page.close()


@pytest.fixture
def visit(browser, url):
    """Opens the page as a new visitor, who sees the first view; in the end nothing was wrong on it."""
    opened = []

    def visitor(**options) -> Watched:
        one = Watched(browser, **options)
        opened.append(one)
        one.page.goto(url)
        one.page.wait_for_selector("#now figure img")
        one.page.wait_for_selector("#move-left:enabled")
        return one

    yield visitor
    for one in opened:
        assert one.wrong == []
        one.context.close()


def steps(page, count: int) -> None:
    """Wait until the walk has so many steps, and may go on."""
    page.wait_for_function(f"document.querySelectorAll('{STEPS}').length === {count}")
    page.wait_for_selector("#move-left:enabled")


def test_keys_and_buttons_walk_and_what_comes_back_is_scored(visit):
    page = visit().page
    page.keyboard.press("ArrowLeft")
    page.wait_for_selector("#walk-status .progress-text, #walk-status .progress-level", state="attached")
    steps(page, 1)
    assert page.locator("#now video").count() == 3
    page.click("#move-right")
    steps(page, 2)
    assert "turn left: nothing came back" in page.locator("#whole").inner_text()
    assert "% with memory" in page.locator("#now .said").inner_text()
    page.locator("#memory-choice label", has_text="None").click()
    page.wait_for_timeout(300)
    page.keyboard.press("d")  # the choice was made with the pointer, and keys walk again
    steps(page, 3)
    page.click("#start-again")
    page.wait_for_selector("#now figure img")
    steps(page, 0)


def test_keys_act_on_the_control_in_focus_first(visit):
    page = visit().page
    page.get_by_role("tab", name="Clips").click()
    page.locator("#prompt textarea").fill("a ball")
    page.keyboard.press("d")
    assert page.locator("#prompt textarea").input_value() == "a balld"
    page.get_by_role("tab", name="A room to walk").click()
    assert page.locator(STEPS).count() == 0


def test_a_prompt_gives_clips_a_pair_and_the_attention(visit):
    page = visit().page
    page.get_by_role("tab", name="Clips").click()
    page.get_by_text("on planet Sol", exact=False).first.click()
    page.click("#generate")
    page.wait_for_selector("#attention table")
    assert page.locator("#pair video").count() == 2 and page.locator("#hits li").count() == 3
    assert "planet Sol" in page.locator("#hits h3").inner_text()
    assert "m/s²" in page.locator("#pair").inner_text()
    assert page.locator("#attention tbody tr").count() == 3 and page.locator("#attention thead th").count() == 5


def test_errors_are_messages(visit):
    page = visit().page
    page.get_by_role("tab", name="Clips").click()
    page.locator("#prompt textarea").fill(" ")
    page.click("#generate")
    page.wait_for_selector("text=The prompt is empty")
    page.wait_for_selector("#generate:enabled")


def test_stop_ends_a_step_and_the_walk_goes_on_from_where_it_was(visit):
    page = visit().page
    page.get_by_text("Settings, for a new walk").click()
    page.locator("input[type=number][aria-label*='Sampling']").fill("12")
    page.keyboard.press("Tab")
    page.click("#start-again")
    page.wait_for_selector("#stop-walk:enabled")
    steps(page, 0)
    page.click("#move-left")
    page.click("#stop-walk:enabled")
    page.wait_for_selector("text=Stopped.")
    steps(page, 0)
    page.click("#move-left")
    steps(page, 1)


def test_two_visitors_have_walks_of_their_own(visit):
    first, second = visit().page, visit().page
    first.keyboard.press("ArrowLeft")
    second.keyboard.press("ArrowRight")
    steps(first, 1)
    steps(second, 1)
    second.keyboard.press("ArrowRight")
    steps(second, 2)
    assert "turn left" in first.locator("#whole").inner_text()
    assert "turn left" not in second.locator("#whole").inner_text()
    assert first.locator(STEPS).count() == 1


def test_it_is_usable_on_a_phone(visit):
    phone = visit(width=390, height=844, has_touch=True)
    phone.page.tap("#move-left")
    steps(phone.page, 1)
    assert phone.fits()
    phone.page.get_by_role("tab", name="Clips").tap()
    phone.page.tap("#generate")
    phone.page.wait_for_selector("#attention table")
    assert phone.fits()


def moving(seed: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return (
        torch.randint(0, 256, (17, 8, 8, 3), generator=generator).repeat_interleave(4, 1).repeat_interleave(4, 2).byte()
    )


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    """The address of a report of two comparisons."""
    hits = [HitClip(f"clip-{i}.mp4", 0.5, "a caption that says what is to be seen", moving(i)) for i in range(3)]
    prompts = ("a ball falls on planet Mira", "a ball falls on planet Sol")
    pairs = [Comparison(p, "planet", moving(7), moving(8), hits, torch.rand(8, 6), 0.2, "a note") for p in prompts]
    file = tmp_path_factory.mktemp("report") / "report.html"
    settings = {"Model": "tiny", "Versions": "memkit 0, torch 0, diffusers 0, transformers 0, Python 0"}
    file.write_text(render_report("A title", "An introduction.", "A caveat.", pairs, settings, 8.0), encoding="utf-8")
    return file.as_uri()


TIMES = "[...document.querySelectorAll('[data-play]')[{}].querySelectorAll('video')].map((video) => video.currentTime)"


def test_the_videos_of_a_comparison_play_in_step(browser, report):
    one = Watched(browser)
    one.page.goto(report)
    one.page.wait_for_selector(".player button")
    assert one.page.locator(".player").count() == 2
    seen, begun = [], time.monotonic()
    while time.monotonic() - begun < 5:  # more than twice the length of a video
        seen.append(times := one.page.evaluate(TIMES.format(0)))
        assert len(times) == 5 and max(times) - min(times) < 0.2  # at 8 frames per second
    starts = [times[0] for times in seen]
    assert max(starts) > 1.5 and any(b < a for a, b in zip(starts, starts[1:], strict=False))  # it begins again
    one.page.keyboard.press("Tab")
    assert one.page.evaluate("document.activeElement.textContent") == "Pause"
    assert one.page.evaluate("getComputedStyle(document.activeElement).outlineStyle") == "solid"
    one.page.keyboard.press("Space")
    stopped = one.page.evaluate(TIMES.format(0))
    one.page.wait_for_timeout(300)
    assert one.page.evaluate(TIMES.format(0)) == stopped and max(stopped) - min(stopped) < 1e-6
    one.page.keyboard.press("Tab")
    one.page.keyboard.press("Home")
    one.page.keyboard.press("ArrowRight")
    assert set(one.page.evaluate(TIMES.format(0))) == {0.0625}
    assert one.page.evaluate(TIMES.format(1)) != one.page.evaluate(TIMES.format(0))  # the other goes on
    assert one.wrong == []
    one.context.close()


@pytest.mark.parametrize("scheme", ["light", "dark"])
def test_the_report_is_readable_on_a_phone_and_still_if_asked_for(browser, report, scheme):
    one = Watched(browser, 390, 844, reduced_motion="reduce", color_scheme=scheme)
    one.page.goto(report)
    one.page.wait_for_selector(".player button")
    assert one.fits() and one.page.locator(".player button").first.inner_text() == "Play"
    times = one.page.evaluate(TIMES.format(0))
    one.page.wait_for_timeout(300)
    assert one.page.evaluate(TIMES.format(0)) == times and max(times) < 0.02
    one.page.locator(".player button").first.press("Enter")
    one.page.wait_for_timeout(600)
    assert min(one.page.evaluate(TIMES.format(0))) > 0
    levels = one.page.evaluate("[...document.querySelectorAll('h1, h2, h3')].map((heading) => +heading.tagName[1])")
    assert levels[0] == 1 and all(b <= a + 1 for a, b in zip(levels, levels[1:], strict=False))
    assert one.page.evaluate("[...document.images].every((image) => image.alt)")
    dark = one.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(19, 21, 24)"
    assert dark == (scheme == "dark") and one.wrong == []
    one.context.close()

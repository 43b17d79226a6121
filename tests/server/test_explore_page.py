"""The laboratory in a real browser: a reader's way through its panels, by pointer and by keys, wide and narrow."""

from __future__ import annotations

import base64
import io
import re
import time

import numpy as np
import pytest
from PIL import Image
from serving import WITHOUT, until, watched_page

import tinyldm
from tinyldm.server.laboratory.sources import ROOT
from tinyldm.server.laboratory.walks import Watched

pytest.importorskip("uvicorn", reason=WITHOUT)
WIDE, NARROW = {"width": 1200, "height": 900}, {"width": 390, "height": 800}
PANELS = ["prompt", "walk", "decoder", "samplers", "words", "schedule"]
QUICK = "steps=3&guidance_scale=3&prompt=a+bc&compare=1"


@pytest.fixture
def opened(browser, explore):
    """Open the page of a laboratory; it must ask for nothing elsewhere, and no script of it may fail."""
    contexts, complaints = [], []

    def open_page(where="", viewport=WIDE, running=None, scheme="light"):
        running = running or explore()
        shown = r"status of (404|422)|CONNECTION_REFUSED"
        page = watched_page(browser, running.url, complaints, shown, viewport=viewport, color_scheme=scheme)
        contexts.append(page.context)
        page.goto(f"{running.url}/explore?{where or QUICK + '#prompt'}")
        settled(page)
        return page, running

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def settled(page):
    """Wait until nothing is computed any more."""
    page.locator("#f-sampler option").nth(1).wait_for(state="attached")
    page.wait_for_timeout(120)  # what is typed is sent a moment later
    page.locator("#panels[aria-busy=false]").wait_for()


def go(page, title):
    page.get_by_role("navigation").get_by_role("link", name=title).click()
    page.wait_for_timeout(20)
    settled(page)


def pixels(locator):
    link = locator.get_attribute("src")
    return np.asarray(Image.open(io.BytesIO(base64.b64decode(link.partition(",")[2]))).convert("RGB"))


def slide(page, locator, value):
    locator.evaluate("(e, v) => { e.value = v; e.dispatchEvent(new Event('input', {bubbles: true})); }", str(value))
    settled(page)


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_a_readers_way_through_all_panels(opened, model, viewport):
    page, running = opened(viewport=viewport)
    assert page.locator("#model").text_content() == "tiny"
    settings = {"steps": 3, "guidance_scale": 3.0}

    # The prompt: its tokens, the picture at this guidance and at another, the predictions.
    assert len(page.locator("#prompt-tokens li").all()) >= 2
    wanted = [model.text_to_image("a bc", **{**settings, "guidance_scale": scale})[0] for scale in (3.0, 1.0)]
    for image, one in zip(page.locator("#prompt-scales img").all(), wanted, strict=True):
        np.testing.assert_array_equal(pixels(image), np.asarray(one))
    assert page.locator("#prompt-predictions img").count() == 4
    slide(page, page.get_by_label("Guidance, slider"), 5)
    assert page.get_by_label("Guidance", exact=True).input_value() == "5"
    wanted = model.text_to_image("a bc", steps=3, guidance_scale=5.0)[0]
    np.testing.assert_array_equal(pixels(page.locator("#prompt-scales img").first), np.asarray(wanted))

    # The walk: at its end there is the same picture; back to its beginning there is noise.
    go(page, "The walk")
    assert page.locator("#walk-step").text_content() == "after all 3 steps"
    np.testing.assert_array_equal(pixels(page.locator("#walk-latent_picture img")), np.asarray(wanted))
    slide(page, page.locator("#f-step-walk"), 1)
    assert page.locator("#walk-step").text_content().startswith("step 1 of 3, timestep 667")
    noise = tinyldm.random.torch_randn((1, 4, 8, 8), seed=0)
    np.testing.assert_array_equal(pixels(page.locator("#walk-latent_picture img")), np.asarray(model.decode(noise)[0]))
    page.get_by_role("button", name="A step forward").click()
    settled(page)
    assert page.locator("#walk-step").text_content().startswith("step 2 of 3")
    page.locator("#walk-strip img").last.click()
    settled(page)
    assert page.locator("#walk-step").text_content() == "after all 3 steps"
    assert page.locator("#walk-charts svg").count() == 2

    # The decoder's input.
    go(page, "The decoder's input")
    before, after = page.locator("#decoder-pair figure").all()
    np.testing.assert_array_equal(pixels(before.locator(".picture img")), np.asarray(wanted))
    slide(page, page.get_by_label("Scale, slider"), 0.5)
    page.get_by_role("button", name="Swap two").click()
    settled(page)
    assert page.get_by_label("Channels").input_value() == "1 0 2 3"
    [walk] = [w for w in running.laboratory.walks.kept.values() if w.request.guidance_scale == 5]
    changed = model.decode(0.5 * walk.latent[None, [1, 0, 2, 3]])[0]
    np.testing.assert_array_equal(pixels(after.locator(".picture img")), np.asarray(changed))
    assert "no statistics of latents" in after.text_content()
    page.get_by_role("button", name="Unchanged").click()
    settled(page)
    np.testing.assert_array_equal(pixels(after.locator(".picture img")), np.asarray(wanted))

    # Samplers.
    go(page, "Samplers")
    page.get_by_label("Numbers of steps").fill("1 2")
    page.get_by_label("Sampler 3").select_option("heun")
    settled(page)
    page.wait_for_timeout(500)
    settled(page)
    table = page.locator("#samplers-table")
    assert table.locator("th").all_text_contents() == ["1 steps", "2 steps", "ddim", "dpm++_2m", "heun"]
    assert table.locator("img").count() == 6
    wanted_here = model.text_to_image("a bc", steps=2, guidance_scale=5.0, sampler="heun")[0]
    np.testing.assert_array_equal(pixels(table.locator("img").last), np.asarray(wanted_here))
    assert "3 calls" in table.locator("td").last.text_content()

    # Words.
    go(page, "Where words look")
    tokens = page.locator("#words-tokens button").all_text_contents()
    assert tokens[0] == "start"
    assert tokens[-1] == "first end"
    page.locator("#words-tokens button").nth(2).click()
    settled(page)
    assert page.locator("#words-tokens button").nth(2).get_attribute("aria-pressed") == "true"
    assert f"“{tokens[2]}” takes" in page.locator("#words-says").text_content()
    np.testing.assert_array_equal(pixels(page.locator("#words-over img").first), np.asarray(wanted))
    assert page.locator("#words-strip img").count() == 3
    page.get_by_label("Layer").select_option(index=1)
    settled(page)

    # The schedule.
    go(page, "The schedule")
    assert page.locator("#schedule-charts svg").count() == 3
    assert page.locator("#schedule-charts svg").first.locator(".dot").count() == 3
    assert "ddim visits 3 timesteps: 667, 334, 1" in page.locator("#schedule-visits").text_content()
    page.get_by_label("Spacing").select_option("trailing")
    settled(page)
    assert "999" in page.locator("#schedule-visits").text_content()
    slide(page, page.get_by_label("Timestep", exact=True), 250)
    assert page.locator("#schedule-says").text_content().startswith("t = 999: ᾱ = 0.00466")
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


@pytest.mark.parametrize("panel", PANELS)
def test_each_panel_names_its_functions_and_shows_their_source(opened, exploring, panel):
    page, _ = opened(f"{QUICK}&sampler=euler#{panel}", running=exploring)
    summary = page.locator(f"#{panel} .sources summary")
    summary.click()
    names = page.locator(f"#{panel} .sources h4 code").all_text_contents()
    assert names
    for name in names:
        assert name.removeprefix("tinyldm.") in summary.text_content()
    for heading, text in zip(
        page.locator(f"#{panel} .sources h4 span").all_text_contents(),
        page.locator(f"#{panel} .sources pre").all_text_contents(),
        strict=True,
    ):
        file, _, line = heading.strip().partition(":")
        lines = (ROOT / file).read_text(encoding="utf-8").splitlines()
        assert text.splitlines()[0] == lines[int(line) - 1].strip()


def test_a_link_opens_a_panel_with_its_settings(opened, exploring):
    where = "prompt=a&steps=4&seed=9&guidance_scale=2&sampler=euler&step=2#words"
    page, running = opened(where, running=exploring)
    assert page.locator("#words").is_visible()
    assert page.locator(".panel:visible").count() == 1
    assert page.locator("#words-step").text_content().startswith("step 2 of 4")
    assert page.get_by_label("Seed").input_value() == "9"
    assert page.locator("nav a[aria-current]").text_content() == "Where words look"
    page.locator("#words-tokens button").first.click()
    settled(page)
    assert "word=0" in page.url
    assert page.url.endswith("#words")
    other, _ = opened(page.url.partition("?")[2], running=running)
    assert other.locator("#words-tokens button").first.get_attribute("aria-pressed") == "true"
    go(other, "The walk")
    assert "word=" not in other.url
    assert "seed=9" in other.url
    other.go_back()
    other.locator("#words").wait_for()


@pytest.mark.parametrize(
    ("panel", "label", "value", "spot", "sentence"),
    [
        ("walk", "Steps", "0", "f-steps", "steps must be from 1 to 200, not '0'"),
        ("walk", "Seed", "-5", "f-seed", "seed must be 0 or more, not '-5'"),
        ("walk", "Guidance", "-1", "f-guidance_scale", "guidance_scale must be a finite number, and not negative"),
        ("prompt", "Compare with guidance", "1 x", "f-compare", "compare must be a number, not 'x'"),
        ("decoder", "Channels", "0 1", "f-channels", "channels must be 4 numbers from 0 to 3, or -, not '0 1'"),
        ("decoder", "Noise", "-1", "f-noise", "noise is a deviation, 0 or more, not -1"),
        ("samplers", "Numbers of steps", "0", "f-counts", "counts: steps must be from 1 to 200"),
    ],
)
def test_bad_input_is_told_beside_the_field(opened, exploring, panel, label, value, spot, sentence):
    page, _ = opened(f"{QUICK}#{panel}", running=exploring)
    field = page.get_by_label(label, exact=True)
    before = field.input_value()
    field.fill(value)
    error = page.locator(f"#{spot}-error")
    error.filter(has_text=sentence).wait_for()
    assert field.get_attribute("aria-invalid") == "true"
    box, of_field = error.bounding_box(), field.bounding_box()
    assert 0 <= box["y"] - of_field["y"] < 90
    field.fill(before)
    page.keyboard.press("Enter")
    settled(page)
    assert page.locator("[aria-invalid]").count() == 0
    assert page.locator("#status").text_content().startswith("done")


def test_levels_of_a_sampler_that_has_none(opened, exploring):
    page, _ = opened("steps=3#schedule", running=exploring)
    page.get_by_label("Noise levels").select_option("karras")
    page.locator("#f-levels-error", has_text="levels: ddim goes by timesteps").wait_for()
    page.get_by_label("Sampler", exact=True).select_option("euler")
    settled(page)
    assert page.locator("#f-levels-error").text_content() == ""
    assert "spacing.karras_sigmas" in page.locator("#schedule .sources summary").text_content()


def test_the_keyboard_is_enough(opened):
    page, _ = opened(QUICK + "#walk")
    page.get_by_role("link", name="Prompt and guidance").focus()
    order = []
    for _ in range(22):
        order.append(page.evaluate("document.activeElement.id || document.activeElement.textContent.trim()"))
        page.keyboard.press("Tab")
    assert order[:6] == [a.text_content() for a in page.locator("nav a").all()]
    assert [name for name in order if name.startswith("f-")] == [
        *("f-prompt", "f-guidance_scale", "f-steps", "f-seed", "f-sampler", "f-negative_prompt", "f-step-walk"),
    ]
    slider = page.locator("#f-step-walk")
    slider.focus()
    for key, said in (("Home", "step 1 of 3"), ("ArrowRight", "step 2 of 3"), ("End", "after all 3 steps")):
        page.keyboard.press(key)
        page.locator("#walk-step", has_text=said).wait_for()
    page.get_by_label("Prompt", exact=True).focus()
    page.keyboard.press("Control+A")
    page.keyboard.type("bb")
    page.keyboard.press("Enter")
    settled(page)
    assert "prompt=bb" in page.url
    page.get_by_role("link", name="Where words look").focus()
    page.keyboard.press("Enter")
    settled(page)
    assert page.evaluate("document.activeElement.id") == "words-title"
    page.keyboard.press("Tab")
    page.keyboard.press("Tab")
    page.keyboard.press("Space")
    settled(page)
    assert page.evaluate("document.activeElement.getAttribute('aria-pressed')") == "true"
    page.locator("#words .sources summary").focus()
    page.keyboard.press("Enter")
    assert page.locator("#words .sources pre").first.is_visible()


@pytest.mark.parametrize("panel", PANELS)
def test_everything_has_a_name_and_fits_a_narrow_screen(opened, exploring, panel):
    page, _ = opened(f"{QUICK}#{panel}", NARROW, running=exploring)
    page.locator("#more summary").click()
    page.locator(f"#{panel} .sources summary").click()
    nameless = page.evaluate(
        """[...document.querySelectorAll('input:not([type=hidden]), select, textarea, button, a, svg')]
          .filter(e => !(e.labels?.length || e.textContent.trim() || e.getAttribute('aria-label')))
          .map(e => e.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("[...document.images].every(i => i.hasAttribute('alt'))")
    assert page.evaluate("document.documentElement.scrollWidth") == NARROW["width"]
    outside = page.evaluate(
        """[...document.querySelectorAll('label, input, select, textarea, button, a, img, svg, p')].filter(e => {
          const box = e.getBoundingClientRect();
          return box.width && !e.closest('.scrolled, pre') && (box.left < 0 || box.right > innerWidth);
        }).map(e => e.outerHTML)"""
    )
    assert outside == []
    heights = page.locator("button, select, nav a").evaluate_all("all => all.map(e => e.offsetHeight).filter(h => h)")
    assert min(heights) >= 30


# While it works -------------------------------------------------------------------------------------------------------


@pytest.fixture
def slow(monkeypatch):
    """A network that takes its time; `slow(seconds)` says how much."""

    def take(seconds):
        call = Watched.__call__
        monkeypatch.setattr(Watched, "__call__", lambda *a, **k: (time.sleep(seconds), call(*a, **k))[1])

    return take


def test_a_newer_question_takes_the_place_of_the_older(opened, explore, slow):
    running = explore()
    page, _ = opened("steps=1#walk", running=running)
    slow(0.05)
    page.get_by_label("Steps", exact=True).fill("200")
    page.locator("#status", has_text="of 200").wait_for()
    assert page.locator("#bar").is_visible()
    assert page.locator("#growing").is_visible()
    page.get_by_label("Steps", exact=True).fill("2")
    settled(page)
    page.wait_for_timeout(600)
    settled(page)
    assert page.locator("#walk-step").text_content() == "after all 2 steps"
    until(lambda: running.queue.working is None)
    assert all('"steps": 200' not in key for key in running.laboratory.walks.kept)


def test_cancel_and_another_panel_meanwhile(opened, explore, slow):
    running = explore()
    page, _ = opened("steps=1#walk", running=running)
    slow(0.05)
    page.get_by_label("Steps", exact=True).fill("200")
    page.locator("#status", has_text="of 200").wait_for()
    page.get_by_role("link", name="The schedule").click()  # which waits for nothing
    page.locator("#schedule-visits", has_text="ddim visits 200 timesteps").wait_for()
    assert running.queue.working is not None  # the walk goes on
    page.get_by_role("link", name="The walk").click()
    page.locator("#status", has_text="of 200").wait_for()
    page.keyboard.press("Escape")
    page.locator("#status", has_text="cancelled").wait_for()
    until(lambda: running.queue.working is None)


def test_with_a_slow_model_it_waits_to_be_told(opened, explore, slow):
    running = explore()
    slow(1.1)
    page, _ = opened("steps=1#walk", running=running)
    page.get_by_label("Steps", exact=True).fill("5")
    page.locator("#walk-step", has_text="after all 5 steps").wait_for()
    page.get_by_label("Seed").fill("3")
    page.locator("#status", has_text="changed; press Enter to compute it").wait_for()
    page.wait_for_timeout(600)
    assert running.queue.working is None
    slide(page, page.locator("#f-step-walk"), 2)  # a look into the walk that is there is immediate
    assert page.locator("#walk-step").text_content().startswith("step 2 of 5")


def test_the_server_goes_away(opened):
    page, running = opened(QUICK + "#walk")
    running.server.should_exit = True
    running._thread.join(10)
    page.get_by_role("button", name="A step back").click()
    page.locator("#status", has_text="the server does not answer; is it still running?").wait_for()


# Another model --------------------------------------------------------------------------------------------------------


def test_a_model_without_a_text_says_what_it_can_not_show(opened, explore, tmp_path):
    from tiny_checkpoints import write_ldm

    running = explore(tinyldm.load(write_ldm(tmp_path / "ldm"), backend="reference"))
    page, _ = opened("steps=2#walk", running=running)
    assert page.locator("#walk-step").text_content() == "after all 2 steps"
    assert page.get_by_label("Prompt", exact=True).count() == 0 or page.get_by_label("Prompt", exact=True).is_hidden()
    go(page, "Where words look")
    assert page.locator("#problem").text_content() == "ldm takes no text, so that there is no cross-attention by word"
    go(page, "Prompt and guidance")
    assert "there is nothing to guide" in page.locator("#problem").text_content()


def test_the_check_explains_a_latent_of_the_embedded_checkpoint(opened, explore):
    running = explore(tinyldm.load())
    page, _ = opened("prompt=red+apple&guidance_scale=4&steps=20#decoder", running=running)
    before, after = page.locator("#decoder-pair figure").all()
    before.get_by_text("It fits.").wait_for()
    page.get_by_role("button", name="Unscaled").click()
    after.locator(".fault", has_text="scaling factor").wait_for()
    assert float(re.search(r"Score (\d+\.\d+)", after.text_content())[1]) > 1
    assert page.get_by_label("Scale", exact=True).input_value() == "2.305"
    page.get_by_role("button", name="Unchanged").click()
    after.get_by_text("It fits.").wait_for()

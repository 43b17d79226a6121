"""The page in a real browser: a person's way from a prompt to a saved picture, and what may go wrong on it."""

from __future__ import annotations

import io
import time

import numpy as np
import pytest
from PIL import Image
from serving import WITHOUT, Serving, until, watched_page

pytest.importorskip("uvicorn", reason=WITHOUT)
WIDE, NARROW = {"width": 1100, "height": 900}, {"width": 320, "height": 640}
LONG = "900"


@pytest.fixture
def opened(browser, serve):
    """Open the page of a server of one's own; it must ask for nothing elsewhere, and no script of it may fail."""
    contexts, complaints = [], []

    def open_page(viewport=WIDE, running=None, touch=False):
        running = running or serve()
        shown = r"status of (404|413|422)"
        page = watched_page(browser, running.url, complaints, shown, viewport=viewport, has_touch=touch)
        contexts.append(page.context)
        page.goto(running.url)
        page.wait_for_selector("#sampler option", state="attached")
        return page, running

    yield open_page
    for context in contexts:
        context.close()
    assert complaints == []


def said(page, text):
    page.locator("#status", has_text=text).wait_for()


def make(page, prompt="a", **fields):
    page.get_by_label("Prompt", exact=True).fill(prompt)
    for label, value in fields.items():
        page.get_by_label(label, exact=True).fill(value)
    page.get_by_role("button", name="Make").click()


def slowed(running):
    """Have each step take a little longer, so that a long job is worked on for 20 s, however quick the machine."""
    compute = running.queue.compute

    def slow(job, tell, add):
        def told(progress):
            time.sleep(0.02)
            tell(progress)

        compute(job, told, add)

    running.queue.compute = slow


def png(size=(16, 16), seed=0):
    file = io.BytesIO()
    Image.fromarray(np.random.default_rng(seed).integers(0, 256, (size[1], size[0], 3), np.uint8)).save(file, "PNG")
    return file.getvalue()


def drop(page, selector, name, data):
    """Drop a file on an element, as from a window of files."""
    transfer = page.evaluate_handle(
        """([name, bytes]) => {
          const transfer = new DataTransfer();
          transfer.items.add(new File([new Uint8Array(bytes)], name, {type: "image/png"}));
          return transfer;
        }""",
        [name, list(data)],
    )
    page.dispatch_event(selector, "dragover", {"dataTransfer": transfer})
    page.dispatch_event(selector, "drop", {"dataTransfer": transfer})


@pytest.mark.parametrize("viewport", [WIDE, NARROW], ids=["wide", "narrow"])
def test_from_a_prompt_to_a_saved_picture(opened, model, viewport, tmp_path):
    page, running = opened(viewport)
    assert page.locator("#model").text_content() == "tiny"
    slowed(running)
    make(page, "a", Steps="40", Guidance="3", Seed="5", **{"Not in the picture": "b"})
    page.wait_for_selector("img[alt='as it looks so far']")
    said(page, "done in")
    with page.expect_download() as download:
        page.get_by_role("link", name="Save").click()
    assert download.value.suggested_filename == "a.png"
    download.value.save_as(tmp_path / "saved.png")
    assert (tmp_path / "saved.png").read_bytes() == (running.folder / "a.png").read_bytes()
    with Image.open(tmp_path / "saved.png") as image:
        wanted = model.text_to_image("a", "b", steps=40, guidance_scale=3.0, seed=5)[0]
        np.testing.assert_array_equal(np.asarray(image), np.asarray(wanted))
        assert image.text["negative_prompt"] == "b"
    assert page.evaluate("document.documentElement.scrollWidth <= document.documentElement.clientWidth")


def test_the_first_preview_comes_within_a_second_of_the_first_step(opened, serve):
    running = serve()
    slowed(running)
    steps, compute = [], running.queue.compute

    def timed(job, tell, add):
        def told(progress):
            steps.append(time.monotonic())
            tell(progress)

        compute(job, told, add)

    running.queue.compute = timed
    page, _ = opened(running=running)
    make(page, Steps=LONG, Width="32", Height="32")
    page.wait_for_selector("img[alt='as it looks so far']")
    assert time.monotonic() - steps[0] < 1


def test_several_pictures_and_the_gallery(opened):
    page, running = opened()
    make(page, "a", Steps="2", Seed="3", Pictures="3")
    said(page, "done in")
    assert page.locator("figcaption span").all_text_contents() == [f"seed {k}, 16×16" for k in (3, 4, 5)]
    assert page.locator("#pictures li").count() == 3
    page.reload()
    page.locator("#pictures li button").nth(2).click()  # the newest is first
    assert page.locator("figcaption span").all_text_contents() == ["seed 3, 16×16"]
    page.get_by_role("button", name="Settings", exact=True).click()
    assert page.get_by_label("Seed").input_value() == "3"
    assert page.get_by_label("Steps").input_value() == "2"
    sources = page.locator("#pictures img").evaluate_all("images => images.map(i => i.naturalWidth)")
    assert sources == [16] * 3
    (running.folder / "a.png").unlink()
    page.reload()
    until(lambda: page.locator("#pictures li").count() == 2)


@pytest.mark.parametrize(
    ("label", "value", "field", "sentence"),
    [
        ("Steps", "0", "steps", "steps: 0 is out of range; it must be from 1 to 1000"),
        ("Width", "15", "width", "width must be a multiple of 2 pixels, not 15"),
        ("Seed", "-5", "seed", "seed must be -1 or more, not '-5'"),
        ("Pictures", "500", "num_images", "num_images must be from 1 to 100, not '500'"),
        ("Sampler options", "eta", "sampler_options", "sampler_options wants NAME=VALUE, such as eta=0.5, not 'eta'"),
        ("Height", "200000", "width", "take a smaller size"),
        ("Guidance rescale", "2", "guidance_rescale", "guidance_rescale must be from 0 to 1, not 2.0"),
    ],
)
def test_bad_input_is_told_beside_the_field(opened, label, value, field, sentence):
    page, _ = opened()
    page.locator("summary").click()
    make(page, "a", **{label: value, **({"Width": "200000"} if value == "200000" else {})})
    error = page.locator(f"#{field}-error")
    error.wait_for()
    assert sentence in error.text_content()
    box, of_field = error.bounding_box(), page.locator(f"#{field}").bounding_box()
    assert 0 <= box["y"] - of_field["y"] - of_field["height"] < 20
    assert page.locator(f"#{field}").get_attribute("aria-invalid") == "true"
    assert page.locator(f"#{field}").get_attribute("aria-describedby") == f"{field}-error"
    assert page.evaluate("document.activeElement.id") == field
    for name in (label, "Width"):
        page.get_by_label(name, exact=True).fill("")
    page.get_by_label("Steps").fill("1")
    page.keyboard.press("Control+Enter")
    said(page, "done in")
    assert page.locator(f"#{field}-error").text_content() == ""
    assert page.locator("[aria-invalid]").count() == 0


def test_a_word_in_the_place_of_a_number(opened):
    page, _ = opened()
    page.get_by_label("Steps").press("e")
    make(page)
    page.locator("#steps-error", has_text="steps must be a whole number").wait_for()


@pytest.mark.parametrize("how", ["key", "button", "closed"])
def test_cancel(opened, how):
    page, running = opened()
    slowed(running)
    make(page, Steps=LONG, Width="32", Height="32")
    page.wait_for_selector("img[alt='as it looks so far']")
    assert page.get_by_role("button", name="Make").get_attribute("aria-disabled") == "true"
    if how == "closed":
        page.close()
        until(lambda: running.queue.working is None)
        return
    page.keyboard.press("Escape") if how == "key" else page.get_by_role("button", name="Cancel").click()
    said(page, "cancelled")
    until(lambda: running.queue.working is None)
    assert page.get_by_text("Your picture appears here").is_visible()
    assert page.get_by_role("button", name="Cancel").is_hidden()
    make(page, Steps="1", Width="", Height="")
    said(page, "done in")


def test_it_stays_usable_while_others_are_served(opened, serve):
    running = serve()
    first, _ = opened(running=running)
    make(first, Steps="1")
    said(first, "done in")
    slowed(running)
    make(first, Steps=LONG, Width="64", Height="64")
    first.wait_for_selector("img[alt='as it looks so far']")
    second, _ = opened(running=running)
    make(second, "b", Steps="1")
    said(second, "waiting: 1 before this")
    start = time.monotonic()
    first.get_by_label("Prompt", exact=True).fill("something else")
    first.locator("#pictures button").first.click()
    said(first, "cancel it to look at others")
    assert time.monotonic() - start < 2
    first.keyboard.press("Escape")
    said(second, "done in")
    assert (running.folder / "b.png").exists()


def test_begin_from_a_picture(opened, model):
    page, running = opened()
    page.get_by_label("Choose a picture").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": png()})
    page.locator("#beginning").wait_for()
    page.get_by_role("slider", name="Change").fill("0.5")
    make(page, Steps="4", Seed="5")
    said(page, "done in")
    wanted = model.image_to_image("a", Image.open(io.BytesIO(png())), strength=0.5, steps=4, seed=5)[0]
    with Image.open(running.folder / "a.png") as image:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(wanted))
        assert image.text["image"] == "a picture on the page"
    page.get_by_role("button", name="Remove the picture").click()
    make(page, Steps="1")
    said(page, "done in")
    page.get_by_role("button", name="Begin from").first.click()
    page.locator("#beginning").wait_for()


def test_a_large_picture_is_brought_to_the_models_size(opened):
    page, running = opened()
    drop(page, "#begin", "large.png", png((200, 100)))
    page.locator("#beginning").wait_for()
    assert (page.get_by_label("Width").input_value(), page.get_by_label("Height").input_value()) == ("22", "12")
    make(page, Steps="2")
    said(page, "done in")
    with Image.open(running.folder / "a.png") as image:
        assert image.size == (22, 12)
    drop(page, "#begin", "notes.png", b"notes")
    page.locator("#image-error", has_text="notes.png is no picture that the browser can read").wait_for()


def test_settings_of_a_dropped_png(opened, serve):
    running = serve()
    page, _ = opened(running=running)
    page.locator("summary").click()
    page.get_by_label("Prompt syntax").select_option("plain")
    make(page, "a b", Steps="3", Guidance="2.5", Seed="9", **{"Not in the picture": "c", "CLIP skip": "2"})
    said(page, "done in")
    data = (running.folder / "a-b.png").read_bytes()
    other, _ = opened(running=running)
    drop(other, "body", "a-b.png", data)
    said(other, "settings of a-b.png")
    fields = other.evaluate("Object.fromEntries(new FormData(document.forms[0]))")
    assert fields["prompt"] == "a b"
    assert fields["negative_prompt"] == "c"
    assert (fields["prompt_syntax"], fields["clip_skip"]) == ("plain", "2")
    assert (fields["steps"], fields["guidance_scale"], fields["seed"]) == ("3", "2.5", "9")
    assert (fields["width"], fields["height"], fields["sampler"]) == ("16", "16", "ddim")
    other.keyboard.press("Control+Enter")
    said(other, "done in")
    with Image.open(running.folder / "a-b-2.png") as image, Image.open(io.BytesIO(data)) as before:
        np.testing.assert_array_equal(np.asarray(image), np.asarray(before))
    drop(other, "body", "plain.png", png())
    other.locator("#problem", has_text="plain.png: the picture's file does not say").wait_for()


def test_the_keyboard_is_enough(opened):
    page, _ = opened()
    assert page.evaluate("document.activeElement.id") == "prompt"
    order = []
    for _ in range(13):
        order.append(page.evaluate("document.activeElement.id || document.activeElement.tagName"))
        page.keyboard.press("Tab")
    assert order == [
        *("prompt", "negative_prompt", "make"),
        *("steps", "guidance_scale", "width", "height", "seed", "num_images", "sampler", "SUMMARY"),
        *("image_file", "settings_file"),
    ]
    assert page.evaluate("getComputedStyle(document.querySelector('label[for=prompt]')).display") != "none"


def test_everything_has_a_name(opened):
    page, _ = opened()
    make(page, Steps="1")
    said(page, "done in")
    page.get_by_role("button", name="Begin from").click()
    page.locator("summary").click()
    nameless = page.evaluate(
        """[...document.querySelectorAll('input, select, textarea, button, a')].filter(
          e => !(e.labels?.length || e.textContent.trim() || e.querySelector('img[alt]'))).map(e => e.outerHTML)"""
    )
    assert nameless == []
    assert page.evaluate("[...document.images].every(i => i.hasAttribute('alt'))")


def test_a_narrow_screen_has_all_of_it(opened):
    page, _ = opened(NARROW)
    make(page, Steps="1", Pictures="2")
    said(page, "done in")
    page.get_by_role("button", name="Begin from").first.click()
    page.locator("summary").click()
    assert page.evaluate("document.documentElement.scrollWidth") == 320
    outside = page.evaluate(
        """[...document.querySelectorAll('label, input, select, textarea, button, a, img, canvas, p')].filter(e => {
          const box = e.getBoundingClientRect();
          return box.width && (box.left < 0 || box.right > innerWidth);
        }).map(e => e.outerHTML)"""
    )
    assert outside == []
    heights = page.locator("button, select, .button").evaluate_all("all => all.map(e => e.offsetHeight).filter(h => h)")
    assert min(heights) >= 32


def test_the_server_goes_away(opened):
    page, running = opened()
    slowed(running)
    make(page, Steps=LONG, Width="32", Height="32")
    page.wait_for_selector("img[alt='as it looks so far']")
    running.server.should_exit = True
    said(page, "cancelled")
    assert isinstance(running, Serving)


def begin_from(page, data):
    page.get_by_label("Choose a picture").set_input_files({"name": "a.png", "mimeType": "image/png", "buffer": data})
    page.locator("#beginning").wait_for()


@pytest.mark.parametrize("how", ["mouse", "keys", "finger"])
def test_a_mask_that_is_drawn(opened, how):
    page, running = opened(NARROW if how == "finger" else WIDE, touch=how == "finger")
    begin_from(page, png())
    mask = page.locator("#mask")
    mask.scroll_into_view_if_needed()
    page.locator("#brush").fill("20")
    box = mask.bounding_box()
    x, y = box["x"] + box["width"] * 0.5, box["y"] + box["height"] * 0.5
    if how == "mouse":
        page.mouse.move(x, y)
        page.mouse.down()
        page.mouse.move(x + box["width"] * 0.2, y, steps=4)
        page.mouse.up()
    elif how == "finger":
        page.touchscreen.tap(x, y)
    else:
        mask.focus()
        page.keyboard.press("Space")
        page.keyboard.press("ArrowRight")
        page.keyboard.press("Space")
    make(page, Steps="3", Seed="5")
    said(page, "done in")
    with Image.open(running.folder / "a.png") as image:
        changed = (np.asarray(image) != np.asarray(Image.open(io.BytesIO(png())))).any(axis=-1)
    assert changed[7:9, 7:9].all()
    changed[6:10, 6:13] = False
    assert not changed.any()


def test_a_mask_is_erased_and_cleared(opened):
    page, running = opened()
    begin_from(page, png())
    painted = "document.getElementById('mask').getContext('2d').getImageData(0, 0, 16, 16).data.some(v => v)"
    page.locator("#brush").fill("20")
    page.locator("#mask").focus()
    page.keyboard.press("Space")
    assert page.evaluate(painted)
    page.get_by_label("Erase").check()
    page.locator("#brush").fill("50")
    page.locator("#mask").focus()
    page.keyboard.press("Space")
    assert not page.evaluate(painted)
    page.get_by_label("Erase").uncheck()
    page.locator("#mask").focus()
    page.keyboard.press("Space")
    page.get_by_role("button", name="Clear mask").click()
    assert not page.evaluate(painted)
    make(page, Steps="2", Seed="5")
    said(page, "done in")
    with Image.open(running.folder / "a.png") as image:  # without a mask all of it changes
        assert (np.asarray(image) != np.asarray(Image.open(io.BytesIO(png())))).any(axis=-1).mean() > 0.9

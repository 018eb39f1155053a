"""The review page in a real browser: from synthetic scans to shards by keyboard alone.

Skips where Debian's Chromium or playwright is missing. The tests share one folder, and each goes on
from the one before, as a reader does.
"""

import csv
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

from data_builder.pseudonyms import PUBLIC_KEY, Pseudonyms
from data_builder.review.folder import Folder
from data_builder.review.store import Store
from tests.helpers import ROOT
from tests.helpers.review_folder import Served

sync_api = pytest.importorskip("playwright.sync_api", reason="playwright is not installed")
expect = sync_api.expect
expect.set_options(timeout=20_000)

CHROMIUM = shutil.which("chromium") or shutil.which("chromium-browser")
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
pytestmark = pytest.mark.skipif(CHROMIUM is None, reason="no Chromium: apt-get install chromium")


class Desk:
    """A folder of synthetic studies without labels, its review server, and a browser."""

    def __init__(self, scans, folder, browser):
        self.folder, self.browser, self.problems = folder, browser, []
        predictions = folder.with_name("predictions.csv")
        keys = list(Folder(folder).rows)
        lines = [f"{key},{number / len(keys):.6f}" for number, key in enumerate(keys)]
        predictions.write_text("\n".join(["key,p_hemorrhage", *lines]))
        self.options = ("--dicom", str(scans), "--key", "public", "--predictions", str(predictions))
        self.server = Served(folder, *self.options)

    def window(self, reader):
        """Opens a window in which `reader` has entered a name by keyboard."""
        page = self.browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
        page.on("pageerror", lambda error: self.problems.append(str(error)))
        page.on("request", self.record_foreign)
        page.goto(self.server.url)
        page.locator("#name").wait_for()
        press(page, *reader, "Enter")
        ready(page)
        return page

    def record_foreign(self, request):
        """Records requests to any other host than the server."""
        if not request.url.startswith((self.server.url, "blob:", "data:")):
            self.problems.append(request.url)

    def state(self, reader, **other):
        return Store(self.folder / "review" / "decisions.sqlite").state(reader, **other)


def press(page, *keys):
    for key in keys:
        page.keyboard.press(key)


def ready(page):
    """Waits until the first slice is drawn and the suggestions are complete."""
    page.locator("#slice[data-key]").wait_for()
    page.locator("#strip[data-study]").wait_for(state="attached")


def saved(page):
    expect(page.locator("#saved")).to_have_class("saved")


@pytest.fixture(scope="module")
def desk(phantoms, tmp_path_factory):
    folder = shutil.copytree(phantoms[1], tmp_path_factory.mktemp("desk") / "cleaned")
    with sync_api.sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=CHROMIUM, args=FLAGS.split())
        desk = Desk(phantoms[0], folder, browser)
        yield desk
        browser.close()
        desk.server.kill()
    assert desk.problems == []  # no error in the page, and no request to another host


@pytest.fixture(scope="module")
def ann(desk):
    return desk.window("ann")


def test_a_study_is_labelled_by_keyboard_alone(desk, ann):
    folder = Folder(desk.folder)
    study, keys = next(iter(folder.studies.items()))
    expect(ann.locator("#position")).to_contain_text(f"1 / {len(keys)}")
    press(ann, "ArrowDown", "ArrowDown")
    expect(ann.locator("#slice")).to_have_attribute("data-key", keys[2])
    expect(ann.locator("#suggested")).to_contain_text("above the brain")
    press(ann, "Shift+G", "Shift+N", "x")
    press(ann, *"m")
    ann.keyboard.type("motion here")
    press(ann, "Enter")
    saved(ann)
    expect(ann.locator("#suggested")).to_be_hidden()
    expect(ann.locator("#verdict")).to_contain_text("Normal")
    expect(ann.locator(".study").first).to_contain_text(f"{len(keys)}/{len(keys)} ?")
    state = desk.state("ann")
    assert state[study] == {"label": "normal"}
    assert state[keys[2]] == {"unsure": "1", "note": "motion here"}
    dropped = [key for key in keys if state.get(key) == {"keep": "0"}]
    assert dropped and dropped == [k for k in keys[-4:] if k in dropped]
    press(ann, "x")
    expect(ann.locator(".study").first).not_to_contain_text("?")


def test_a_range_is_dropped_undone_and_shown_after_a_reload(desk, ann):
    press(ann, "Home", "Shift+ArrowDown", "Shift+ArrowDown", "Shift+ArrowDown")
    expect(ann.locator("#slice-legend")).to_have_text("Slices 1\N{EN DASH}4")
    press(ann, "d")
    expect(ann.locator("#strip .dropped.ranged")).to_have_count(4)
    press(ann, "z")
    expect(ann.locator("#strip .dropped.ranged")).to_have_count(0)
    press(ann, "d")
    saved(ann)
    marks = ann.locator("#strip").inner_text()
    ann.reload()
    ready(ann)
    expect(ann.locator("#reader")).to_have_text("ann")
    assert (
        ann.locator("#strip").inner_text() == marks and marks.count("\N{MULTIPLICATION SIGN}") >= 5
    )
    expect(ann.locator("#position")).to_contain_text("4 /")
    ann.locator("#history summary").click()
    expect(ann.locator("#events")).to_contain_text("ann by undo")
    ann.locator("#slice").focus()


def brightness(page):
    return page.evaluate(
        "() => { const c = document.querySelector('#slice'); const d = c.getContext('2d')"
        ".getImageData(0, 0, c.width, c.height).data; let s = 0;"
        "for (let i = 0; i < d.length; i += 4) s += d[i]; return s / d.length; }"
    )


def test_window_zoom_and_scroll_by_mouse(desk, ann):
    box = ann.locator("#slice").bounding_box()
    middle = (box["x"] + box["width"] / 2, box["y"] + box["height"] / 2)
    expect(ann.locator("#values")).to_have_text("W 80 L 40 HU")
    brain = brightness(ann)
    press(ann, "r")
    expect(ann.locator("#values")).to_have_text("W 2800 L 600 HU")
    assert brightness(ann) < brain  # bone window: brain and bone are darker
    press(ann, "q")
    ann.mouse.move(*middle)
    ann.mouse.down()
    ann.mouse.move(middle[0] + 50, middle[1] + 30)
    ann.mouse.up()
    values = re.fullmatch(r"W (\d+) L (-?\d+) HU", ann.locator("#values").inner_text())
    assert int(values[1]) > 80 and int(values[2]) < 40
    ann.mouse.wheel(0, 120)
    expect(ann.locator("#position")).to_contain_text("5 /")
    press(ann, "q", "h")
    expect(ann.locator("#values")).to_have_text("W 80 L 40 HU")
    press(ann, "h", "+", "+")
    expect(ann.locator("#zoom")).to_have_text("1.6\N{MULTIPLICATION SIGN}")
    press(ann, "f", "c")
    expect(ann.locator("#sheet button")).to_have_count(len(ann.query_selector_all("#strip i")))
    ann.locator("#sheet button").nth(9).click()
    ann.locator("#sheet button").nth(11).click(modifiers=["Shift"])
    expect(ann.locator("#slice-legend")).to_have_text("Slices 10\N{EN DASH}12")
    ann.locator("#sheet button").nth(3).dblclick()
    expect(ann.locator("#sheet")).to_be_hidden()
    expect(ann.locator("#toggle-sheet")).to_have_attribute("aria-pressed", "false")
    expect(ann.locator("#position")).to_contain_text("4 /")
    press(ann, "?")
    expect(ann.locator("#keys")).to_contain_text("contact sheet")
    press(ann, "Escape")


def test_every_control_has_a_name_and_is_reached_by_keyboard(desk, ann):
    nameless = ann.evaluate(
        "() => [...document.querySelectorAll('button, input, select, [role]')].filter(e =>"
        "!(e.getAttribute('aria-label') || e.textContent.trim() || e.closest('label')"
        "|| e.matches('[role=status], [role=alert]'))).map(e => e.outerHTML)"
    )
    assert nameless == []
    ann.locator("#slice").focus()
    seen = set()
    for _ in range(60):
        press(ann, "Tab")
        seen.add(ann.evaluate("document.activeElement.id || document.activeElement.textContent"))
    assert {"studies", "slice", "undo", "show-readers", "export", "width", "slice-note"} <= seen
    ann.locator("#studies").focus()
    press(ann, "ArrowDown")
    expect(ann.locator(".study").nth(1)).to_have_attribute("aria-selected", "true")
    expect(ann.locator("#slice")).to_have_attribute("aria-label", re.compile("Slice 1 of"))
    ann.locator("#slice").focus()


def test_a_kill_loses_nothing_that_is_shown_as_saved(desk, ann):
    second = list(Folder(desk.folder).studies)[1]
    ready(ann)
    press(ann, "Shift+N")
    saved(ann)
    desk.server.kill()
    press(ann, "Shift+X")  # no server to save it
    expect(ann.locator("#saved")).to_contain_text("NOT SAVED")
    assert desk.state("ann")[second] == {"label": "normal"}
    press(ann, "PageDown")  # no other study opens: the page stays where it is
    expect(ann.locator("#study-legend")).to_contain_text(second[:10])
    desk.server = Served(desk.folder, *desk.options, port=desk.server.port)
    saved(ann)  # the page has kept it and sends it to the new server
    assert desk.state("ann")[second] == {"label": "normal", "unsure": "1"}
    press(ann, "Shift+X")
    saved(ann)


def test_probabilities_are_hidden_and_showing_them_is_recorded(desk):
    folder = Folder(desk.folder)
    store = Store(desk.folder / "review" / "decisions.sqlite")
    eve = desk.window("eve")
    expect(eve.locator("#probability")).to_contain_text("Hidden")
    expect(eve.locator("#study-legend")).to_contain_text(next(iter(folder.studies))[:10])
    press(eve, "Shift+O")
    expect(eve.locator(".study").first).to_contain_text(list(folder.studies)[-1][:10])
    assert "eve" in store.events("order") and "eve" not in store.events("probabilities")
    press(eve, "o")
    expect(eve.locator("#probability")).to_have_text("ICH < 1%")  # the first slice of all
    assert "eve" in store.events("probabilities") and "ann" not in store.events("probabilities")
    eve.context.close()


def test_two_readers_disagree_and_settle(desk, ann):
    study = next(iter(Folder(desk.folder).studies))
    bob = desk.window("bob")
    expect(bob.locator("#verdict")).to_have_text("not read")  # blinded to ann
    press(bob, "Shift+2")
    saved(bob)
    press(ann, "s")
    expect(ann.locator("#blind")).to_be_visible()
    press(ann, "Enter")  # the focus is on Close
    expect(ann.locator("#readers")).to_be_hidden()
    press(ann, "s")
    ann.locator("#unblind").focus()
    press(ann, "Enter")
    expect(ann.locator("#agreement")).to_contain_text("ICH or normal")
    ann.locator("#settle").focus()
    press(ann, "Enter")
    expect(ann.locator("body")).to_have_class("settling")
    expect(ann.locator(".study").first).to_contain_text("bob: Lobar")
    expect(ann.locator("#readings")).to_contain_text("ann: Dropped")
    press(ann, "Shift+N")
    saved(ann)
    assert desk.state("", settles=True) == {study: {"label": "normal"}}
    expect(ann.locator("#events")).to_contain_text("bob")
    expect(ann.locator("#events")).to_contain_text("ann settled: study: Normal")
    ann.locator("#read-again").click()
    expect(ann.locator("body")).not_to_have_class("settling")
    ann.locator("#slice").focus()
    bob.context.close()


def bleeds_of_studies(desk, labels):
    """Study -> whether it has a hemorrhage, from the labels.csv of the phantoms."""
    names, folder = Pseudonyms(PUBLIC_KEY), Folder(desk.folder)
    bleeds = {}
    with labels.open() as file:
        for row in csv.DictReader(file):
            study = folder.rows[names.slice(row["slice"])]["study"]
            bleeds[study] = bleeds.get(study, False) or row["hemorrhage"] == "1"
    return bleeds


def test_export_and_shards(desk, ann, phantoms, tmp_path):
    bleeds = bleeds_of_studies(desk, phantoms[2])
    studies = list(Folder(desk.folder).studies)
    for position, study in enumerate(studies):
        press(ann, "PageDown" if position else "PageUp")
        if not position:
            press(ann, *["PageUp"] * len(studies))
        expect(ann.locator("#study-legend")).to_contain_text(study[:10])
        if position:
            press(ann, "Shift+1" if bleeds[study] else "Shift+N")
    saved(ann)
    press(ann, "Shift+E")
    expect(ann.locator("#counts")).to_contain_text("python -m data_builder build")
    press(ann, "Escape")
    command = [sys.executable, "-m", "data_builder", "build", str(desk.folder / "reviewed")]
    options = ["--data_dir", str(tmp_path / "data"), "--size", "36", "--key", "public"]
    root = str(ROOT)
    done = subprocess.run([*command, *options], capture_output=True, text=True, cwd=root)
    assert done.returncode == 0, done.stderr
    assert list(Path(done.stdout.strip()).glob("*.array_record*"))

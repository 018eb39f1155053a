"""How fast the review page is on 50,000 slices, in a real browser on the same machine.

Makes a folder of 50,000 rows over a few phantoms (hard links), in which the reader has
labelled every slice and a second reader half of them, and measures in the page:

- open: from navigation to the first slice drawn, the list of all studies included;
- next slice: from the key to the picture drawn, by arrow key, through one study after the other;
- jump: the same to a slice that was not fetched ahead (the last of a study just opened);
- sheet: from the key to the contact sheet's picture shown, its thumbnails made before;
- in HU: next slice and jump with --dicom, where each slice is decoded from its scan;
- fetch: one slice over HTTP, against `python -m http.server` on the same files, in turn.

    python benchmarks/review.py [--slices 50000] [--rounds 5]
"""

import argparse
import csv
import http.client
import json
import os
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
import uuid
from collections.abc import Callable
from pathlib import Path

from playwright.sync_api import Page, sync_playwright

from data_builder.cleaning.clean_folder import clean_folder
from data_builder.phantom import write_studies
from data_builder.records import MANIFEST_COLUMNS
from data_builder.review.export import export
from data_builder.review.folder import Folder
from data_builder.review.outcome import agreement, disputes
from data_builder.review.store import Change, Store

A_STUDY = 30
FLAGS = (
    "--no-sandbox --disable-gpu --disable-quic --no-first-run --disable-background-networking "
    "--disable-component-update --disable-sync"
)
WATCH = """
window.drawn = [];
new MutationObserver(() => window.drawn.push(performance.now()))
  .observe(document, {subtree: true, attributes: true, attributeFilter: ['data-key']});
"""
PRESS = """async (key) => {
  const before = window.drawn.length, start = performance.now();
  dispatchEvent.call(document.body, new KeyboardEvent('keydown', {key, bubbles: true}));
  while (window.drawn.length === before) await new Promise((go) => setTimeout(go, 0));
  return window.drawn.at(-1) - start;
}"""
SHEET = """async () => {
  const start = performance.now();
  dispatchEvent.call(document.body, new KeyboardEvent('keydown', {key: 'c', bubbles: true}));
  const address = document.querySelector('#sheet .picture').style.backgroundImage.slice(5, -2);
  const image = new Image(); image.src = address; await image.decode();
  return performance.now() - start;
}"""


def many(place: Path, slices: int) -> Path:
    """Makes a cleaned folder of so many rows from a few phantoms."""
    write_studies(place / "scans", 4, 5, None)
    clean_folder(place / "scans", place / "few", key="public")
    few = [row for row in Folder(place / "few").rows.values() if row["keep"] == "1"]
    out = place / "many"
    with (_made(out) / "manifest.csv").open("w", newline="") as file:
        writer = csv.DictWriter(file, MANIFEST_COLUMNS)
        writer.writeheader()
        for number in range(slices):
            study, index = divmod(number, A_STUDY)
            row = few[number % len(few)]
            name = f"images/stu-{study:06d}/sli-{number:08d}.png"
            _made((out / name).parent)
            os.link(place / "few" / row["image"], out / name)
            writer.writerow(
                row
                | {
                    "key": f"sli-{number:08d}",
                    "study": f"stu-{study:06d}",
                    "subject": f"sub-{study // 2:06d}",
                    "position_mm": f"{5 * index}.000",
                    "image": name,
                }
            )
    shutil.copy(place / "few" / "cleaning.json", out)
    folder = Folder(out)
    store = Store(folder.own / "decisions.sqlite")
    for reader, step in (("one", 1), ("two", 2)):
        changes = [Change(key, "label", "normal") for key in list(folder.rows)[::step]]
        store.append(reader, uuid.uuid4().hex, changes)
    return out


def _made(folder: Path) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    return folder


def serve(command: list[str]) -> subprocess.Popen:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True)


def opened(page: Page, url: str) -> float:
    """Milliseconds from navigation to the first slice drawn."""
    page.goto(url)
    page.wait_for_selector("#slice[data-key]")
    return page.evaluate("window.drawn[0]")


def fetched(port: int, path: str) -> float:
    """Milliseconds for one file, on a connection of its own."""
    start = time.perf_counter()
    connection = http.client.HTTPConnection("127.0.0.1", port)
    connection.request("GET", path)
    assert len(connection.getresponse().read()) > 1000
    connection.close()
    return 1000 * (time.perf_counter() - start)


def row(what: str, times: list[float], limit: str = "") -> None:
    """A line of the table: median, 95th percentile, worst."""
    ordered = sorted(times)
    late = ordered[min(len(ordered) - 1, int(0.95 * len(ordered)))]
    middle = statistics.median(ordered)
    print(f"| {what} | {len(times)} | {middle:.1f} | {late:.1f} | {ordered[-1]:.1f} | {limit} |")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--slices", type=int, default=50_000)
    parser.add_argument("--rounds", type=int, default=5)
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as made:
        start = time.perf_counter()
        folder = many(Path(made), args.slices)
        print(f"made {args.slices} slices in {time.perf_counter() - start:.0f} s", file=sys.stderr)
        start = time.perf_counter()
        review = serve([sys.executable, "-m", "data_builder", "review", str(folder), "--port", "0"])
        url = review.stdout.readline().split()[-1]
        print(f"\nThe command answers after {time.perf_counter() - start:.1f} s.\n")
        port = int(url.rsplit(":", 1)[1].strip("/"))
        plain = serve(
            [sys.executable, "-m", "http.server", str(port + 1), "--directory", str(folder)]
        )
        scans = ["--dicom", str(Path(made) / "scans"), "--key", "public", "--port", str(port + 2)]
        in_hu = serve([sys.executable, "-m", "data_builder", "review", str(folder), *scans])
        in_hu.stdout.readline()
        try:
            measure(url, port, folder, args.rounds)
        finally:
            for process in (review, plain, in_hu):
                process.terminate()
                process.wait()
        opened_folder = Folder(folder)
        store = Store(opened_folder.own / "decisions.sqlite")
        works: dict[str, Callable[[], object]] = {
            "the list of what is to settle": lambda: disputes(opened_folder, store),
            "agreement": lambda: agreement(opened_folder, store),
            "export": lambda: export(opened_folder, store, folder / "reviewed"),
        }
        for what, work in works.items():
            start = time.perf_counter()
            work()
            print(f"{what}: {time.perf_counter() - start:.1f} s")


def measure(url: str, port: int, folder: Path, rounds: int) -> None:
    opens, steps, jumps, sheets = [], [], [], []
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(
            executable_path=shutil.which("chromium"), args=FLAGS.split()
        )
        for turn in range(rounds):
            page = browser.new_context(viewport={"width": 1280, "height": 800}).new_page()
            page.add_init_script(WATCH + "sessionStorage.setItem('reader', 'one');")
            page.add_init_script(f"sessionStorage.setItem('study', 'stu-{7 * turn:06d}');")
            opens.append(opened(page, url))
            for _ in range(4):
                steps += [page.evaluate(PRESS, "ArrowDown") for _ in range(A_STUDY - 2)]
                page.evaluate(PRESS, "PageDown")
                jumps.append(page.evaluate(PRESS, "End"))
                page.wait_for_selector("#strip[data-study]", state="attached")
                sheets.append(page.evaluate(SHEET))
                page.keyboard.press("c")
                page.evaluate(PRESS, "Home")
            page.context.close()
        page = browser.new_page(viewport={"width": 1280, "height": 800})
        page.add_init_script(WATCH + "sessionStorage.setItem('reader', 'one');")
        opened(page, f"http://127.0.0.1:{port + 2}/")
        assert "HU" in page.inner_text("#values") and page.get_attribute("#hu", "aria-pressed")
        hu_steps, hu_jumps = [], []
        for _ in range(rounds):
            hu_steps += [page.evaluate(PRESS, "ArrowDown") for _ in range(A_STUDY - 2)]
            page.evaluate(PRESS, "PageDown")
            hu_jumps.append(page.evaluate(PRESS, "End"))
            page.evaluate(PRESS, "Home")
        browser.close()
    print("| what | times | median ms | 95th percentile | worst | wanted |")
    print("|---|---|---|---|---|---|")
    row("page opens, first slice drawn", opens, "under 1000")
    row("next slice by key", steps, "under 50")
    row("jump to a slice not fetched ahead", jumps)
    row("contact sheet", sheets)
    row("next slice by key, in HU", hu_steps, "under 50")
    row("jump, in HU", hu_jumps)
    rows = list(Folder(folder).rows.values())[::101][:200]
    pairs = [
        (fetched(port, f"/api/image/{each['key']}"), fetched(port + 1, f"/{each['image']}"))
        for each in rows
    ]
    row("one slice over HTTP", [one for one, _ in pairs])
    row("the same, python -m http.server", [other for _, other in pairs])
    ratios = sorted(one / other for one, other in pairs)
    low, high = ratios[len(ratios) // 20], ratios[-len(ratios) // 20]
    print(
        f"\nReview against http.server: {statistics.median(ratios):.2f} times as long (90% of "
        f"pairs: {low:.2f} to {high:.2f})."
    )
    sizes = json.dumps({"slices": len(Folder(folder).rows), "studies": len(Folder(folder).studies)})
    print(sizes)


if __name__ == "__main__":
    main()

"""The page in a real browser, from disk, with the network off. Skips, saying so, without Debian's chromium."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pandas as pd
import pytest

from fairface_core.files.folder import open_folder
from sweep.page.beside.copies import latex_table, markdown_table
from sweep.page.plots.style import DARK, TEXT
from sweep.page.write import write_comparison, write_report
from sweep.results.leaderboard import build_board
from sweep.run_folder.records import read_run
from tests.sweep.run_folders import Shape, make_run
from tests.sweep.test_report import HOSTILE, QUICK, poison

pytestmark = pytest.mark.browser

FLAGS = [
    "--no-sandbox",
    "--disable-gpu",
    "--disable-background-networking",
    "--disable-component-update",
    "--no-first-run",
]
DRAWN = "html[data-drawn]"


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    path = shutil.which("chromium")
    if path is None:
        pytest.skip("chromium is not installed (apt-get install chromium)")
    playwright = pytest.importorskip(
        "playwright.sync_api", reason="playwright is not installed (pip install -e '.[test]')"
    )
    with playwright.sync_playwright() as driver:
        browser = driver.chromium.launch(executable_path=path, args=FLAGS)
        yield browser
        browser.close()


class Opened:
    """A page that was opened, and what it did besides showing itself."""

    def __init__(self, page: Any) -> None:
        self.page = page
        self.console: list[str] = []
        self.requests: list[str] = []
        page.on("console", lambda message: self.console.append(f"{message.type}: {message.text}"))
        page.on("pageerror", lambda error: self.console.append(str(error)))
        page.on("dialog", lambda dialog: (self.console.append(dialog.message), dialog.dismiss()))
        page.on("request", lambda request: self.requests.append(request.url))

    def column(self, table: str, title: str) -> list[str]:
        """Return the cells of a column, as their sort values or text."""
        return self.page.evaluate(
            """([table, title]) => {
                const head = [...document.querySelectorAll(`#${table} thead th`)];
                const at = head.findIndex((cell) => cell.innerText.trim().replace(/.[↑↓]$/, "") === title);
                return [...document.querySelectorAll(`#${table} tbody tr`)].map((row) =>
                    row.cells[at].dataset.value ?? row.cells[at].innerText.trim());
            }""",
            [table, title],
        )


@contextmanager
def opened(browser: Any, run: Path, *, width: int = 1280, dark: bool = False, touch: bool = False) -> Iterator[Opened]:
    context = browser.new_context(
        viewport={"width": width, "height": 800},
        color_scheme="dark" if dark else "light",
        has_touch=touch,
        offline=True,
    )
    try:
        found = Opened(context.new_page())
        found.page.goto((run / "report.html").as_uri())
        found.page.wait_for_selector(DRAWN, state="attached", timeout=60_000)
        yield found
    finally:
        context.close()


@pytest.fixture(scope="module")
def run(drawn_run: Path) -> Path:
    write_report(open_folder(drawn_run))
    return drawn_run


def test_it_opens_from_disk_with_the_network_off_and_no_console_message(browser: Any, run: Path) -> None:
    with opened(browser, run) as found:
        assert found.console == []
        assert found.requests == [(run / "report.html").as_uri()]
        assert found.page.title() == "backbones · fairface sweep"


def test_every_figure_is_drawn(browser: Any, run: Path) -> None:
    with opened(browser, run) as found:
        figures = found.page.evaluate(
            """[...document.querySelectorAll("[data-figure]")].map((node) => ({
                key: node.dataset.figure,
                marks: node.querySelectorAll(".points path, .lines path, .errorbar path, path.point").length,
                width: node.querySelector("svg.main-svg")?.getBoundingClientRect().width ?? 0,
                label: node.getAttribute("aria-label"),
            }))"""
        )
    assert len(figures) == 17
    for figure in figures:
        assert figure["marks"] >= 2, figure
        assert figure["width"] > 200, figure
        assert len(figure["label"]) > 40, figure


def test_the_tables_hold_the_csvs_numbers(browser: Any, run: Path) -> None:
    csv = pd.read_csv(run / "leaderboard.csv")
    ranked = csv[csv["rank"].notna()]
    trials = pd.read_csv(run / "benchmark_results.csv")
    with opened(browser, run) as found:
        for title, name in (
            ("val mean_f1", "val_mean_f1"),
            ("test mean_f1", "test_mean_f1"),
            ("age F1", "test_age_f1m"),
        ):
            shown = [float(cell) for cell in found.column("ranked", title)]
            assert shown == pytest.approx(ranked[name].tolist(), abs=1e-9)
        assert found.column("all", "trial") == trials["trial_id"].tolist()
        shown = [float(cell) for cell in found.column("all", "val mean_f1")]
        assert shown == pytest.approx(trials["val_best_score"].tolist(), abs=1e-9)


def test_sorting_works_by_mouse_and_by_keyboard(browser: Any, run: Path) -> None:
    with opened(browser, run) as found:
        button = found.page.locator("#all thead th button", has_text="test mean_f1")
        button.click()
        values = [float(cell) for cell in found.column("all", "test mean_f1")]
        assert values == sorted(values, reverse=True) and len(set(values)) > 10
        assert button.locator("xpath=..").get_attribute("aria-sort") == "descending"
        button.focus()
        found.page.keyboard.press("Enter")
        assert [float(cell) for cell in found.column("all", "test mean_f1")] == sorted(values)
        assert button.locator("xpath=..").get_attribute("aria-sort") == "ascending"
        found.page.locator("#all thead th button", has_text="status").click()
        statuses = found.column("all", "status")
        assert statuses == sorted(statuses) and len(set(statuses)) > 1
        assert found.page.locator("#all thead th[aria-sort]").count() == 1
        assert found.console == []


def test_empty_cells_stay_last_whichever_way_a_column_is_sorted(browser: Any, tmp_path: Path) -> None:
    shape = Shape(spaces={"resnet50": (1e-4, 3e-4)}, seeds=(1, 2), **QUICK, ends={0: "planned", 2: "failed"})
    folder = make_run(tmp_path / "run", shape)
    write_report(open_folder(folder))
    with opened(browser, folder) as found:
        for _ in range(2):
            found.page.locator("#all thead th button", has_text="val mean_f1").click()
            cells = found.column("all", "val mean_f1")
            assert cells[2:] == ["", ""] and all(cells[:2])


def test_trial_links_lead_to_their_folders(browser: Any, run: Path) -> None:
    with opened(browser, run) as found:
        links = found.page.eval_on_selector_all("a[href^='trials/']", "links => links.map((link) => link.href)")
        folders = {link for link in links if link.endswith("/")}
        assert folders == {
            f"{(run / 'trials' / t).as_uri()}/" for t in pd.read_csv(run / "benchmark_results.csv")["trial_id"]
        }
        found.page.locator("#all tbody a").first.click()
        found.page.wait_for_url("**/trials/**")
        assert "report.json" in found.page.content()


@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_a_phone_needs_no_sideways_scrolling(browser: Any, run: Path, dark: bool) -> None:
    with opened(browser, run, width=360, dark=dark, touch=True) as found:
        for _ in range(2):
            assert found.page.evaluate("document.documentElement.scrollWidth") == 360
            found.page.evaluate("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
        tables = found.page.evaluate(
            "[...document.querySelectorAll('.scroll')].map((box) => [box.scrollWidth > box.clientWidth, box.tabIndex])"
        )
        assert any(wider for wider, _ in tables) and all(index == 0 for _, index in tables)
        widths = found.page.evaluate(
            "[...document.querySelectorAll('[data-figure] svg.main-svg')].map((n) => n.getBoundingClientRect().right)"
        )
        assert widths and max(widths) <= 360
        # Tick labels beside each other, not over each other: [figure, right end of one, left end of the next].
        overlaps = found.page.evaluate(
            """[...document.querySelectorAll("[data-figure]")].flatMap((node) => {
                const boxes = [...node.querySelectorAll(".xtick text")].map((text) => text.getBoundingClientRect());
                boxes.sort((a, b) => a.left - b.left);
                return boxes.slice(1).map((box, i) => [node.dataset.figure, boxes[i].right, box.left]);
            }).filter(([, right, left]) => right > left)"""
        )
        assert overlaps == []
        assert found.console == []


def test_figures_take_the_colors_of_the_theme_and_follow_a_change(browser: Any, run: Path) -> None:
    color = "getComputedStyle(document.querySelector('[data-figure=scores] .ytick text')).fill"

    def rgb(text: str) -> str:
        return f"rgb({', '.join(str(int(text[i : i + 2], 16)) for i in (1, 3, 5))})"

    with opened(browser, run, dark=True) as found:
        assert found.page.evaluate(color) == rgb(DARK[TEXT])
        found.page.emulate_media(color_scheme="light")
        found.page.wait_for_timeout(1500)
        assert found.page.evaluate(color) == rgb(TEXT)


def test_it_prints_in_light_colors_with_every_section_open(browser: Any, run: Path) -> None:
    with opened(browser, run, dark=True) as found:
        pdf = found.page.pdf(format="A4")
        assert pdf.startswith(b"%PDF") and len(pdf) > 50_000
        found.page.emulate_media(media="print")
        found.page.evaluate("dispatchEvent(new Event('beforeprint'))")
        assert found.page.locator("details:not([open])").count() == 0
        assert found.page.evaluate("getComputedStyle(document.body).backgroundColor") == "rgb(255, 255, 255)"
        found.page.evaluate("dispatchEvent(new Event('afterprint'))")
        assert found.page.locator("details:not([open])").count() > 0
        assert found.console == []


def test_the_keyboard_reaches_links_tables_and_sections(browser: Any, run: Path) -> None:
    with opened(browser, run) as found:
        found.page.keyboard.press("Tab")
        assert found.page.evaluate("document.activeElement.className") == "skip"
        found.page.keyboard.press("Enter")
        assert found.page.evaluate("location.hash") == "#leaderboard"
        reached = set()
        for _ in range(60):
            found.page.keyboard.press("Tab")
            reached.add(found.page.evaluate("document.activeElement.tagName"))
        assert {"A", "BUTTON", "DIV"} <= reached
        names = found.page.evaluate(
            "[...document.querySelectorAll('[tabindex]')].map((n) => n.getAttribute('aria-label'))"
        )
        assert names and all(names)


def axe_told(page: Any) -> dict[str, list[Any]]:
    """What axe-core says of a page: WCAG 2.2 A and AA, and what it calls best practice."""
    package = pytest.importorskip("axe_playwright_python", reason="axe-playwright-python is not installed")
    # axe judges the contrast of what can be seen, and not in front of the shadow at the edge of a table.
    page.add_style_tag(content=".scroll { background: none !important; max-height: none !important }")
    page.evaluate("document.querySelectorAll('details').forEach((item) => { item.open = true; })")
    page.evaluate((Path(package.__file__).parent / "axe.min.js").read_text(encoding="utf-8"))
    return page.evaluate(
        """async (tags) => {
            // What is drawn within a figure stands behind its label; test_plots.py judges its colors.
            const { violations, incomplete, passes } = await axe.run(
                { exclude: ["[data-figure] svg"] }, { runOnly: tags });
            const nodes = (rule) => rule.nodes.map((node) => [rule.id, node.target.join(" "), node.html.slice(0, 120)]);
            return {
                problems: [...violations, ...incomplete].flatMap(nodes),
                passes: passes.map((rule) => rule.id),
            };
        }""",
        ["wcag2a", "wcag2aa", "wcag21a", "wcag21aa", "wcag22aa", "best-practice"],
    )


@pytest.mark.slow
@pytest.mark.parametrize("dark", [False, True], ids=["light", "dark"])
def test_axe_finds_nothing_that_keeps_a_person_out(browser: Any, run: Path, dark: bool) -> None:
    with opened(browser, run, dark=dark) as found:
        told = axe_told(found.page)
        assert told["problems"] == []
        assert {"color-contrast", "role-img-alt", "th-has-data-cells", "target-size"} <= set(told["passes"])
        _, name = write_comparison(open_folder(run), open_folder(run))
        found.page.goto((run / name).as_uri())
        assert axe_told(found.page)["problems"] == []


@pytest.mark.parametrize(("name", "table"), [("LaTeX", latex_table), ("Markdown", markdown_table)])
def test_the_leaderboard_is_copied_by_a_click(browser: Any, run: Path, name: str, table: Any) -> None:
    with opened(browser, run) as found:
        found.page.get_by_role("button", name=f"Copy as {name}").click()
        found.page.locator(".copies [role=status]", has_text="Copied.").wait_for()
        # Pasted, as a person would: reading the clipboard needs a permission that writing does not.
        found.page.evaluate("document.body.prepend(document.createElement('textarea'))")
        found.page.locator("body > textarea").focus()
        found.page.keyboard.press("Control+V")
        assert found.page.locator("body > textarea").input_value() == table(build_board(read_run(open_folder(run))))
        assert found.console == []


def test_a_browser_without_a_clipboard_shows_the_text(browser: Any, run: Path) -> None:
    with opened(browser, run) as found:
        found.page.evaluate("void (navigator.clipboard.writeText = () => Promise.reject(new Error('no')))")
        found.page.get_by_role("button", name="Copy as LaTeX").click()
        shown = found.page.get_by_role("textbox", name="Copy as LaTeX")
        assert "\\toprule" in shown.input_value()
        assert shown.evaluate("(area) => area.selectionEnd") == len(shown.input_value())


def test_nothing_of_a_hostile_run_folder_runs(browser: Any, tmp_path: Path) -> None:
    shape = Shape(spaces={"resnet50": (1e-4, 3e-4), "vit_b_16": (3e-5,)}, seeds=(1, 2), **QUICK, ends={0: "failed"})
    folder = make_run(tmp_path / 'a "><img src=x onerror=window.hacked=9>', shape)
    poison(folder)
    write_report(open_folder(folder))
    with opened(browser, folder) as found:
        assert found.page.evaluate("window.hacked") is None
        assert found.page.locator("img, iframe, object, embed, form").count() == 0
        assert found.page.locator("[data-figure] a").count() == 0
        hrefs = found.page.eval_on_selector_all("a", "links => links.map((link) => link.getAttribute('href'))")
        assert hrefs and all(
            href.startswith(("#", "trials/", "model_card_", "leaderboard", "benchmark", "suspect_labels"))
            for href in hrefs
        )
        assert HOSTILE in found.page.inner_text("main")
        assert found.console == [] and len(found.requests) == 1


def test_the_policy_stops_what_would_slip_through(browser: Any, run: Path, tmp_path: Path) -> None:
    text = (run / "report.html").read_text(encoding="utf-8")
    slipped = "<script>window.hacked=1</script><img src=x onerror='window.hacked=2'>"
    (tmp_path / "report.html").write_text(text.replace("<main>", f"<main>{slipped}"), encoding="utf-8")
    with opened(browser, tmp_path) as found:
        assert found.page.evaluate("window.hacked") is None
        assert any("Content Security Policy" in line for line in found.console)

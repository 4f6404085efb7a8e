"""`python -m sweep.report`: page and cards hold the files' numbers, survive any folder and run nothing of it."""

from __future__ import annotations

import base64
import hashlib
import html
import io
import json
import random
import re
import shutil
import subprocess
import sys
import time
from html.parser import HTMLParser
from pathlib import Path
from typing import Any

import pandas as pd
import pytest
from pyarrow import fs as filesystem

from fairface_core.errors import FairfaceError
from fairface_core.files.folder import open_folder
from sweep.page.templating import escape_markdown
from sweep.page.write import write_report
from sweep.report import main
from tests.sweep.results.test_benchmark import completed_trial, edit_json, recomputed, trial_folders
from tests.sweep.run_folders import Shape, add_seeds, make_run

PROJECT = Path(__file__).resolve().parents[2]
QUICK = {"epochs": 4, "num_val": 90, "num_test": 90, "asha": False}
HOSTILE = (
    '"><script>window.hacked=1</script><img src=x onerror="window.hacked=2"><a href="javascript:window.hacked=3">x</a>'
)


class Page(HTMLParser):
    """Tables by id, links, and what could run or load something."""

    def __init__(self, text: str) -> None:
        super().__init__(convert_charrefs=True)
        self.tables: dict[str, list[list[tuple[str, str]]]] = {}
        self.links: list[str] = []
        self.scripts: list[tuple[dict[str, str | None], str]] = []
        self.attributes: set[str] = set()
        self.tags: set[str] = set()
        self.labels: dict[str, str] = {}
        self._table = self._script = ""
        self._cell: list[str] | None = None
        self._value = ""
        self.feed(text)

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        values = dict(attrs)
        self.tags.add(tag)
        self.attributes |= set(values)
        if tag == "table":
            self._table = values.get("id") or ""
            self.tables.setdefault(self._table, [])
        elif tag == "tr" and self._table:
            self.tables[self._table].append([])
        elif tag in ("td", "th") and self._table:
            self._cell, self._value = [], values.get("data-value") or ""
        elif tag == "a":
            self.links.append(values.get("href") or "")
        elif tag == "script":
            self.scripts.append((values, ""))
            self._script = "open"
        if "data-figure" in values:
            self.labels[values["data-figure"] or ""] = values.get("aria-label") or ""

    def handle_endtag(self, tag: str) -> None:
        if tag in ("td", "th") and self._cell is not None:
            self.tables[self._table][-1].append((" ".join("".join(self._cell).split()), self._value))
            self._cell = None
        elif tag == "table":
            self._table = ""
        elif tag == "script":
            self._script = ""

    def handle_data(self, data: str) -> None:
        if self._script:
            attrs, text = self.scripts[-1]
            self.scripts[-1] = (attrs, text + data)
        elif self._cell is not None:
            self._cell.append(data)


def page_of(run: Path) -> tuple[str, Page]:
    write_report(open_folder(run))
    text = (run / "report.html").read_text(encoding="utf-8")
    return text, Page(text)


def columns(table: list[list[tuple[str, str]]], title: str) -> list[tuple[str, str]]:
    at = next(i for i, (text, _) in enumerate(table[0]) if text == title)
    return [row[at] for row in table[1:]]


@pytest.fixture(scope="module")
def page(drawn_run: Path) -> tuple[Path, str, Page]:
    text, parsed = page_of(drawn_run)
    return drawn_run, text, parsed


def test_the_leaderboard_holds_the_csvs_numbers(page: tuple[Path, str, Page]) -> None:
    run, _, parsed = page
    csv = pd.read_csv(run / "leaderboard.csv")
    ranked = csv[csv["rank"].notna()]
    table = parsed.tables["ranked"]
    assert len(table) - 1 == len(ranked) >= 4
    for title, name in (("val mean_f1", "val_mean_f1"), ("test mean_f1", "test_mean_f1"), ("age F1", "test_age_f1m"),
                        ("gender F1", "test_gen_f1m"), ("lr", "lr")):  # fmt: skip
        found = [float(value) for _, value in columns(table, title)]
        assert found == pytest.approx(ranked[name].tolist(), abs=1e-9), title
    for title, name in (("95 %, optimistic", "val_mean_f1_optimistic"), ("95 % interval", "test_mean_f1")):
        shown = [text for text, _ in columns(table, title)]
        ends = zip(ranked[f"{name}_low"], ranked[f"{name}_high"], strict=True)
        assert shown == [f"{low:.3f} to {high:.3f}" for low, high in ends]
    shown = [text for text, _ in columns(table, "test mean_f1")]
    assert shown == [
        f"{m:.3f} ± {s:.3f}" for m, s in zip(ranked["test_mean_f1"], ranked["test_mean_f1_sd"], strict=True)
    ]
    notes = [text for text, _ in columns(parsed.tables["unranked"], "why")]
    assert notes == csv[csv["rank"].isna()]["note"].tolist()


def test_every_trial_is_listed_with_its_numbers_and_a_relative_link(page: tuple[Path, str, Page]) -> None:
    run, _, parsed = page
    rows = parsed.tables["all"]
    assert [row[0][0] for row in rows[1:]] == [trial.name for trial in trial_folders(run)]
    for trial, (_, val), (_, test) in zip(
        trial_folders(run), columns(rows, "val mean_f1"), columns(rows, "test mean_f1"), strict=True
    ):
        assert float(val) == pytest.approx(recomputed(trial, "val")["mean_f1"], abs=1e-9)
        assert float(test) == pytest.approx(recomputed(trial, "test")["mean_f1"], abs=1e-9)
        assert f"trials/{trial.name}/" in parsed.links
    for link in parsed.links:
        assert not re.match(r"[a-z]+:|/", link), link
        assert link.startswith("#") or (run / link).exists(), link


def test_confusion_matrices_hold_the_files_counts(page: tuple[Path, str, Page]) -> None:
    run, text, _ = page
    first = text.index('data-matrix="age"')
    counts = [int(n) for n in re.findall(r'data-count="(\d+)"', text[first : text.index("</table>", first)])]
    config = pd.read_csv(run / "leaderboard.csv").iloc[0]["config_id"]
    table = pd.read_csv(run / "benchmark_results.csv")
    best = table[table["config_id"] == config].sort_values("val_best_score").iloc[-1]["trial_id"]
    rows = pd.read_parquet(run / "trials" / best / "predictions.parquet").query("split == 'test'")
    expected = pd.crosstab(rows["age_true"], rows["age_pred"]).reindex(index=range(9), columns=range(9), fill_value=0)
    assert counts == expected.to_numpy().ravel().tolist()


def test_the_page_asks_nothing_of_the_network_and_runs_only_its_own_scripts(page: tuple[Path, str, Page]) -> None:
    _, text, parsed = page
    policy = html.unescape(re.search(r'Content-Security-Policy" content="([^"]+)"', text)[1])  # type: ignore[index]
    assert "default-src 'none'" in policy and "unsafe-eval" not in policy
    assert "unsafe-inline" not in policy.partition("script-src")[2].partition(";")[0]
    running = [source for attrs, source in parsed.scripts if attrs.get("type") != "application/json"]
    hashes = ["'sha256-" + base64.b64encode(hashlib.sha256(s.encode()).digest()).decode() + "'" for s in running]
    assert re.findall(r"'sha256-[^']+'", policy) == hashes and len(hashes) == 2
    assert not {"src", "srcset", "action", "onload", "onerror", "onclick"} & parsed.attributes
    assert not {"img", "iframe", "object", "embed", "form", "base"} & parsed.tags
    assert "@import" not in text and "url(" not in text.partition("<style>")[2].partition("</style>")[0]


def test_every_figure_has_words_and_every_section_is_linked(page: tuple[Path, str, Page]) -> None:
    _, text, parsed = page
    figures = json.loads(next(source for attrs, source in parsed.scripts if attrs.get("id") == "figures"))
    assert set(parsed.labels) == set(figures) and len(figures) == 17
    assert all(len(label) > 40 for label in parsed.labels.values())
    anchors = [link[1:] for link in parsed.links if link.startswith("#")]
    assert len(set(anchors)) >= 11
    assert all(f'id="{anchor}"' in text for anchor in anchors)


def test_the_space_the_protocol_and_the_provenance_are_there(page: tuple[Path, str, Page]) -> None:
    run, text, _ = page
    plain = html.unescape(text)
    assert (run / "space.yaml").read_text().strip() in plain
    for words in (
        "chosen on validation alone",
        "rungs at epochs 3 and 9",
        "0f1e2d3c4b5a",
        "drawn GPU",
        "Holm-corrected",
    ):
        assert words in plain, words


def test_rebuilding_gives_the_same_bytes(drawn_copy: Path) -> None:
    write_report(open_folder(drawn_copy))
    names = ["report.html", "leaderboard.csv", "benchmark_results.csv", "model_card_resnet50.md"]
    first = [(drawn_copy / name).read_bytes() for name in names]
    for name in names:
        (drawn_copy / name).unlink()
    write_report(open_folder(drawn_copy))
    assert [(drawn_copy / name).read_bytes() for name in names] == first


def test_a_model_card_holds_data_metrics_audit_and_use(page: tuple[Path, str, Page]) -> None:
    run, _, parsed = page
    csv = pd.read_csv(run / "leaderboard.csv").iloc[0]
    name = f"model_card_{csv['group']}.md"
    card = (run / name).read_text()
    assert name in parsed.links
    for words in ("## Intended use", "## Out of scope", "## Data and protocol", "## Scores on the test images",
                  "## For whom it fails", "## How it compares", "### By race", "Identifying people"):  # fmt: skip
        assert words in card, words
    row = next(line for line in card.splitlines() if line.startswith("| `mean_f1` |"))
    cells = [cell.strip() for cell in row.strip("|").split("|")]
    assert cells[2] == f"{csv['test_mean_f1']:.3f}"
    assert cells[3] == f"{csv['test_mean_f1_low']:.3f} to {csv['test_mean_f1_high']:.3f}"
    trial = re.search(r"\(trials/([^)]+)/\)", card)[1]  # type: ignore[index]
    assert cells[1] == f"{recomputed(run / 'trials' / trial, 'test')['mean_f1']:.3f}"
    assert "None" not in card and "{{" not in card


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("a|b\n# <b>[x](javascript:1)`", r"a\|b # \<b\>\[x\](javascript:1)\`"),
        ("# title", r"\# title"),
        ("- item", r"\- item"),
        ("*bold* _slanted_ snake_case", r"\*bold\* \_slanted\_ snake_case"),
        ("&lt;script&gt; \\", r"\&lt;script\&gt; \\"),
    ],
)
def test_markdown_of_a_run_folder_is_shown_as_it_is(text: str, shown: str) -> None:
    assert escape_markdown(text) == shown


def poison(run: Path) -> None:
    """Put hostile text wherever a run folder can hold text."""
    plan = json.loads((run / "plan.json").read_text())
    for trial in plan["trials"]:
        trial["group"] = f"{HOSTILE} {trial['group']}"
        trial["config"][HOSTILE] = trial["config"]["lr"]
        trial["config"]["words"] = f"{HOSTILE} {trial['config']['lr']}"
    plan["notes"] = [HOSTILE]
    (run / "plan.json").write_text(json.dumps(plan))
    (run / "space.yaml").write_text(f"# {HOSTILE}\n</code></pre>{HOSTILE}\n{{{{ 7 * 7 }}}}\n")
    (run / "sweep.json").write_text(json.dumps({HOSTILE: HOSTILE, "sessions": [{HOSTILE: [HOSTILE]}]}))
    for trial in trial_folders(run):
        edit_json(trial / "status.json", lambda s: s.update(reason=HOSTILE, detail={HOSTILE: HOSTILE}))
        if (trial / "report.json").exists():
            edit_json(trial / "report.json", _poison_report)


def _poison_report(report: dict[str, Any]) -> None:
    for rows in report["subgroups"]["by"].values():
        rows[0]["group"] = HOSTILE
    for axis in report["subgroups"]["largest_gap"].values():
        for gap in filter(None, axis.values()):
            gap["worst"] = gap["best"] = HOSTILE
    report["age_per_class"][0]["label"] = HOSTILE
    report["data"][HOSTILE] = {HOSTILE: HOSTILE}
    report["provenance"].update({"device": HOSTILE, "device_name": HOSTILE, HOSTILE: HOSTILE})
    report["protocol"] = HOSTILE
    report["model"][HOSTILE] = HOSTILE


@pytest.fixture(scope="module")
def poisoned(tmp_path_factory: pytest.TempPathFactory) -> Path:
    spaces = {"resnet50": (1e-4, 3e-4), "vit_b_16": (3e-5,)}
    shape = Shape(spaces=spaces, seeds=(1, 2), **QUICK, ends={0: "failed"})
    run = make_run(tmp_path_factory.mktemp("hostile") / "run", shape)
    poison(run)
    return run


def test_hostile_text_stays_text(poisoned: Path) -> None:
    text, parsed = page_of(poisoned)
    assert "<img" not in text.partition("<script>")[0]
    assert not {"img", "iframe"} & parsed.tags and "onerror" not in parsed.attributes
    assert len(parsed.scripts) == 4
    assert not [link for link in parsed.links if "script" in link and ":" in link]
    assert "{{ 7 * 7 }}" in text and "49" not in html.unescape(text).partition("</code></pre>")[2][:200]
    figures = next(source for attrs, source in parsed.scripts if attrs.get("id") == "figures")
    assert "<" not in figures and "&" not in figures
    assert "window.hacked=1" in html.unescape(text)
    cards = [path for path in poisoned.iterdir() if path.suffix == ".md"]
    assert len(cards) == 2
    for card in cards:
        assert re.search(r"(?<!\\)<(script|img|a )", card.read_text()) is None


# What no writer writes, and what a disk, a person or another program may leave.
NASTY: list[Any] = [
    None, True, 0, -1, 2.5, 1e308, float("nan"), float("inf"), 10**40, "", "x", "<b>", "\u202e\x00", "9" * 5000, [], {},
    [1], [None], [{}], {"a": {"b": {"c": {"d": {}}}}}, "\ud800",
]  # fmt: skip


def paths_in(value: Any, path: tuple[Any, ...] = ()) -> list[tuple[Any, ...]]:
    items = value.items() if isinstance(value, dict) else enumerate(value[:12]) if isinstance(value, list) else ()
    return [path] + [inner for key, item in items for inner in paths_in(item, (*path, key))]


def replaced(value: Any, path: tuple[Any, ...], new: Any) -> Any:
    if not path:
        return new
    inner = value
    for key in path[:-1]:
        inner = inner[key]
    inner[path[-1]] = new
    return value


def test_half_a_surrogate_pair_does_not_stop_the_page(tmp_path: Path) -> None:
    shape = Shape(spaces={"resnet50": (3e-4,), "vit_b_16": (3e-5,)}, seeds=(1, 2), **QUICK)
    run = make_run(tmp_path / "run", shape)
    edit_json(run / "sweep.json", lambda sweep: sweep.update({"\ud800": "odd\ud800"}))
    edit_json(
        run / "plan.json", lambda p: [t["config"].update(words=f"odd\ud800{t['config']['seed']}") for t in p["trials"]]
    )
    write_report(open_folder(run))
    for name in ("report.html", "leaderboard.csv", "benchmark_results.csv", "model_card_vit_b_16.md"):
        assert "odd" in (run / name).read_text(encoding="utf-8"), name


def test_any_value_anywhere_gives_a_page_or_a_named_error(tmp_path: Path) -> None:
    spaces = {"resnet50": (1e-4, 3e-4), "vit_b_16": (3e-5,)}
    shape = Shape(spaces=spaces, seeds=(1, 2), **QUICK, ends={0: "failed", 1: "running"})
    source = make_run(tmp_path / "source", shape)
    rng, outcomes = random.Random(6), []
    for _ in range(40):
        run = tmp_path / "run"
        shutil.rmtree(run, ignore_errors=True)
        shutil.copytree(source, run)
        files = [
            run / "plan.json",
            run / "sweep.json",
            *(run.glob("trials/*/report.json")),
            *(run.glob("trials/*/status.json")),
        ]
        path = rng.choice(files)
        value = json.loads(path.read_text())
        where, new = rng.choice(paths_in(value)), rng.choice(NASTY)
        path.write_text(json.dumps(replaced(value, where, new)))
        try:
            write_report(open_folder(run))
        except FairfaceError as error:
            assert path.name == "plan.json" and all("plan.json" in line for line in error.problems), (where, new)
            outcomes.append("refused")
        else:
            assert (run / "report.html").stat().st_size > 1_000_000
            outcomes.append("written")
    assert outcomes.count("written") >= 30


@pytest.mark.parametrize(
    "name", ["report.json", "predictions.parquet", "confusion_matrix_age.csv", "history.csv", "status.json"]
)
def test_a_damaged_file_is_named_on_the_page(tmp_path: Path, name: str) -> None:
    run = make_run(tmp_path / "run", Shape(spaces={"resnet50": (3e-4,)}, seeds=(1,), **QUICK))
    trial = completed_trial(run)
    (trial / name).write_bytes(b"\x00\xff{")
    _, parsed = page_of(run)
    (row,) = parsed.tables["damages"][1:]
    assert row[0][0] == trial.name and row[1][0].startswith(f"{name}: ")


@pytest.mark.parametrize("end", ["planned", "running", "failed", "diverged", "skipped"])
def test_a_run_without_a_finished_trial_has_a_page(tmp_path: Path, end: str) -> None:
    ends = dict.fromkeys(range(4), end)
    run = make_run(tmp_path / "run", Shape(spaces={"resnet50": (1e-4, 3e-4)}, seeds=(1, 2), **QUICK, ends=ends))
    text, parsed = page_of(run)
    assert "No answer yet" in text and "ranked" not in parsed.tables
    assert len(parsed.tables["all"]) == 5 and len(parsed.tables["unranked"]) == 3
    if end in ("failed", "diverged"):
        assert {row[1][0] for row in parsed.tables["losses"][1:]} == {end}
        assert all(row[4][0] not in ("", "no reason given") for row in parsed.tables["losses"][1:])
    if end in ("planned", "running"):
        assert "4 of 4 trials are still to end" in text
    assert not list(run.glob("model_card_*"))


def test_without_a_race_column_the_audit_is_by_gender_and_age(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Shape(spaces={"resnet50": (3e-4,)}, seeds=(1, 2), **QUICK, race=False))
    text, parsed = page_of(run)
    assert 'id="audit"' in text
    assert {key for key in parsed.labels if key.startswith("audit-")} == {"audit-age-age_acc", "audit-age-gen_acc"}
    assert "By race" not in text and "By gender" in text


def test_speeds_of_different_devices_come_with_a_warning(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Shape(spaces={"resnet50": (3e-4,)}, seeds=(1, 2), **QUICK))
    assert "different devices" not in page_of(run)[0]
    edit_json(completed_trial(run) / "report.json", lambda r: r["provenance"].update(device_name="another GPU"))
    text = page_of(run)[0]
    assert "Trials ran on different devices" in text
    assert "another GPU (1 trial)" in html.unescape(text)


def test_a_card_does_not_outlive_the_rank_of_its_group(tmp_path: Path) -> None:
    spaces = {"resnet50": (3e-4,), "vit_b_16": (3e-5,)}
    run = make_run(tmp_path / "run", Shape(spaces=spaces, seeds=(1,), **QUICK))
    write_report(open_folder(run))
    assert {path.name for path in run.glob("*.md")} == {"model_card_resnet50.md", "model_card_vit_b_16.md"}
    (trial_folders(run)[0] / "report.json").write_text("{")
    write_report(open_folder(run))
    assert {path.name for path in run.glob("*.md")} == {"model_card_vit_b_16.md"}


def test_a_report_without_optional_parts_still_has_a_page(tmp_path: Path) -> None:
    run = make_run(tmp_path / "run", Shape(spaces={"resnet50": (3e-4,), "vit_b_16": (3e-5,)}, seeds=(1, 2), **QUICK))
    for trial in trial_folders(run):
        edit_json(
            trial / "report.json",
            lambda r: [
                r.pop(k)
                for k in ("subgroups", "calibration", "age_error", "both_acc", "age_per_class", "gender_per_class")
            ],
        )
        (trial / "confusion_matrix_gender.csv").unlink()
    text, parsed = page_of(run)
    assert 'id="audit"' not in text and "calibration-age" not in parsed.labels
    assert len(parsed.tables["ranked"]) == 3
    assert len(parsed.tables["damages"]) == 3


def test_five_hundred_trials_make_a_page_under_15_mb_in_30_s(tmp_path: Path) -> None:
    shape = Shape(seeds=(1,), epochs=20, num_val=400, num_test=300)
    run = make_run(tmp_path / "run", shape)
    add_seeds(run, 500)
    began = time.perf_counter()
    _, parsed = page_of(run)
    seconds = time.perf_counter() - began
    assert len(parsed.tables["all"]) == 501
    assert (run / "report.html").stat().st_size < 15e6
    assert seconds < 30


@pytest.mark.filterwarnings("ignore::DeprecationWarning")
def test_a_run_in_an_object_store_is_reported_there(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    server_module = pytest.importorskip("moto.server", reason="moto is not installed")
    local = make_run(tmp_path / "run", Shape(spaces={"resnet50": (3e-4,), "vit_b_16": (3e-5,)}, seeds=(1, 2), **QUICK))
    server = server_module.ThreadedMotoServer(ip_address="127.0.0.1", port=0, verbose=False)
    server.start()
    try:
        for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY", "AWS_EC2_METADATA_DISABLED"):
            monkeypatch.setenv(name, "true")
        host, port = server.get_host_and_port()
        options = f"scheme=http&endpoint_override={host}:{port}&region=us-east-1&allow_bucket_creation=true"
        run = open_folder(f"s3://faces/runs/run?{options}")
        filesystem.FileSystem.from_uri(f"s3://faces?{options}")[0].create_dir("faces")
        for path in local.rglob("*"):
            if path.is_file():
                *folders, name = path.relative_to(local).parts
                (run.sub(*folders) if folders else run).write(name, path.read_bytes())
        write_report(run)
        assert Page(run.read("report.html").decode()).tables["ranked"] == page_of(local)[1].tables["ranked"]
        assert run.read("leaderboard.csv") == (local / "leaderboard.csv").read_bytes()
        out_dir = pd.read_csv(io.BytesIO(run.read("benchmark_results.csv")))["out_dir"]
        assert out_dir.tolist() == [f"s3://faces/runs/run/trials/{trial.name}" for trial in trial_folders(local)]
    finally:
        server.stop()


def run_report(*arguments: str) -> subprocess.CompletedProcess[str]:
    return subprocess.run(
        [sys.executable, "-m", "sweep.report", *arguments], capture_output=True, text=True, cwd=PROJECT, check=False
    )


def test_the_command_prints_the_verdict_and_where_everything_lies(
    drawn_copy: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main([str(drawn_copy)]) == 0
    out = capsys.readouterr().out
    assert "mean_f1" in out.splitlines()[0]
    assert out.splitlines()[-3:] == [
        str(drawn_copy / n) for n in ("report.html", "leaderboard.csv", "benchmark_results.csv")
    ]


@pytest.mark.parametrize("make", [lambda p: None, lambda p: p.mkdir(), lambda p: p.write_text("x")])
def test_a_folder_that_is_no_run_is_one_error_line_and_exit_code_2(tmp_path: Path, make: Any) -> None:
    make(tmp_path / "nothing")
    before = sorted(tmp_path.rglob("*"))
    done = run_report(str(tmp_path / "nothing"))
    assert done.returncode == 2
    (line,) = done.stderr.splitlines()
    assert line.startswith("error: ") and "plan.json" in line
    assert sorted(tmp_path.rglob("*")) == before


def test_the_command_loads_neither_ray_nor_torch(drawn_copy: Path) -> None:
    code = (
        "import sys; from sweep.report import main; code = main([sys.argv[1]]); "
        "print(sorted({'ray', 'torch', 'torchvision'} & set(sys.modules))); sys.exit(code)"
    )
    done = subprocess.run(
        [sys.executable, "-c", code, str(drawn_copy)], capture_output=True, text=True, cwd=PROJECT, check=True
    )
    assert done.stdout.splitlines()[-1] == "[]"

"""`evaluate --predictions`: anybody's CSV is scored as a checkpoint is, and what cannot be scored is told."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
import pytest
from sklearn.metrics import accuracy_score, f1_score

from fairface_core import fit, predict
from fairface_core.evaluate import main
from fairface_core.labels import AGE_GROUPS, GENDERS
from tests.fairface_core.small_data import training_config


@pytest.fixture(scope="module")
def trial(demo_root: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("trial") / "run"
    fit(training_config(demo_root, folder, epochs=1, limit_val=None, cache_dir=str(tmp_path_factory.mktemp("cache"))))
    return folder


@pytest.fixture
def answered(demo_root: Path) -> pd.DataFrame:
    """Labels for every val image, three in four right."""
    frame = pd.read_csv(demo_root / "fairface_label_val.csv")
    rng = np.random.default_rng(3)
    age = [label if rng.random() < 0.75 else AGE_GROUPS[rng.integers(9)] for label in frame.age]
    gender = [label if rng.random() < 0.75 else GENDERS[rng.integers(2)] for label in frame.gender]
    return pd.DataFrame({"file": frame.file, "age": age, "gender": gender})


def scored(root: Path, path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> dict[str, Any]:
    assert main(["--predictions", str(path), "--root", str(root), "--json", *more]) == 0, capsys.readouterr().err
    return json.loads(capsys.readouterr().out)


def told(root: Path, path: Path, capsys: pytest.CaptureFixture[str], *more: str) -> str:
    assert main(["--predictions", str(path), "--root", str(root), *more]) == 2
    out, err = capsys.readouterr()
    assert out == ""
    return err


@pytest.mark.parametrize("split", ["test", "val"])
def test_what_predict_wrote_scores_as_its_checkpoint_does(
    demo_root: Path, trial: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], split: str
) -> None:
    out = tmp_path / "answers.csv"
    listing = str(demo_root / "fairface_label_val.csv")
    assert predict.main([listing, "--model", str(trial), "--out", str(out), "--device", "cpu"]) == 0
    capsys.readouterr()
    ours = scored(demo_root, out, capsys, "--split", split, "--batch_size", "16", "--limit_train", "96")
    common = ["--checkpoint", str(trial / "best.pt"), "--root", str(demo_root), "--split", split, "--device", "cpu"]
    assert main([*common, "--json"]) == 0
    theirs = json.loads(capsys.readouterr().out)
    assert ours["num_images"] == theirs["num_images"]
    assert ours[f"{split}_metrics"] == pytest.approx(theirs[f"{split}_metrics"], rel=1e-5)
    for key in ("intervals", "subgroups", "age_per_class", "gender_per_class", "age_error", "both_acc"):
        assert ours[key] == theirs[key], key
    assert ours["calibration"]["age_ece"] == pytest.approx(theirs["calibration"]["age_ece"], abs=1e-5)


def test_labels_alone_are_scored_as_scikit_learn_does(
    demo_root: Path, answered: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "theirs.csv"
    answered.to_csv(path, index=False)
    got = scored(demo_root, path, capsys, "--protocol", "official")
    truth = pd.read_csv(demo_root / "fairface_label_val.csv")
    metrics = got["test_metrics"]
    assert metrics["age_acc"] == pytest.approx(accuracy_score(truth.age, answered.age))
    assert metrics["gen_f1m"] == pytest.approx(f1_score(truth.gender, answered.gender, average="macro"))
    age_f1m = f1_score(truth.age, answered.age, average="macro", labels=AGE_GROUPS, zero_division=0)
    assert metrics["mean_f1"] == pytest.approx((age_f1m + metrics["gen_f1m"]) / 2)
    assert got["num_images"] == 200
    assert "loss" not in metrics
    assert "calibration" not in got
    low, high = got["intervals"]["mean_f1"]
    assert low < metrics["mean_f1"] < high


def test_published_figures_stand_beside_the_official_protocol_alone(
    demo_root: Path, answered: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "theirs.csv"
    answered.to_csv(path, index=False)
    for flags, there in ((["--protocol", "official"], True), (["--protocol", "seed"], False), ([], False),
                         (["--protocol", "official", "--split", "val", "--on_bad_image", "skip"], False)):  # fmt: skip
        if "val" in flags:
            # With the official protocol, validation is carved from train.
            pd.read_csv(demo_root / "fairface_label_train.csv")[["file", "age", "gender"]].to_csv(path, index=False)
        assert main(["--predictions", str(path), "--root", str(demo_root), *flags]) == 0
        out = capsys.readouterr().out
        assert ("published, not run here, on FairFace's 10,954 val images:" in out) is there
        assert ("arXiv:1908.04913" in out) is there


CHANGES: dict[str, Callable[[pd.DataFrame], pd.DataFrame]] = {
    "other names and spellings": lambda f: f.replace({"more than 70": "70+", "3-9": "03/09", "Male": "m"}).rename(
        columns={"file": "img", "age": "Age_Group", "gender": "GENDER"}
    ),
    "longer paths": lambda f: f.assign(file="/elsewhere/faces/" + f.file),
    "other slashes": lambda f: f.assign(file=".\\" + f.file.str.replace("/", "\\")),
    "shuffled, with more columns and images": lambda f: pd.concat(
        [f, f.assign(file="other/" + f.file.str.replace("val", "x"))]
    ).sample(frac=1, random_state=1).assign(race="x"),
    "said twice": lambda f: pd.concat([f, f[:50]]),
    "probabilities by label": lambda f: f[["file"]].join(
        pd.DataFrame({f"age_prob_{k}": (f.age == k) * 0.8 + 0.2 / 9 for k in AGE_GROUPS})
    ).join(pd.DataFrame({f"gender_prob_{k}": (f.gender == k) * 0.8 + 0.1 for k in GENDERS})),
    "probabilities by number": lambda f: f[["file", "gender"]].join(
        pd.DataFrame({f"AGE_PROB_{k}": (f.age == AGE_GROUPS[k]) * 0.8 + 0.2 / 9 for k in range(9)})
    ),
}  # fmt: skip


@pytest.mark.parametrize("name", CHANGES)
def test_the_same_answers_in_other_words_score_the_same(
    demo_root: Path, answered: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str], name: str
) -> None:
    path = tmp_path / "theirs.csv"
    answered.to_csv(path, index=False)
    expected = scored(demo_root, path, capsys)
    CHANGES[name](answered).to_csv(path, index=False)
    got = scored(demo_root, path, capsys)
    got["test_metrics"].pop("loss", None)
    assert got["test_metrics"] == expected["test_metrics"]
    assert got["subgroups"] == expected["subgroups"]
    assert got["rows_about_other_images"] == (360 if "more" in name else 210 if name == "said twice" else 160) - (
        0 if name != "said twice" else int(answered.file[:50].isin(_test_files(demo_root)).sum())
    )


def _test_files(root: Path) -> list[str]:
    from fairface_core.config.train_config import make_config
    from fairface_core.dataset.manifest import load_manifest

    return load_manifest(make_config({"root": str(root)})).test.file.tolist()


def test_what_cannot_be_scored_is_told(
    demo_root: Path, answered: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, test = tmp_path / "theirs.csv", _test_files(demo_root)
    first = int(answered.index[answered.file == test[0]][0])

    def after(frame: pd.DataFrame, *more: str) -> str:
        frame.to_csv(path, index=False)
        return told(demo_root, path, capsys, *more)

    assert "no column age or age_group or agegroup" in after(answered.drop(columns="age"))
    assert "no columns hold the image; accepted: file" in after(answered.rename(columns={"file": "x"}))
    assert f"1 of 40 images have no answer, first '{test[0]}'" in after(answered.drop(index=first))
    assert "none of its 200 rows is about an image of the split" in after(
        answered.assign(file="x" + answered.file), "--on_bad_image", "skip"
    )
    wrong = answered.copy()
    wrong.loc[first, "age"] = "25"
    assert f"line {first + 2}: age '25' is not one of the age labels; accepted: 0-2" in after(wrong)
    wrong.loc[first, "age"] = "0-2"
    twice = pd.concat([wrong, wrong.loc[[first]].assign(age="3-9")])
    assert f"line 202: '{test[0]}' has another answer on line {first + 2}" in after(twice)
    shares = {f"gender_prob_{k}": (answered.gender == k) * 1.0 for k in GENDERS}
    both = answered.assign(**shares)
    both.loc[first, "gender_prob_Male"] = 0.5
    both.loc[first, "gender_prob_Female"] = 0.9
    assert "gender probabilities sum to 1.4 or are negative" in after(both)
    both.loc[first, ["gender_prob_Male", "gender_prob_Female"]] = (
        [1.0, 0.0] if both.gender[first] == "Female" else [0.0, 1.0]
    )
    assert "gender and the largest of its probabilities are two answers" in after(both)
    both["gender_prob_Male"] = both["gender_prob_Male"].astype(object)
    both.loc[first, "gender_prob_Male"] = "x"
    assert "are not all numbers" in after(both)
    assert "no such file" in told(demo_root, tmp_path / "gone.csv", capsys)
    with pytest.raises(SystemExit):
        main(["--root", str(demo_root)])
    assert "one of the arguments --checkpoint --predictions is required" in capsys.readouterr().err


def test_images_without_an_answer_may_be_left_out_and_are_told(
    demo_root: Path, answered: pd.DataFrame, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, test = tmp_path / "theirs.csv", _test_files(demo_root)
    answered.loc[answered.file.isin(test[:3]), ["age", "gender"]] = ""
    answered.to_csv(path, index=False)
    assert "3 of 40 images have no answer" in told(demo_root, path, capsys)
    got = scored(demo_root, path, capsys, "--on_bad_image", "skip")
    assert (got["num_images"], got["unanswered_images"]) == (37, 3)
    assert main(["--predictions", str(path), "--root", str(demo_root), "--on_bad_image", "skip"]) == 0
    assert "without an answer: 3" in capsys.readouterr().out

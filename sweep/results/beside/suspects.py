"""Labels that may be wrong, and the images that a model fails or doubts most: from stored probabilities alone."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np

from fairface_core.labels import AGE_GROUPS, GENDERS
from fairface_core.trial.stored import Stored
from sweep.results.beside.candidates import Candidate
from sweep.results.tables import csv_of, typed_frame

SUSPECTS_CSV = "suspect_labels.csv"
_TASKS = (("age", AGE_GROUPS), ("gender", GENDERS))


@dataclass(frozen=True)
class Image:
    """One image, as a label CSV names it.

    Attributes:
        csv: The label CSV.
        line: Its line there.
        file: Its image cell.
    """

    csv: str
    line: int
    file: str


@dataclass(frozen=True)
class Suspect:
    """One label that the trials speak against.

    Attributes:
        image: The image.
        split: `val` or `test`.
        task: `age` or `gender`.
        label: What the CSV says.
        answer: What the trials say.
        label_prob: Mean probability of the label: of each group's trials, then of the groups.
        answer_prob: The same of the answer.
        num_agree: Trials whose own answer it is.
        num_trials: Trials that were asked.
    """

    image: Image
    split: str
    task: str
    label: str
    answer: str
    label_prob: float
    answer_prob: float
    num_agree: int
    num_trials: int


@dataclass(frozen=True)
class Seen:
    """One image and what a single trial says of it.

    Attributes:
        image: The image.
        label: Age group and gender of the CSV.
        answer: Those of the trial.
        prob: Probability of what it is listed for.
    """

    image: Image
    label: tuple[str, str]
    answer: tuple[str, str]
    prob: float


def find_suspects(candidates: Sequence[Candidate]) -> tuple[Suspect, ...]:
    """Return the labels that most trials, and most groups of them, answer alike and confidently in another way.

    A backbone counts once, however many trials it has. Confident: the answer has at least the mean probability that it
    has on the images that are labelled so. Source of this threshold: C. G. Northcutt, L. Jiang and I. L. Chuang,
    "Confident Learning: Estimating Uncertainty in Dataset Labels", JAIR 70, 2021, equation 2.

    Args:
        candidates: Full-budget trials that were scored on the same images.

    Returns:
        The most doubtful label first: by the probability of the answer less that of the label.
    """
    if not candidates:
        return ()
    found = []
    for task, labels in _TASKS:
        by_group: dict[str, list[np.ndarray]] = {}
        for one in candidates:
            both = np.concatenate([one.val.prob(task), one.test.prob(task)])
            by_group.setdefault(one.record.group, []).append(both)
        of_groups = np.stack([np.mean(members, axis=0) for members in by_group.values()])
        prob = of_groups.mean(axis=0)
        trials = np.stack([member for members in by_group.values() for member in members])
        first = candidates[0]
        truth = np.concatenate([first.val.truth(task), first.test.truth(task)])
        answer = prob.argmax(axis=1)
        agree = (trials.argmax(axis=2) == answer).sum(axis=0)
        groups_agree = (of_groups.argmax(axis=2) == answer).sum(axis=0)
        at = np.arange(len(truth))
        confident = prob[at, answer] >= _self_confidence(prob, truth)[answer]
        most = (2 * agree > len(trials)) & (2 * groups_agree > len(of_groups))
        found += [
            Suspect(
                *_image(first, i), task, labels[truth[i]], labels[answer[i]], float(prob[i, truth[i]]),
                float(prob[i, answer[i]]), int(agree[i]), len(trials),
            )
            for i in np.flatnonzero((answer != truth) & most & confident).tolist()
        ]  # fmt: skip
    return tuple(sorted(found, key=lambda one: (one.label_prob - one.answer_prob, one.image.csv, one.image.line)))


def _self_confidence(prob: np.ndarray, truth: np.ndarray) -> np.ndarray:
    """Return the mean probability of each class on the images labelled so; 2, which nothing reaches, without any."""
    return np.array([prob[truth == k, k].mean() if (truth == k).any() else 2.0 for k in range(prob.shape[1])])


def _image(one: Candidate, position: int) -> tuple[Image, str]:
    split, stored = ("val", one.val) if position < len(one.val.age) else ("test", one.test)
    return image_of(stored, position if split == "val" else position - len(one.val.age)), split


def image_of(stored: Stored, i: int) -> Image:
    """Return the image at a place of a split."""
    return Image(stored.csv[i], int(stored.line[i]), stored.file[i])


def worst_and_doubtful(stored: Stored, most: int) -> tuple[list[Seen], list[Seen]]:
    """Return the images whose label pair a trial thinks least likely, and those whose likeliest pair is least likely.

    Args:
        stored: What it stored of the test images.
        most: Images in each list.
    """
    at = np.arange(len(stored.age))
    of_labels = stored.age_prob[at, stored.age] * stored.gender_prob[at, stored.gender]
    of_answers = stored.age_prob.max(axis=1) * stored.gender_prob.max(axis=1)

    def seen(prob: np.ndarray) -> list[Seen]:
        return [
            Seen(
                image_of(stored, i),
                (AGE_GROUPS[stored.age[i]], GENDERS[stored.gender[i]]),
                (AGE_GROUPS[stored.age_prob[i].argmax()], GENDERS[stored.gender_prob[i].argmax()]),
                float(prob[i]),
            )
            for i in np.argsort(prob, kind="stable")[:most]
        ]

    return seen(of_labels), seen(of_answers)


def suspects_csv(suspects: Sequence[Suspect]) -> bytes:
    """Return the table for whoever looks at the labels again; `checked_label` is theirs to fill."""
    rows: list[dict[str, Any]] = [
        {
            "csv": one.image.csv, "line": one.image.line, "file": one.image.file, "task": one.task,
            "label": one.label, "checked_label": None, "answer": one.answer, "answer_prob": one.answer_prob,
            "label_prob": one.label_prob, "trials_agree": one.num_agree, "trials": one.num_trials, "split": one.split,
        }
        for one in suspects
    ]  # fmt: skip
    names = ["csv", "line", "file", "task", "label", "checked_label", "answer", "answer_prob", "label_prob",
             "trials_agree", "trials", "split"]  # fmt: skip
    return csv_of(typed_frame(rows, names))

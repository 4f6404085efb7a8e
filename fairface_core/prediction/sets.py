"""What a model, or the mean of several, promises of its prediction sets: from what its trial stored of validation."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

from fairface_core.errors import CheckpointError, ConfigError
from fairface_core.files.folder import open_folder
from fairface_core.prediction.models import Member
from fairface_core.scoring.conformal import calibrate_probabilities, least_probabilities, level_name
from fairface_core.scoring.metrics import mean_probabilities
from fairface_core.trial.stored import Stored, read_stored

_ADVICE = "--set needs the validation figures that a trial stores: give a trial folder, or the best.pt in one"


def least_probabilities_of(members: Sequence[Member], level: float) -> tuple[float, float]:
    """Return the least probabilities of age and gender in a prediction set.

    Of one model they stand in its report (or follow from its stored predictions, where an older version wrote it); of
    several they are worked out anew from the mean of their stored validation predictions.

    Args:
        members: The models.
        level: The share of images whose set holds the truth, 0.50 to 0.99 in hundredths.

    Raises:
        ConfigError: If no such level is kept.
        CheckpointError: If a model has no figures, or they are not of the same validation images.
    """
    if level_name(level) is None:
        raise ConfigError(f"--set {level:g}: accepted are 0.50 to 0.99 in hundredths, such as --set 0.9")
    for member in members:
        if member.report.get("refit"):
            raise CheckpointError(
                f"{member.where}: was trained on the validation images too, so nothing is left to calibrate --set on; ask "
                "the trial that it was made from"
            )
        if not member.report:
            raise CheckpointError(f"{member.where}: no report.json of the same epoch beside it; {_ADVICE}")
    conformal = members[0].report.get("conformal") if len(members) == 1 else None
    if conformal is None:
        conformal = _of_stored(members)
    least = least_probabilities(conformal, level) if isinstance(conformal, Mapping) else None
    if least is None:
        raise CheckpointError(f"{members[0].where}: the conformal figures in its report.json are damaged; {_ADVICE}")
    return least


def _of_stored(members: Sequence[Member]) -> Mapping[str, Any]:
    stored = [_read(member) for member in members]
    first = stored[0]
    for member, other in zip(members, stored, strict=True):
        if other.images != first.images:
            raise CheckpointError(
                f"{member.where}: was validated on other images than {members[0].where}; their average has no sets"
            )
    age = mean_probabilities([one.age_prob for one in stored])
    gender = mean_probabilities([one.gender_prob for one in stored])
    return calibrate_probabilities(age, gender, first.age, first.gender)


def _read(member: Member) -> Stored:
    stored = read_stored(open_folder(member.where.absolute().parent), "val")
    if isinstance(stored, str):
        raise CheckpointError(f"{member.where.parent}: {stored}; {_ADVICE}")
    return stored

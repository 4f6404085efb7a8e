"""The sections of a search space that say what runs and what is stopped: its scheduler, and its search."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import BaseModel, ConfigDict, Field, GetPydanticSchema

from fairface_core.config.train_config import tunable_fields
from sweep.space.distributions import BACKBONE, SEED

_GROUPABLE: Any = Literal[tuple(sorted(tunable_fields() - {SEED}))]
_Groupable = GetPydanticSchema(lambda _, handler: handler.generate_schema(_GROUPABLE))
_Seeds = Annotated[int, Field(ge=1)] | Literal["all"]


class Section(BaseModel):
    """A mapping whose keys are all known and whose values are taken as they are typed."""

    model_config = ConfigDict(frozen=True, extra="forbid", strict=True, allow_inf_nan=False)


class SeedsSpec(Section):
    """How many seeds settling may give."""

    up_to: int = Field(ge=2, le=50, description="seeds that each group's best may get, those of the grid included")


class SchedulerSpec(Section):
    """When a trial is stopped early."""

    kind: Literal["asha", "race", "fifo"] = Field(
        default="asha",
        description="asha stops what falls behind; race runs configurations seed by seed; fifo stops nothing",
    )
    group_by: Annotated[str, _Groupable] = Field(default=BACKBONE, description="trials are compared at one value of it")
    grace_epochs: int = Field(default=3, ge=1, description="no trial is stopped before it has trained this many epochs")
    reduction_factor: float = Field(default=3.0, ge=2, le=1000, description="one in this many goes on at each rung")
    explore_seeds: _Seeds = Field(default="all", description="how many seeds, the first of the space, explore")
    confirm: bool | Literal["settle"] = Field(
        default=True,
        description="run each group's best configuration in full for all seeds; settle: seed by seed, until told apart",
    )
    seeds: SeedsSpec | None = Field(default=None, description="with confirm: settle, further seeds for the best ones")


class SearchSpec(Section):
    """Where the values of random keys come from."""

    kind: Literal["random", "tpe"] = Field(
        default="random",
        description="random draws all at once; tpe lets Optuna propose one configuration after another, from what the others scored",
    )
    startup: int = Field(
        default=10, ge=1, description="of tpe: how many configurations, the defaults first, follow from no score"
    )

"""How a field of TrainConfig is declared, and the types that need words of their own."""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import AfterValidator, BeforeValidator, Field

from fairface_core.timm_models import check_optimizer

# YAML reads 0.25 as a number.
Margin = Annotated[
    Literal["0.25", "1.25"],
    BeforeValidator(
        lambda value: str(value) if isinstance(value, float) else value,
        json_schema_input_type=Literal["0.25", "1.25"] | float,
    ),
]
Optimizer = Annotated[Literal["adamw", "sgd", "lamb"], AfterValidator(check_optimizer)]


def field(
    default: Any,
    text: str,
    *,
    tunable: bool = False,
    identity: bool = True,
    data: Literal["where", "which"] | None = None,
    added: bool = False,
    **limits: Any,
) -> Any:
    """Declare a config field.

    Args:
        default: The default value.
        text: Help text, with the unit.
        tunable: Whether a search space may vary it.
        identity: Whether it can change the trained weights. Only such fields enter `digest()`.
        data: Whether it says `where` the data lie, or `which` of the rows are used; None for all other fields. The
            commands that read data take these flags, a space's `data:` these keys; `which` enters the digest of the data.
        added: Whether it came after the first release: it then enters digests only where it is set.
        **limits: pydantic bounds (gt, ge, le, ...).
    """
    extra: dict[str, Any] = {"tunable": tunable, "identity": identity, "data": data, "added": added}
    return Field(default, description=text, json_schema_extra=extra, **limits)

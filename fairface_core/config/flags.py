"""The flags of the commands, made from the fields of TrainConfig."""

from __future__ import annotations

import argparse
import types
import typing
from collections.abc import Sequence
from typing import Any, Literal, Union

from fairface_core.config.train_config import TrainConfig, make_config


def add_flags(parser: argparse.ArgumentParser, *, only: Sequence[str] | None = None) -> None:
    """Add one flag for each field (or for those named in `only`).

    The default of every flag is `argparse.SUPPRESS`, so that the parsed namespace holds just what the user
    typed and the defaults stay in one place.
    """
    for name, field in TrainConfig.model_fields.items():
        if only is not None and name not in only:
            continue
        shown = "" if field.default in (None, "", ()) else f" [{field.default}]"
        text = f"{field.description}{shown}"
        annotation = field.annotation
        if annotation is bool:
            parser.add_argument(f"--{name}", action="store_true", default=argparse.SUPPRESS, help=text)
        elif typing.get_origin(annotation) is tuple:
            parser.add_argument(f"--{name}", action="append", default=argparse.SUPPRESS, help=text, metavar="DIR")
        else:
            choices = typing.get_args(annotation) if typing.get_origin(annotation) is Literal else None
            parser.add_argument(
                f"--{name}",
                default=argparse.SUPPRESS,
                help=text,
                choices=choices,
                metavar=None if choices else _metavar(annotation),
            )


def _metavar(annotation: Any) -> str:
    if typing.get_origin(annotation) in (Union, types.UnionType):
        annotation = next(a for a in typing.get_args(annotation) if a is not type(None))
    return {int: "N", float: "X"}.get(annotation, "TEXT")


def config_from_flags(namespace: argparse.Namespace, *, where: str = "command line") -> TrainConfig:
    """Build a TrainConfig from the flags that `add_flags` made; other attributes are ignored."""
    return make_config({k: v for k, v in vars(namespace).items() if k in TrainConfig.model_fields}, where=where)

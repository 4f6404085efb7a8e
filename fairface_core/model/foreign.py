"""A weights file of any program -> names and tensors: two formats, wrappers, and names of another program."""

from __future__ import annotations

import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import yaml
from torch import Tensor

from fairface_core.console import tell
from fairface_core.errors import WeightsError, one_line, shown
from fairface_core.files.regular import read_regular
from fairface_core.files.tensors import MAX_BYTES, STATE_DICT_KEYS, TensorFileError, read_tensors, unwrap

# What the part of a larger model that we want is called.
_PARTS = ("feature_extractor.", "backbone.")
_MAX_MAP_BYTES = 256 * 1024


def read_weights(path: Path, weights_map: Path | None) -> dict[str, Tensor]:
    """Read a `.safetensors` file, or what torch.save wrote, and take off what wrappers put in front of each name.

    Args:
        path: The file.
        weights_map: Rules for the names that are left; see `renamed`.

    Raises:
        WeightsError: If either file is damaged or holds something else.
    """
    where = f"weights {one_line(str(path))}"
    state = _read_safetensors(path, where) if path.suffix == ".safetensors" else _read_torch(path, where)
    for key in STATE_DICT_KEYS:
        if isinstance(state, Mapping) and isinstance(state.get(key), Mapping):
            state = state[key]
    if not isinstance(state, Mapping) or not all(
        isinstance(key, str) and isinstance(value, Tensor) for key, value in state.items()
    ):
        raise WeightsError(f"{where}: not a state dict of tensors")
    state, wrapped = unwrap(state)
    if wrapped:
        tell(f"note: {where}: each name began with {wrapped[:80]!r}, from a wrapper of the model; read without")
    for part in _PARTS:
        if any(key.startswith(part) for key in state):
            state = {key.removeprefix(part): value for key, value in state.items() if key.startswith(part)}
    return state if weights_map is None else renamed(state, read_map(weights_map), where)


def _read_torch(path: Path, where: str) -> Any:
    try:
        return read_tensors(path, where, old_format=True)
    except TensorFileError as error:
        raise WeightsError(f"{error}; fetch the file again, or name another one") from error


def _read_safetensors(path: Path, where: str) -> dict[str, Tensor]:
    try:
        import safetensors
        from safetensors.torch import load
    except ImportError:
        raise WeightsError(
            f'{where}: the package safetensors is not installed; run: pip install "safetensors"'
        ) from None
    try:
        return load(read_regular(path, limit=MAX_BYTES))
    except OSError as error:
        raise WeightsError(f"{where}: cannot be read ({error.strerror or error})") from error
    except (safetensors.SafetensorError, KeyError, ValueError) as error:
        # KeyError: a number format that this torch has not.
        raise WeightsError(
            f"{where}: not a whole safetensors file ({one_line(str(error))[:160]}); fetch the file again"
        ) from error


def read_map(path: Path) -> dict[re.Pattern[str], str | None]:
    """Read rules for foreign names: a YAML mapping of regular expression to replacement, or to null.

    Raises:
        WeightsError: If it is none.
    """
    where = f"weights_map {one_line(str(path))}"
    try:
        rules = yaml.safe_load(read_regular(path, limit=_MAX_MAP_BYTES))
    except OSError as error:
        raise WeightsError(f"{where}: cannot be read ({error.strerror or error}); accepted: a YAML file") from error
    except (yaml.YAMLError, UnicodeDecodeError) as error:
        raise WeightsError(f"{where}: not valid YAML ({one_line(str(error))[:200]})") from error
    if not isinstance(rules, dict) or not rules:
        raise WeightsError(f"{where}: holds {shown(rules)}; accepted: a mapping of PATTERN: REPLACEMENT")
    compiled: dict[re.Pattern[str], str | None] = {}
    for pattern, replacement in rules.items():
        if not isinstance(pattern, str) or not isinstance(replacement, str | None):
            raise WeightsError(f"{where}: {shown(pattern)}: {shown(replacement)}; accepted: text, or null to leave out")
        try:
            found = re.compile(pattern)
            found.sub(replacement or "", "")
        except (re.error, IndexError) as error:
            raise WeightsError(f"{where}: {shown(pattern)}: {shown(replacement)} is no rule ({error})") from error
        compiled[found] = replacement
    return compiled


def renamed(state: Mapping[str, Tensor], rules: Mapping[re.Pattern[str], str | None], where: str) -> dict[str, Tensor]:
    """Apply each rule, in order, to what the one before it left of each name.

    Args:
        state: Names and tensors.
        rules: The first match of a pattern in a name is replaced; a name that a rule without replacement matches is
            left out, with its tensor.
        where: What to blame.

    Raises:
        WeightsError: If two names become one, or a rule matches nothing.
    """
    result: dict[str, Tensor] = {}
    came: dict[str, str] = {}
    used = set()
    for key, value in state.items():
        name: str | None = key
        for pattern, replacement in rules.items():
            if name is not None and pattern.search(name):
                used.add(pattern)
                name = None if replacement is None else pattern.sub(replacement, name, count=1)
        if name is None:
            continue
        if name in came:
            raise WeightsError(f"{where}: weights_map makes {shown(name)} of both {shown(came[name])} and {shown(key)}")
        came[name], result[name] = key, value
    idle = [pattern.pattern for pattern in rules if pattern not in used]
    if idle:
        raise WeightsError(
            f"{where}: weights_map: {', '.join(map(shown, idle[:3]))} matches no name in it, such as "
            f"{', '.join(map(shown, list(state)[:2]))}; is it the map of another file?"
        )
    return result

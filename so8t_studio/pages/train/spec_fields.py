"""The training specification as a list of fields, read from its own declaration (Qt-free)."""

from __future__ import annotations

import json
from dataclasses import dataclass
from typing import Any

import msgspec
from msgspec import inspect

from so8t_engine.specs import TrainSpec

_TYPES = {
    inspect.BoolType: "bool",
    inspect.IntType: "int",
    inspect.FloatType: "float",
    inspect.StrType: "text",
    inspect.LiteralType: "choice",
    inspect.VarTupleType: "list",
    inspect.TupleType: "list",
}
# Not for people to change.
HIDDEN = frozenset(("version",))
# A part that can be left out as a whole: its help, as a switch.
SWITCHES = {"model.lora": "Train low-rank adapters at all; off: gates and head only."}
UNITS = {
    "data.validation_fraction": "share of the rows",
    "data.max_tokens": "tokens",
    "data.limit": "rows",
    "data.repeat_new": "times",
    "model.adapt_layers": "layers",
    "loss.focal_gamma": "exponent",
    "loss.task_share": "share of the rows",
    "loss.label_smoothing": "probability",
    "loss.pet.boundaries": "share of the run",
    "model.lora.dropout": "probability",
    "optim.epochs": "passes over the data",
    "optim.max_steps": "steps",
    "optim.batch_size": "rows",
    "optim.accumulation": "forward passes",
    "optim.lr_lora": "per step",
    "optim.lr_gates": "radians per step",
    "optim.lr_head": "per step",
    "optim.weight_decay": "per step, times the rate",
    "optim.warmup": "share of the run",
    "schedule.eval_every": "share of the run",
    "schedule.save_every": "share of the run",
    "schedule.keep_checkpoints": "checkpoints",
    "schedule.record_rotations_every": "share of the run",
    "schedule.max_false_refusal_rate": "share",
    "schedule.late_freeze": "share of the run",
    "schedule.collapse_drop": "share",
}


@dataclass(frozen=True)
class Field:
    """One setting.

    Attributes:
        path: dotted name, e.g. ``optim.lr_lora``.
        kind: ``bool``, ``int``, ``float``, ``text``, ``choice``, ``list`` or ``mixed``.
        help: description from the declaration.
        range: allowed values in words, may be empty.
        default: as plain JSON data.
        choices: of a ``choice``.
        unit: in words, may be empty.
    """

    path: str
    kind: str
    help: str
    range: str
    default: Any
    choices: tuple[str, ...] = ()
    unit: str = ""

    @property
    def section(self) -> str:
        """The group in which it is shown."""
        if self.kind == "switch":
            return self.path
        return self.path.rpartition(".")[0] or "run"


def _plain(value: float) -> str:
    return str(int(value)) if float(value).is_integer() else f"{value:g}"


def _range_words(kind: inspect.Type) -> str:
    lower, upper = "", ""
    for name, sign in (("ge", "≥"), ("gt", ">")):
        bound = getattr(kind, name, None)
        if bound is not None:
            lower = f"{sign} {_plain(bound)}"
    for name, sign in (("le", "≤"), ("lt", "<")):
        bound = getattr(kind, name, None)
        if bound is not None:
            upper = f"{sign} {_plain(bound)}"
    return ", ".join(part for part in (lower, upper) if part)


def _unwrap(kind: inspect.Type) -> tuple[inspect.Type, str]:
    text = ""
    while isinstance(kind, inspect.Metadata):
        text = (kind.extra_json_schema or {}).get("description", text)
        kind = kind.type
    return kind, text


def _walk(kind: inspect.StructType, prefix: str, defaults: Any) -> list[Field]:
    found: list[Field] = []
    for item in kind.fields:
        path = f"{prefix}{item.name}"
        if path in HIDDEN:
            continue
        inner, text = _unwrap(item.type)
        value = defaults.get(item.name) if isinstance(defaults, dict) else None
        if isinstance(inner, inspect.UnionType):
            structs = [part for part in inner.types if isinstance(part, inspect.StructType)]
            if structs:
                if path in SWITCHES:
                    found.append(Field(path, "switch", SWITCHES[path], "", True))
                found += _walk(structs[0], f"{path}.", value)
                continue
            found.append(Field(path, "mixed", text, "", value, unit=UNITS.get(path, "")))
        elif isinstance(inner, inspect.StructType):
            found += _walk(inner, f"{path}.", value)
        else:
            name = _TYPES.get(type(inner), "mixed")
            choices = tuple(map(str, inner.values)) if name == "choice" else ()
            unit = UNITS.get(path, "")
            found.append(Field(path, name, text, _range_words(inner), value, choices, unit))
    return found


def spec_fields() -> list[Field]:
    """Return all fields of :class:`TrainSpec` in the order of the declaration."""
    kind = inspect.type_info(TrainSpec)
    assert isinstance(kind, inspect.StructType)
    return _walk(kind, "", msgspec.to_builtins(TrainSpec()))


def value_of(data: dict[str, Any], path: str) -> Any:
    """Return the value at a dotted path of plain data, None if a part is absent."""
    here: Any = data
    for part in path.split("."):
        if not isinstance(here, dict):
            return None
        here = here.get(part)
    return here


def with_value(data: dict[str, Any], path: str, value: Any) -> dict[str, Any]:
    """Return a copy of plain data with another value at a dotted path."""
    head, _, rest = path.partition(".")
    copy = dict(data)
    copy[head] = with_value(dict(copy.get(head) or {}), rest, value) if rest else value
    return copy


def as_text(field: Field, value: Any) -> str:
    """Return a value as it is typed."""
    if value is None:
        return ""
    if isinstance(value, (list, tuple)):
        return ", ".join(as_text(field, item) for item in value)
    return f"{value:g}" if isinstance(value, float) else str(value)


def parse_text(field: Field, text: str) -> Any:
    """Return what was typed as plain data; numbers may be written as ``1e-4``.

    Raises:
        ValueError: with one sentence that says what would be accepted.
    """
    text = text.strip()
    if field.kind in ("int", "float"):
        try:
            return int(text) if field.kind == "int" else float(text)
        except ValueError:
            wanted = "a whole number" if field.kind == "int" else "a number"
            raise ValueError(f"Type {wanted}, such as {as_text(field, field.default)}.") from None
    if field.kind == "list":
        return [_scalar(part) for part in text.split(",") if part.strip()]
    if field.kind == "mixed":
        if "," in text:
            return [_scalar(part) for part in text.split(",") if part.strip()]
        return _scalar(text)
    return text


def _scalar(text: str) -> Any:
    try:
        value = json.loads(text)
    except ValueError:
        return text.strip()
    return value if isinstance(value, (int, float)) else text.strip()


def build_spec(data: dict[str, Any]) -> TrainSpec:
    """Return the specification of plain data.

    Raises:
        ValueError: naming the field, as ``optim.lr_lora: …``.
    """
    try:
        return msgspec.convert(data, TrainSpec)
    except msgspec.ValidationError as error:
        sentence, _, path = str(error).partition(" - at `$.")
        raise ValueError(f"{path.rstrip('`')}: {sentence}" if path else sentence) from error


def default_part(path: str) -> Any:
    """Return a part that can be switched off, as it is by default."""
    return value_of(msgspec.to_builtins(TrainSpec()), path)


def check_value(field: Field, data: dict[str, Any], value: Any) -> str:
    """Return why ``value`` does not fit ``field``, an empty text if it does."""
    try:
        build_spec(with_value(data, field.path, value))
    except ValueError as error:
        where, _, sentence = str(error).partition(": ")
        if where.split("[")[0] == field.path:
            return f"{sentence}."
        return ""  # another field is wrong; that field says so itself
    return ""

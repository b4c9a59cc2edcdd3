"""From a foreign row to a sample: names of fields, chat messages, repairs, reasons (torch-free)."""

from __future__ import annotations

import hashlib
import json
import re
import unicodedata
from collections.abc import Iterable, Mapping
from typing import Any

from msgspec import Struct

from so8t_engine.labels import parse_label
from so8t_engine.samples.schema import SPLITS, Sample

MAX_TEXT_CHARS = 1_000_000
MAX_FIELDS = 1024

_SYNONYMS: dict[str, str] = {
    **dict.fromkeys(
        ("request", "user_request", "prompt", "text", "instruction", "question", "query"), "request"
    ),
    **dict.fromkeys(("user_input", "user_prompt"), "request"),
    **dict.fromkeys(("context", "situation", "input"), "context"),
    **dict.fromkeys(
        ("response", "task_output", "output", "completion", "answer", "reply"), "response"
    ),
    **dict.fromkeys(("label", "safety_label", "decision", "verdict"), "label"),
    **dict.fromkeys(("rationale", "safety_rationale", "reason", "explanation"), "rationale"),
    **dict.fromkeys(("category", "topic", "domain"), "category"),
    **dict.fromkeys(("language", "lang", "locale"), "language"),
    **dict.fromkeys(("tags", "tag"), "tags"),
    **dict.fromkeys(("source", "origin"), "source"),
    **dict.fromkeys(("split", "subset"), "split"),
    **dict.fromkeys(("id", "sample_id", "uid", "uuid", "row_id"), "id"),
    **dict.fromkeys(("messages", "conversations"), "messages"),
}
# Best first where a row has several names of one field.
_PREFERENCE = {name: rank for rank, name in enumerate(_SYNONYMS)}
IGNORE = ""
TARGETS: tuple[str, ...] = (
    "request", "label", "context", "response", "rationale", "category", "language", "tags",
    "source", "split", "id", "messages",
)  # fmt: skip
_SPLIT_SYNONYMS = {
    "train": "train", "training": "train", "validation": "validation", "val": "validation",
    "valid": "validation", "dev": "validation", "test": "test", "testing": "test", "": "",
    "auto": "",
}  # fmt: skip
_USER = frozenset(("user", "human"))
_ASSISTANT = frozenset(("assistant", "gpt", "model", "bot"))
_SYSTEM = frozenset(("system", "developer"))
_LABEL_REPLY = re.compile(r"\s*[\[<(]?\s*([A-Za-z]+)\s*[\])>]?[\s.:]*")
_FORMULA_ESCAPE = re.compile("'+[=+\\-@\t\r＝＋－＠]")
_SURROGATE = re.compile("[\ud800-\udfff]")


class RowProblem(Exception):
    """Why a row is no sample: field, value and reason."""

    def __init__(self, field: str, value: object, reason: str) -> None:
        super().__init__(reason)
        self.field = field
        self.value = shorten(value)
        self.reason = reason


class Repaired(Struct, frozen=True, kw_only=True):
    """A row that was imported after something in it had been put right."""

    file: str
    line: int
    field: str
    reason: str


def shorten(value: object, limit: int = 200) -> str:
    """Return ``value`` as text that fits a table cell and can always be encoded."""
    text = value if isinstance(value, str) else repr(value)
    text = _SURROGATE.sub("\ufffd", text[: limit + 1])
    return text if len(text) <= limit else text[: limit - 1] + "…"


def normalise_name(column: object) -> str:
    """Return a column name as synonyms are written: lower case, ``_`` between words."""
    text = unicodedata.normalize("NFKC", str(column)).strip("\ufeff \t\r\n").casefold()
    return re.sub(r"[\s\-.]+", "_", text)


def guess_mapping(columns: Iterable[str]) -> dict[str, str]:
    """Return which column feeds which field, by name; unknown columns map to ``""`` (ignored).

    ``input`` means the context beside an ``instruction``, and the request where there is none.
    """
    names = list(columns)
    targets = {column: _SYNONYMS.get(normalise_name(column), IGNORE) for column in names}
    mapping: dict[str, str] = dict.fromkeys(names, IGNORE)
    for target in set(targets.values()) - {IGNORE}:
        rivals = [column for column in names if targets[column] == target]
        best = min(rivals, key=lambda column: _PREFERENCE[normalise_name(column)])
        mapping[best] = target
    if "request" not in mapping.values() and "messages" not in mapping.values():
        for column in names:
            if normalise_name(column) == "input":
                mapping[column] = "request"
    return mapping


def clean_text(text: str) -> tuple[str, str]:
    """Return ``text`` in NFC without NUL and lone surrogates, and what was repaired (or '')."""
    if text.isascii():
        if "\0" not in text:
            return text, ""
        return text.replace("\0", ""), "NUL characters were removed"
    repaired = ""
    if "\0" in text:
        text, repaired = text.replace("\0", ""), "NUL characters were removed"
    if _SURROGATE.search(text):
        # A pair that was escaped as two halves is one character; a single half is damage.
        joined = text.encode("utf-16-le", "surrogatepass").decode("utf-16-le", "replace")
        text, repaired = joined, "lone surrogates were replaced by U+FFFD"
    if not unicodedata.is_normalized("NFC", text):
        text = unicodedata.normalize("NFC", text)
    return text, repaired


def clean_tags(values: Iterable[str]) -> tuple[str, ...]:
    """Return tags stripped, without blanks and repetitions, in their order."""
    return tuple(dict.fromkeys(tag for tag in (clean_text(v)[0].strip() for v in values) if tag))


def parse_tags(value: object) -> tuple[str, ...]:
    """Read tags from a list, a JSON list in text, or text separated by ``;`` or ``,``."""
    if value is None or value == "":
        return ()
    if isinstance(value, str):
        text = value.strip()
        if text.startswith("["):
            try:
                value = json.loads(text)
            except ValueError:
                value = None
        if not isinstance(value, list):
            return clean_tags(re.split("[;,]", text))
    if isinstance(value, (list, tuple)) and all(isinstance(v, (str, int, float)) for v in value):
        return clean_tags(str(v) for v in value)
    raise RowProblem("tags", value, "tags must be a list of words")


def content_id(context: str, request: str) -> str:
    """Return the identifier of a row that brought none: the same text gives the same one."""
    digest = hashlib.sha256(f"{context}\0{request}".encode("utf-8", "replace"))
    return digest.hexdigest()[:12]


def _message_text(content: object) -> str:
    if isinstance(content, str):
        return content
    if isinstance(content, list):
        parts = [part.get("text", "") if isinstance(part, dict) else part for part in content]
        if all(isinstance(part, str) for part in parts):
            return "".join(parts)
    raise RowProblem("messages", content, "the content of a message must be text")


def unpack_messages(value: object) -> dict[str, str]:
    """Return request, context and response of a chat.

    The last user turn is the request, the assistant's turn after it the response; the system turn
    and earlier turns are the context.
    """
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise RowProblem("messages", value, "messages must be a list of turns") from None
    if not isinstance(value, list) or not value:
        raise RowProblem("messages", value, "messages must be a list of turns")
    turns: list[tuple[str, str]] = []
    for turn in value:
        if not isinstance(turn, dict):
            raise RowProblem("messages", turn, "a turn needs a role and a content")
        role = str(turn.get("role", turn.get("from", ""))).casefold()
        turns.append((role, _message_text(turn.get("content", turn.get("value")))))
    last = max((index for index, (role, _) in enumerate(turns) if role in _USER), default=-1)
    if last < 0:
        raise RowProblem("messages", value, "no turn is the user's")
    earlier = [
        text if role in _SYSTEM else f"{role}: {text}" for role, text in turns[:last] if text
    ]
    response = next((text for role, text in turns[last + 1 :] if role in _ASSISTANT), "")
    return {"request": turns[last][1], "context": "\n".join(earlier), "response": response}


def label_in_reply(reply: str) -> str:
    """Return the label if the reply of a chat is nothing but one (``[REFUSE]``), else ''."""
    match = _LABEL_REPLY.fullmatch(reply)
    if match is None:
        return ""
    try:
        return parse_label(match[1]).value
    except ValueError:
        return ""


class RowReader:
    """Turns the rows of one file into samples; remembers identifiers and column names.

    Args:
        file: name for messages.
        mapping: column → field (``""`` ignores the column); None guesses by name.
        formulas: True where cells are spreadsheet text, in which ``'=`` means a literal ``=``.
    """

    def __init__(
        self, file: str, mapping: Mapping[str, str] | None = None, *, formulas: bool = False
    ) -> None:
        self.file = file
        self.columns: dict[str, None] = {}
        self.repaired: list[Repaired] = []
        self._given = dict(mapping) if mapping is not None else None
        self._guesses: dict[tuple[str, ...], dict[str, str]] = {}
        self._ids: dict[str, int] = {}
        self._formulas = formulas

    def mapping(self) -> dict[str, str]:
        """Return column → field for all columns seen so far."""
        return dict(self._given) if self._given is not None else guess_mapping(self.columns)

    def claim_id(self, wanted: str, line: int) -> str:
        """Return ``wanted``, or ``wanted-2`` … (noted as a repair) if an earlier row has it."""
        if wanted not in self._ids:
            self._ids[wanted] = 1
            return wanted
        number = self._ids[wanted] + 1
        while f"{wanted}-{number}" in self._ids:
            number += 1
        self._ids[wanted] = number
        fresh = f"{wanted}-{number}"
        self._ids[fresh] = 1
        self._note(line, "id", f"the id {wanted!r} is used before; this row became {fresh!r}")
        return fresh

    def _note(self, line: int, field: str, reason: str) -> None:
        self.repaired.append(Repaired(file=self.file, line=line, field=field, reason=reason))

    def _fields(self, row: Mapping[str, Any]) -> dict[str, Any]:
        key = tuple(row)
        plan = self._guesses.get(key)
        if plan is None:
            if len(self.columns) < 10_000:
                self.columns.update(dict.fromkeys(key))
            if self._given is not None:
                plan = {column: self._given.get(column, IGNORE) for column in key}
            else:
                plan = guess_mapping(key)
            plan = {column: target for column, target in plan.items() if target}
            if len(self._guesses) < 1000:
                self._guesses[key] = plan
        return {target: row[column] for column, target in plan.items()}

    def _text(self, field: str, value: object, line: int) -> str:
        if value is None:
            return ""
        if isinstance(value, bool) or not isinstance(value, str):
            if isinstance(value, (bool, int, float)):
                self._note(line, field, f"the {type(value).__name__} {value!r} was read as text")
                value = json.dumps(value)
            else:
                kind = "a list" if isinstance(value, list) else "a nested object"
                raise RowProblem(field, value, f"{field} must be text, not {kind}")
        if len(value) > MAX_TEXT_CHARS:
            raise RowProblem(field, value, f"{field} has more than {MAX_TEXT_CHARS:,} characters")
        if self._formulas and value.startswith("'") and _FORMULA_ESCAPE.match(value):
            value = value[1:]
        text, repaired = clean_text(value)
        if repaired:
            self._note(line, field, f"{repaired} from {field}")
        return text

    def read(self, row: Mapping[str, Any], line: int) -> Sample:
        """Return the sample of one row.

        Raises:
            RowProblem: if it is none.
        """
        if len(row) > MAX_FIELDS:
            raise RowProblem("", "", f"the row has more than {MAX_FIELDS:,} fields")
        fields = self._fields(row)
        if "messages" in fields:
            value = fields.pop("messages")
            if value not in (None, ""):
                for name, text in unpack_messages(value).items():
                    if name not in fields or fields[name] in (None, ""):
                        fields[name] = text
            if not fields.get("label"):
                fields["label"] = label_in_reply(str(fields.get("response", "")))
                if fields["label"]:
                    fields["response"] = ""
        if not fields.get("request") and "request" not in fields:
            raise RowProblem("request", "", "no field holds the request")
        texts = {
            name: self._text(name, fields.get(name), line)
            for name in ("request", "context", "response", "rationale", "category", "source")
        }
        if not texts["request"].strip():
            raise RowProblem("request", texts["request"], "the request is empty")
        label_text = self._text("label", fields.get("label"), line)
        if not label_text.strip():
            raise RowProblem("label", "", "the label is missing; use ALLOW, ESCALATE or REFUSE")
        try:
            label = parse_label(label_text)
        except ValueError as error:
            raise RowProblem("label", label_text, str(error)) from None
        split = self._text("split", fields.get("split"), line).strip().casefold()
        if split not in _SPLIT_SYNONYMS:
            raise RowProblem("split", split, f"the split must be one of {', '.join(SPLITS)}")
        tags = fields.get("tags")
        if self._formulas and isinstance(tags, str):
            tags = self._text("tags", tags, line)
        wanted = self._text("id", fields.get("id"), line).strip()[:200]
        return Sample(
            id=self.claim_id(wanted or content_id(texts["context"], texts["request"]), line),
            label=label,
            language=self._text("language", fields.get("language"), line).strip(),
            tags=parse_tags(tags),
            split=_SPLIT_SYNONYMS[split],
            **texts,
        )

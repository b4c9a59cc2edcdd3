"""The three decisions and the names under which other datasets know them."""

from __future__ import annotations

import enum


class Label(enum.StrEnum):
    """A decision of the persona. Stored by name; the order is the row order of the safety head."""

    ALLOW = "ALLOW"
    ESCALATE = "ESCALATE"
    REFUSE = "REFUSE"


LABELS: tuple[Label, ...] = (Label.ALLOW, Label.ESCALATE, Label.REFUSE)
LABEL_INDEX: dict[Label, int] = {label: index for index, label in enumerate(LABELS)}

_SYNONYMS: dict[str, Label] = {
    "allow": Label.ALLOW,
    "comply": Label.ALLOW,
    "escalate": Label.ESCALATE,
    "escalation": Label.ESCALATE,
    "refuse": Label.REFUSE,
    "deny": Label.REFUSE,
}


def parse_label(value: object) -> Label:
    """Return the label that ``value`` names, synonyms and any casing included.

    Raises:
        ValueError: if ``value`` is no label; the message names what would be accepted.
    """
    if isinstance(value, str):
        found = _SYNONYMS.get(value.strip().casefold())
        if found is not None:
            return found
    raise ValueError(
        f"{value!r} is not a label; use ALLOW, ESCALATE or REFUSE (also COMPLY, ESCALATION, DENY)"
    )

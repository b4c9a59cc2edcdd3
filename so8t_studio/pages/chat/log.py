"""Notes beside a run what was tried on it in chat: ``chat.jsonl``, one exchange a line (no Qt)."""

from __future__ import annotations

from pathlib import Path

import msgspec

from so8t_engine.errors import WorkspaceError
from so8t_studio.pages.chat.session import Exchange


def note_exchange(run_dir: Path, exchange: Exchange) -> None:
    """Append one exchange.

    Raises:
        WorkspaceError: if the file cannot be written.
    """
    line = {
        "t": exchange.asked,
        "request": exchange.request,
        "context": exchange.context,
        "strength": exchange.strength,
        "answers": {
            arm: {
                "verdict": msgspec.to_builtins(answer.verdict),
                "text": answer.text,
                "reply_verdict": msgspec.to_builtins(answer.reply_verdict),
                "seconds": answer.seconds,
            }
            for arm, answer in exchange.answers.items()
        },
    }
    try:
        with (run_dir / "chat.jsonl").open("ab") as stream:
            stream.write(msgspec.json.encode(line) + b"\n")
    except OSError as error:
        raise WorkspaceError(
            f"What was tried cannot be noted in {run_dir.name}: {error.strerror}.",
            next_step="The chat works all the same; check the free space of the disk.",
        ) from error

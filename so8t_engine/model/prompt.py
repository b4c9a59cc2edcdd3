"""How a request becomes tokens, so that typed text stays text.

``system: policy · user: [context] + request · assistant:``; the verdict is read at the last
position of this prompt. Template pieces are tokenised with control tokens, everything a person
typed without: ``<|im_start|>`` or a verdict token in a request are plain characters.
"""

from __future__ import annotations

import re
from dataclasses import dataclass
from typing import Any

from tokenizers import Tokenizer

_POLICY = "\u0001policy\u0001"
_USER = "\u0001user\u0001"
_PLAIN_TEMPLATE = f"System: {_POLICY}\nUser: {_USER}\nAssistant:"
_ELLIPSIS = " […] "


@dataclass(frozen=True)
class EncodedRequest:
    """The tokens of one request behind the shared head, and whether text was left out."""

    ids: tuple[int, ...]
    truncated: bool


class PlainEncoder:
    """Tokenises text so that it never contains a control or added token."""

    def __init__(self, tokenizer: Any) -> None:
        """Take a fast Hugging Face tokenizer; it is not modified."""
        self._backend = Tokenizer.from_str(tokenizer.backend_tokenizer.to_str())
        self._backend.encode_special_tokens = True
        self._backend.no_truncation()
        self._backend.no_padding()
        added = [token.content for token in tokenizer.added_tokens_decoder.values()]
        added = [text for text in added if len(text) > 1]
        joined = "|".join(re.escape(text) for text in sorted(added, key=len, reverse=True))
        self._added = re.compile(joined) if joined else None
        self._added_ids = frozenset(tokenizer.added_tokens_decoder)

    def encode(self, text: str) -> list[int]:
        """Return the token ids of ``text``; no id of an added token is among them."""
        ids: list[int] = []
        for piece in self._pieces(text):
            ids += self._backend.encode(piece, add_special_tokens=False).ids
        return [token for token in ids if token not in self._added_ids]

    def _pieces(self, text: str) -> list[str]:
        """Cut inside every spelled-out added token, so that no piece spells one."""
        if self._added is None:
            return [text] if text else []
        pieces, start = [], 0
        for match in self._added.finditer(text):
            cut = match.start() + 1
            pieces.append(text[start:cut])
            start = cut
        pieces.append(text[start:])
        return [piece for piece in pieces if piece]


def user_text(context: str, request: str) -> str:
    """Return the text of the user turn."""
    return f"Context: {context}\nRequest: {request}" if context else request


class PromptBuilder:
    """Builds prompts for one tokenizer and one policy text.

    Attributes:
        head: tokens before the user's text; the same for every request.
        tail: tokens after it, up to where the assistant begins to speak.
    """

    def __init__(self, tokenizer: Any, policy: str, *, max_tokens: int = 384) -> None:
        self._tokenizer = tokenizer
        self._plain = PlainEncoder(tokenizer)
        self.max_tokens = max_tokens
        before, after = self._template(policy).split(_USER)
        self.head: tuple[int, ...] = tuple(self._with_policy(before, policy))
        self.tail: tuple[int, ...] = tuple(self._control(after))
        self._ellipsis = self._plain.encode(_ELLIPSIS)

    def _template(self, policy: str) -> str:
        if not getattr(self._tokenizer, "chat_template", None):
            plain = _PLAIN_TEMPLATE if policy else f"User: {_USER}\nAssistant:"
            return self._beginning() + plain
        # An empty system turn stops templates from filling in a vendor's own system text.
        messages = [{"role": "system", "content": _POLICY}, {"role": "user", "content": _USER}]
        try:
            return self._render(messages)
        except Exception as error:
            if "system" not in str(error).lower():
                raise
            joined = f"{_POLICY}\n\n{_USER}" if policy else _USER
            return self._render([{"role": "user", "content": joined}])

    def _beginning(self) -> str:
        """Return the token that this tokenizer puts before any text; chat templates write it."""
        tokenizer = self._tokenizer
        first = tokenizer.encode("a")[:1]
        begins = first and first[0] == tokenizer.bos_token_id
        return str(tokenizer.bos_token) if begins else ""

    def _render(self, messages: list[dict[str, str]]) -> str:
        return str(
            self._tokenizer.apply_chat_template(
                messages, tokenize=False, add_generation_prompt=True
            )
        )

    def _control(self, text: str) -> list[int]:
        return list(self._tokenizer.encode(text, add_special_tokens=False)) if text else []

    def _with_policy(self, text: str, policy: str) -> list[int]:
        ids: list[int] = []
        for number, piece in enumerate(text.split(_POLICY)):
            if number:
                ids += self._plain.encode(policy)
            ids += self._control(piece)
        return ids

    def encode(self, context: str, request: str) -> EncodedRequest:
        """Return the tokens behind :attr:`head`: the user's text and :attr:`tail`.

        Text that is too long keeps its beginning and its end with a mark between them.
        """
        body = self._plain.encode(user_text(context, request))
        room = self.max_tokens - len(self.head) - len(self.tail)
        room = max(room, 8 + len(self._ellipsis))
        truncated = len(body) > room
        if truncated:
            keep = room - len(self._ellipsis)
            first = (keep + 1) // 2
            body = [*body[:first], *self._ellipsis, *body[len(body) - (keep - first) :]]
        return EncodedRequest(ids=(*body, *self.tail), truncated=truncated)

    def encode_reply(self, text: str, *, limit: int) -> list[int]:
        """Return the tokens of an assistant's text, at most ``limit``, and the end of turn."""
        ids = self._plain.encode(text)[:limit]
        end = self._tokenizer.eos_token_id
        return [*ids, end] if end is not None else ids

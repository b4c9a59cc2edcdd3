"""Decides on requests and answers them, with a trained checkpoint or the bare base model."""

from __future__ import annotations

import threading
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch.nn import functional

from so8t_engine.labels import LABELS
from so8t_engine.model.adapter import load_adapter
from so8t_engine.model.base_cache import resolve_base
from so8t_engine.model.header import read_header
from so8t_engine.model.inference import verdict_logits
from so8t_engine.model.loading import load_base
from so8t_engine.model.persona_model import PersonaModel
from so8t_engine.model.prompt import PromptBuilder, user_text
from so8t_engine.training.data import Collator, EncodedSample

_QUESTION = "\n\nIs this request to be allowed, escalated or refused? Answer with one word:"
_ANSWERS = tuple(label.value for label in LABELS)


def _silent(_message: str) -> None:
    """Default of the log callback."""


class Decider:
    """One loaded model that decides and replies.

    Without a checkpoint it is the base model zero-shot: the likelihood of each of the three label
    names as the answer to the request is what stands in for the verdict logits.
    """

    def __init__(
        self,
        base: str,
        checkpoint: Path | None,
        *,
        policy: str,
        device: str = "auto",
        dtype: str = "auto",
        max_tokens: int = 384,
        log: Callable[[str], None] = _silent,
    ) -> None:
        """Load base and checkpoint.

        Args:
            base: reference of the base model, as in a specification.
            checkpoint: folder of a checkpoint, or None.
            policy: text of the system turn.
            device: ``auto``, ``cpu`` or ``cuda``.
            dtype: precision of the forward pass, or ``auto``.
            max_tokens: prompt length of the base model; a checkpoint brings its own.
            log: receives sentences about what was loaded.

        Raises:
            So8tError: if something is missing, damaged or does not fit.
        """
        header = read_header(checkpoint) if checkpoint is not None else None
        self._loaded = load_base(
            resolve_base(base),
            device=device,
            dtype=dtype if header is None or dtype != "auto" else header.model.dtype,
            quantization="auto" if header is None else header.model.quantization,
        )
        self.tokenizer = self._loaded.tokenizer
        self.trained = header is not None
        self._speaks = header is None or header.replies
        self._model: PersonaModel | None = None
        text = policy if header is None or header.include_policy else ""
        limit = max_tokens if header is None else header.max_tokens
        self._prompts = PromptBuilder(self.tokenizer, text, max_tokens=limit)
        if header is not None and checkpoint is not None:
            self._model = PersonaModel(self._loaded, header.model)
            load_adapter(self._model, checkpoint)
            self._model.eval()
            log(f"Loaded {checkpoint.name} on {self._loaded.device}.")
            if not self._speaks:
                log("Its weights never learned from replies, so the base model writes them.")
        else:
            log(f"Loaded the base model on {self._loaded.device}.")
        shared = torch.tensor(self._prompts.head, dtype=torch.long)
        self._collator = Collator(shared, self.tokenizer.pad_token_id)

    @property
    def device(self) -> str:
        """Where the model is, e.g. ``cpu`` or ``cuda:0``."""
        return str(self._loaded.device)

    @property
    def strength(self) -> float:
        """The α of all gates: 1 as trained, 0 off. Always 1 without gates."""
        bank = self._model.gates if self._model is not None else None
        return bank.strength if bank is not None else 1.0

    @strength.setter
    def strength(self, value: float) -> None:
        bank = self._model.gates if self._model is not None else None
        if bank is not None and bank.strength != float(value):
            bank.strength = value

    # -- verdicts ------------------------------------------------------------------------------

    def logits(
        self,
        items: Sequence[tuple[str, str]],
        *,
        batch_size: int = 16,
        progress: Callable[[int, int], None] | None = None,
        cancelled: Callable[[], bool] | None = None,
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        """Return raw logits ``[N, 3]`` and which requests were cut, ``[N]``.

        Args:
            items: pairs of context and request.
            batch_size: requests a forward pass.
            progress: receives done and total.
            cancelled: asked between batches.

        Raises:
            InterruptedError: if ``cancelled`` said so.
        """
        tell = progress or (lambda done, total: None)
        asked = cancelled or (lambda: False)
        if self._model is None:
            return self._zero_shot(items, batch_size, tell, asked)
        encoded = [self._prompts.encode(context, request) for context, request in items]
        rows = [EncodedSample(one.ids, len(one.ids), 0, one.truncated) for one in encoded]
        found = verdict_logits(
            self._model,
            rows,
            self._collator,
            batch_size=batch_size,
            progress=tell,
            cancelled=asked,
        )
        return found, np.array([one.truncated for one in encoded], dtype=np.bool_)

    @torch.no_grad()
    def _zero_shot(
        self,
        items: Sequence[tuple[str, str]],
        batch_size: int,
        progress: Callable[[int, int], None],
        cancelled: Callable[[], bool],
    ) -> tuple[NDArray[np.float64], NDArray[np.bool_]]:
        encoded = [self._prompts.encode(context, request + _QUESTION) for context, request in items]
        answers = [self._prompts.encode_reply(answer, limit=16)[:-1] for answer in _ANSWERS]
        logits = np.zeros((len(items), len(answers)))
        head = list(self._prompts.head)
        for number, one in enumerate(encoded):
            if cancelled():
                raise InterruptedError
            rows = [head + list(one.ids) + answer for answer in answers]
            longest = max(map(len, rows))
            ids = torch.full((len(rows), longest), int(self.tokenizer.pad_token_id))
            mask = torch.zeros(len(rows), longest, dtype=torch.long)
            for place, row in enumerate(rows):
                ids[place, : len(row)] = torch.tensor(row)
                mask[place, : len(row)] = 1
            device = self._loaded.device
            start = len(head) + len(one.ids) - 1
            scores = (
                self._loaded.model(input_ids=ids.to(device), attention_mask=mask.to(device))
                .logits[:, start:]
                .float()
            )
            chances = functional.log_softmax(scores, dim=-1).cpu()
            for place, answer in enumerate(answers):
                steps = torch.arange(len(answer))
                logits[number, place] = float(chances[place, steps, torch.tensor(answer)].mean())
            if (number + 1) % batch_size == 0 or number + 1 == len(encoded):
                progress(number + 1, len(encoded))
        return logits, np.array([one.truncated for one in encoded], dtype=np.bool_)

    # -- replies -------------------------------------------------------------------------------

    def stream_reply(
        self,
        context: str,
        request: str,
        *,
        max_new_tokens: int = 256,
        stop: Callable[[], bool] | None = None,
    ) -> Iterator[str]:
        """Yield the reply piece by piece; greedy, so that the same request gives the same reply.

        Weights that never learned from replies do not write: the base model does.

        Args:
            context: situation of the request, or empty.
            request: what the user typed.
            max_new_tokens: length limit.
            stop: asked before every token.
        """
        from transformers import StoppingCriteriaList, TextIteratorStreamer

        asked = stop or (lambda: False)
        model = self._model.causal_lm if self._model is not None else self._loaded.model
        one = self._prompts.encode(context, request)
        prompt = torch.tensor([[*self._prompts.head, *one.ids]], device=self._loaded.device)
        streamer: Any = TextIteratorStreamer(
            self.tokenizer, skip_prompt=True, skip_special_tokens=True
        )
        failure: list[BaseException] = []

        def generate() -> None:
            try:
                with torch.no_grad(), self._speaking():
                    model.generate(
                        input_ids=prompt,
                        attention_mask=torch.ones_like(prompt),
                        max_new_tokens=max_new_tokens,
                        do_sample=False,
                        use_cache=True,
                        pad_token_id=self.tokenizer.pad_token_id,
                        streamer=streamer,
                        stopping_criteria=StoppingCriteriaList([lambda *_args, **_kw: asked()]),
                    )
            except Exception as error:  # noqa: BLE001 - thread boundary, raised by the reader
                failure.append(error)
                streamer.end()

        worker = threading.Thread(target=generate, name="generate", daemon=True)
        worker.start()
        try:
            for text in streamer:
                if text:
                    yield text
        finally:
            asked = lambda: True  # noqa: E731 - an abandoned reader ends the generation
            worker.join()
        if failure:
            raise failure[0]

    def _speaking(self) -> AbstractContextManager[None]:
        if self._model is None or self._speaks:
            return nullcontext()
        return self._model.unlearned()

    def reply_request(self, request: str, reply: str) -> str:
        """Return the request under which a finished reply is judged again."""
        return user_text("", f"{request}\n\n{reply}")

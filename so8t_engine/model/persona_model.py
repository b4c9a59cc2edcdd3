"""The base model with LoRA, layer gates, the head gate and the safety head.

- A *layer gate* rotates the output of ``self_attn`` (after ``o_proj``, before the residual add).
- The *head gate* rotates the output of the final norm: the safety head reads ``R_safe x``, the LM
  head reads ``R_cmd R_safe x``.

All lower layers that are not adapted form the *frozen prefix*: their output never changes, so it
can be computed once a sample, kept, and fed in directly (``hidden`` instead of ``input_ids``).
"""

from __future__ import annotations

import contextlib
from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor, nn
from transformers import DynamicCache

from so8t_engine.labels import LABELS
from so8t_engine.model.families import adapted_layers, norm_factors
from so8t_engine.model.loading import LoadedBase
from so8t_engine.rotations.gate import HEAD, GateBank
from so8t_engine.specs import LoraSpec, ModelSpec


class SafetyHead(nn.Module):
    """Three rows without bias that read ``R_safe x``; float32 always, like the generators.

    ``logits = W (scale ⊙ x)`` with constants ``scale = 1 / (√D · |factor|)``, one a channel, of the
    final norm's factors and so about of the size of ``x`` there. Learning rates then mean the same
    whatever the width of the base model, and whether its factors are alike (Llama types) or a few
    of them are thirty times the others (Gemma), which would drown all channels but those. The rows
    of an exported model are ``W ⊙ scale``.
    """

    scale: Tensor

    def __init__(self, factors: Tensor) -> None:
        """Take the factors ``[D]`` of the final norm; tiny ones count as a tenth of their RMS."""
        super().__init__()
        hidden_size = len(factors)
        size = factors.abs().clamp(min=0.1 * float(factors.pow(2).mean().sqrt()))
        self.weight = nn.Parameter(torch.empty(len(LABELS), hidden_size, dtype=torch.float32))
        nn.init.normal_(self.weight, std=0.1)
        self.register_buffer("scale", 1.0 / (hidden_size**0.5 * size))

    def rows(self) -> Tensor:
        """Return the plain verdict rows ``W ⊙ scale``, ``[3, D]`` float32."""
        return self.weight.detach() * self.scale

    def _apply(self, fn: Any, recurse: bool = True) -> SafetyHead:
        def keep_float32(tensor: Tensor) -> Tensor:
            moved = fn(tensor)
            return tensor.to(moved.device) if moved.dtype != tensor.dtype else moved

        super()._apply(keep_float32, recurse)  # type: ignore[no-untyped-call]
        return self

    def forward(self, x: Tensor) -> Tensor:
        """Return the verdict logits ``[..., 3]`` in float32 for ``x`` ``[..., D]``."""
        with torch.autocast(device_type=x.device.type, enabled=False):
            return nn.functional.linear(x.float() * self.scale, self.weight)


class PassThrough(nn.Module):
    """Stands where a frozen-prefix layer was while hidden states are fed in above it.

    It keeps an (empty) place in the key-value cache, because sequence lengths are read from the
    first layer there.
    """

    def __init__(self, layer_idx: int) -> None:
        super().__init__()
        self.layer_idx = layer_idx

    def forward(
        self, hidden_states: Tensor, *_: Any, past_key_values: Any = None, **__: Any
    ) -> Tensor:
        """Return ``hidden_states`` ``[B, T, D]`` as they are."""
        if past_key_values is not None:
            batch, length = hidden_states.shape[:2]
            place = hidden_states.new_zeros((batch, 1, length, 1))
            past_key_values.update(place, place, self.layer_idx)
        return hidden_states


class _PrefixDone(Exception):
    """Carries the hidden states out of the decoder below the first adapted layer."""

    def __init__(self, hidden: Tensor) -> None:
        super().__init__()
        self.hidden = hidden


@dataclass
class Batch:
    """Rows of one forward pass behind a shared head of tokens.

    Attributes:
        rows: ``[B, T]`` token ids, or ``[B, T, D]`` hidden states above the frozen prefix.
        mask: ``[B, T]`` bool, True at real positions.
        shared: ``[P]`` token ids or ``[P, D]`` hidden states that precede every row; may be empty.
        last: ``[V]`` index into each of the first V rows of its last prompt position, where the
            verdict is read; V = B, unless the batch is split.
        split: how many leading rows belong to the verdict side of a routed step, the others to its
            task side; None where the whole batch is of one side.
    """

    rows: Tensor
    mask: Tensor
    shared: Tensor
    last: Tensor
    split: int | None = None

    def to(self, device: torch.device) -> Batch:
        """Return the batch on ``device``."""
        return Batch(
            rows=self.rows.to(device),
            mask=self.mask.to(device),
            shared=self.shared.to(device),
            last=self.last.to(device),
            split=self.split,
        )


class PersonaModel(nn.Module):
    """Base model plus everything that is learned.

    Attributes:
        layers: indices of the adapted layers.
        cut: number of layers in the frozen prefix.
        gates: the bank of gates, or None in a LoRA-only ablation.
        safety_head: the three verdict rows.
        share_head: compute the shared head of tokens once a batch instead of once a row (exact;
            impossible under gradient checkpointing, which drops the key-value cache).
    """

    def __init__(self, base: LoadedBase, spec: ModelSpec) -> None:
        """Put gates and LoRA on a freshly loaded base; everything starts as the identity."""
        super().__init__()
        config = base.model.config
        self.spec = spec
        self.layers = adapted_layers(spec.adapt_layers, config.num_hidden_layers)
        self.cut = self.layers[0]
        self.hidden_size: int = config.hidden_size
        self.compute_dtype = base.dtype
        self.base = _with_lora(base.model, spec.lora, self.layers) if spec.lora else base.model
        self.gates: GateBank | None = None
        if spec.gates:
            names = [f"layers.{index}" for index in self.layers] + [HEAD]
            self.gates = GateBank(names, config.hidden_size, spec.sharing)
        norm = norm_factors(config, base.model.model.norm.weight.detach().float())
        self.safety_head = SafetyHead(norm)
        # A plain list, so that `.to(device)` on the model leaves the dropped layers where they are.
        self._prefix_store: list[nn.Module] | None = None
        self._lora: list[nn.Parameter] | None = None
        self.share_head = True
        self._install_hooks()
        for part in (self.gates, self.safety_head):
            if part is not None:
                part.to(base.device)

    @property
    def causal_lm(self) -> Any:
        """The Hugging Face model inside, LoRA layers injected."""
        return self.base.get_base_model() if hasattr(self.base, "get_base_model") else self.base

    @property
    def decoder(self) -> Any:
        """The stack of layers with embedding and final norm."""
        return self.causal_lm.model

    @property
    def device(self) -> torch.device:
        """Where the final norm lives, and so where batches go."""
        device: torch.device = next(self.decoder.norm.parameters()).device
        return device

    def _install_hooks(self) -> None:
        if self.gates is None:
            return
        # Built before any layer runs: inside a recomputed layer the exponential would be stored in
        # the forward pass and missing in the recomputation.
        self.decoder.register_forward_pre_hook(self._build_rotations)
        for position, index in enumerate(self.layers):
            self.decoder.layers[index].self_attn.register_forward_hook(self._layer_hook(position))
        self.causal_lm.lm_head.register_forward_pre_hook(self._head_hook)

    def _build_rotations(self, _module: nn.Module, _inputs: Any) -> None:
        assert self.gates is not None
        self.gates.product()

    def _layer_hook(self, position: int) -> Any:
        def rotate(_module: nn.Module, _inputs: Any, output: Any) -> Any:
            assert self.gates is not None
            if isinstance(output, tuple):
                return (self.gates.apply_product(position, output[0]), *output[1:])
            return self.gates.apply_product(position, output)

        return rotate

    def _head_hook(self, _module: nn.Module, inputs: tuple[Tensor, ...]) -> tuple[Tensor, ...]:
        assert self.gates is not None
        head = len(self.gates.names) - 1
        return (self.gates.apply_product(head, inputs[0], task_only=True), *inputs[1:])

    def recompute_activations(self) -> None:
        """Trade time for memory: recompute the layers' activations in the backward pass."""
        model = self.causal_lm
        # The newer name warns in no version, the older one in versions that know the newer.
        newer = getattr(model, "activation_checkpointing_enable", None)
        (newer or model.gradient_checkpointing_enable)({"use_reentrant": False})
        self.share_head = False

    # -- the frozen prefix ---------------------------------------------------------------------

    @torch.no_grad()
    def prefix_states(self, ids: Tensor, mask: Tensor, shared: Tensor) -> tuple[Tensor, Tensor]:
        """Run only the frozen prefix.

        Args:
            ids: ``[B, T]`` token ids of rows, right-padded.
            mask: ``[B, T]`` bool.
            shared: ``[P]`` ids of the head that precedes every row.

        Returns:
            Hidden states below the first adapted layer: rows ``[B, T, D]`` and head ``[P, D]``.
        """
        layer = self.decoder.layers[self.cut]

        def leave(_module: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
            raise _PrefixDone(args[0] if args else kwargs["hidden_states"])

        handle = layer.register_forward_pre_hook(leave, with_kwargs=True)
        was_training = self.training
        self.eval()
        try:
            head, cache = self._run_shared(shared, len(ids)) if len(shared) else (None, None)
            rows = self._run_rows(ids, mask, len(shared), cache)
        finally:
            handle.remove()
            self.train(was_training)
        empty = rows.new_zeros((0, self.hidden_size))
        return rows, head[0] if head is not None else empty

    def drop_prefix(self) -> None:
        """Take the frozen prefix out of the model and off the device: rows come as states."""
        if self._prefix_store is not None or not self.cut:
            return
        layers = self.decoder.layers
        self._prefix_store = [layers[index].cpu() for index in range(self.cut)]
        for index in range(self.cut):
            layers[index] = PassThrough(index)

    def restore_prefix(self) -> None:
        """Put the frozen prefix back in place."""
        if self._prefix_store is None:
            return
        device = self.device
        for index, layer in enumerate(self._prefix_store):
            self.decoder.layers[index] = layer.to(device)
        self._prefix_store = None

    def offload(self, *, embeddings: bool, lm_head: bool) -> None:
        """Move the embedding or the LM head to CPU memory, for as long as this model lives.

        Token ids then travel to the embedding and vectors come back. A matrix that both share moves
        only if neither is needed on the device.

        Args:
            embeddings: the embedding need not be on the device.
            lm_head: the LM head is never evaluated.
        """
        embedding, head = self.decoder.embed_tokens, self.causal_lm.lm_head
        if head.weight is embedding.weight and not (embeddings and lm_head):
            return
        if embeddings:
            embedding.cpu()
            embedding.register_forward_pre_hook(lambda _module, inputs: (inputs[0].cpu(),))
            embedding.register_forward_hook(lambda _module, _in, output: output.to(self.device))
        if lm_head:
            head.cpu()

    # -- forward -------------------------------------------------------------------------------

    def _decode(self, rows: Tensor, **kwargs: Any) -> Tensor:
        key = "input_ids" if rows.dim() == 2 else "inputs_embeds"
        try:
            output = self.decoder(**{key: rows}, **kwargs)
        except _PrefixDone as done:
            return done.hidden
        hidden: Tensor = output.last_hidden_state
        return hidden

    def _run_shared(
        self, shared: Tensor, batch: int, split: int | None = None
    ) -> tuple[Tensor, Any]:
        """Run the shared head once and spread its keys and values over ``batch`` rows.

        In a split batch it is run once a side, because the gradients of either side have to pass
        through it apart.
        """
        cache = DynamicCache(config=self.causal_lm.config)
        counts = [split, batch - split] if split else [batch]
        rows = shared[None].expand(len(counts), *shared.shape)
        with self._splitting(1 if split else split):
            hidden = self._decode(rows, past_key_values=cache, use_cache=True)
        owners = torch.repeat_interleave(torch.tensor(counts, device=hidden.device))
        for layer in cache.layers:
            if getattr(layer, "keys", None) is not None:
                layer.keys = _spread(layer.keys, batch, owners)
                layer.values = _spread(layer.values, batch, owners)
        return hidden, cache

    @contextlib.contextmanager
    def _splitting(self, split: int | None) -> Iterator[None]:
        """Let the gates part the rows of a forward pass that is never recomputed."""
        if self.gates is None:
            yield
            return
        before, self.gates.split = self.gates.split, split
        try:
            yield
        finally:
            self.gates.split = before

    def _run_rows(self, rows: Tensor, mask: Tensor, offset: int, cache: Any) -> Tensor:
        batch = len(rows)
        # Positions count real tokens, so that padding on either side changes nothing.
        positions = (mask.long().cumsum(-1) - 1).clamp(min=0) + offset
        before = mask.new_ones((batch, offset))
        return self._decode(
            rows,
            attention_mask=torch.cat([before, mask], dim=1).long(),
            position_ids=positions,
            past_key_values=cache,
            use_cache=cache is not None,
        )

    def hidden_states(self, batch: Batch) -> tuple[Tensor, Tensor | None]:
        """Run the adapted model.

        Returns:
            The final norm's output at the rows, ``[B, T, D]``, and at the shared head, ``[P, D]``
            (None where there is no shared head).
        """
        shared = len(batch.shared)
        if self.gates is not None:
            self.gates.split = batch.split  # stays set for what the backward pass recomputes
        if shared and self.share_head:
            head, cache = self._run_shared(batch.shared, len(batch.rows), batch.split)
            return self._run_rows(batch.rows, batch.mask, shared, cache), head[0]
        if not shared:
            return self._run_rows(batch.rows, batch.mask, 0, None), None
        spread = batch.shared[None].expand(len(batch.rows), *batch.shared.shape)
        rows = torch.cat([spread, batch.rows], dim=1)
        before = batch.mask.new_ones((len(rows), shared))
        hidden = self._run_rows(rows, torch.cat([before, batch.mask], dim=1), 0, None)
        return hidden[:, shared:], hidden[0, :shared]

    @contextlib.contextmanager
    def unlearned(self) -> Iterator[None]:
        """Be the base model for a while: LoRA off, rotations at the identity."""
        before = self.gates.strength if self.gates is not None else 1.0
        lora = self.base.disable_adapter() if self.spec.lora else contextlib.nullcontext()
        try:
            if self.gates is not None:
                self.gates.strength = 0.0
            with lora:
                yield
        finally:
            if self.gates is not None:
                self.gates.strength = before

    def verdict_logits(self, hidden: Tensor, last: Tensor) -> Tensor:
        """Return float32 logits ``[V, 3]`` of norm outputs ``[B, T, D]`` at ``last`` ``[V]``."""
        at_last = hidden[torch.arange(len(last), device=hidden.device), last]
        if self.gates is not None:
            at_last = self.gates.apply_head_safe(at_last)
        logits: Tensor = self.safety_head(at_last)
        return logits

    def lm_logits(self, hidden: Tensor) -> Tensor:
        """Return LM logits ``[N, V]`` of final-norm states ``[N, D]``; the head gate acts in it."""
        logits: Tensor = self.causal_lm.lm_head(hidden)
        return logits

    def forward(self, batch: Batch) -> Tensor:
        """Return verdict logits ``[V, 3]``."""
        hidden, _ = self.hidden_states(batch)
        return self.verdict_logits(hidden, batch.last)

    # -- parameters ----------------------------------------------------------------------------

    def lora_parameters(self) -> Iterator[nn.Parameter]:
        """Yield the trainable LoRA matrices."""
        if self._lora is None:  # found once: a walk through all modules a step is not free
            named = self.base.named_parameters()
            self._lora = [part for name, part in named if "lora_" in name and part.requires_grad]
        yield from self._lora

    def learned_parameters(self) -> list[nn.Parameter]:
        """Return all that is learned: LoRA, the safety head and the generators."""
        gates = list(self.gates.parameters()) if self.gates is not None else []
        return [*self.lora_parameters(), self.safety_head.weight, *gates]

    def trainable_count(self) -> dict[str, int]:
        """Return how many numbers are learned, by part."""
        return {
            "lora": sum(parameter.numel() for parameter in self.lora_parameters()),
            "gates": sum(p.numel() for p in self.gates.parameters()) if self.gates else 0,
            "head": self.safety_head.weight.numel(),
        }


def _spread(states: Tensor, batch: int, owners: Tensor) -> Tensor:
    """Give each of ``batch`` rows the keys or values of the head that it follows."""
    if len(states) == 1:
        return states.expand(batch, -1, -1, -1)
    return states[owners]


def _with_lora(model: Any, lora: LoraSpec, layers: list[int]) -> Any:
    from peft import LoraConfig, get_peft_model

    config = LoraConfig(
        r=lora.rank,
        lora_alpha=lora.alpha,
        lora_dropout=lora.dropout,
        target_modules=list(lora.targets),
        layers_to_transform=layers,
        bias="none",
        task_type="CAUSAL_LM",
    )
    return get_peft_model(model, config)

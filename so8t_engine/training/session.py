"""One training run from a frozen run folder to its last checkpoint."""

from __future__ import annotations

import math
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from safetensors import SafetensorError
from transformers import TrainingArguments, set_seed
from transformers.trainer_callback import PrinterCallback

from so8t_engine.errors import DataError, ResourceError, WorkspaceError
from so8t_engine.events import Hello, Progress, Result
from so8t_engine.jobs.runtime import Job
from so8t_engine.model.adapter import load_adapter
from so8t_engine.model.base_cache import cache_root, resolve_base
from so8t_engine.model.header import AdapterHeader, read_header
from so8t_engine.model.identity import base_identity
from so8t_engine.model.loading import LoadedBase, load_base
from so8t_engine.model.persona_model import PersonaModel
from so8t_engine.model.prompt import PromptBuilder
from so8t_engine.samples.schema import Sample
from so8t_engine.specs import TrainSpec
from so8t_engine.training.checkpoints import latest_intact
from so8t_engine.training.data import Collator, EncodedSample, encode_samples
from so8t_engine.training.losses import VerdictLoss
from so8t_engine.training.memory import measure_step
from so8t_engine.training.out_of_memory import MemoryWatch, is_out_of_memory
from so8t_engine.training.prefix_cache import PrefixCache, base_fingerprint, cache_key
from so8t_engine.training.reporter import Reporter, ReporterParts
from so8t_engine.training.trainer import PersonaTrainer
from so8t_engine.verdict import OperatingPoint
from so8t_engine.workspace.atomic import is_disk_full
from so8t_engine.workspace.runs import RunState, RunStore
from so8t_engine.workspace.starts import read_seen


@dataclass
class Prepared:
    """Everything that stands ready when the first step begins."""

    base: LoadedBase
    model: PersonaModel
    train: list[EncodedSample]
    validation: list[EncodedSample]
    collator: Collator
    header: AdapterHeader
    labels: list[Any]


class TrainingSession:
    """Runs or resumes the training that a run folder describes."""

    def __init__(
        self, job: Job, run: RunStore, state: RunState, *, point: OperatingPoint, main: bool = True
    ) -> None:
        self.job = job
        self.run_store = run
        self.state = state
        self.point = point
        self.main = main
        self.spec: TrainSpec = run.spec()
        self._memory = MemoryWatch(self.spec)
        self._dry = False

    def execute(self, *, resume: bool) -> str:
        """Train to the end, a stop or a failure; return the closing sentence.

        Raises:
            So8tError: for everything that the user can act on.
        """
        try:
            return self._execute(resume)
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory(error) from error
        except (OSError, SafetensorError) as error:
            if not is_disk_full(error):
                raise
            raise ResourceError(
                "The disk of this workspace is full, so training cannot be saved.",
                why=str(error),
                next_step="Free some space and resume the run from its last checkpoint.",
            ) from error

    def _execute(self, resume: bool) -> str:
        spec = self.spec
        set_seed(spec.seed)
        checkpoint = self._checkpoint_to_resume() if resume else None
        try:
            prepared = self._prepare()
        except InterruptedError:
            return "Stopped before the first step; nothing was trained."
        if checkpoint is not None:
            self._require_same_base(checkpoint, prepared.header)
        self._hello(prepared)
        steps = self._total_steps(len(prepared.train))
        reporter = Reporter(
            ReporterParts(
                job=self.job,
                run=self.run_store,
                model=prepared.model,
                header=prepared.header,
                schedule=spec.schedule,
                validation=prepared.validation,
                point=self.point,
                main=self.main,
            ),
            self.state,
        )
        trainer = self._trainer(prepared, steps)
        trainer.remove_callback(PrinterCallback)
        trainer.add_callback(reporter)
        reporter.trainer = trainer
        if checkpoint is not None:
            reporter.restore(checkpoint)
        trainer.train(resume_from_checkpoint=str(checkpoint) if checkpoint else None)
        return self._conclude(reporter, trainer.state.global_step, steps)

    def _trainer(self, prepared: Prepared, steps: int) -> PersonaTrainer:
        return PersonaTrainer(
            prepared.model,
            self._arguments(prepared.base, steps),
            self.spec,
            prepared.train,
            prepared.collator,
            VerdictLoss(self.spec.loss, prepared.labels),
        )

    # -- memory --------------------------------------------------------------------------------

    def dry_run(self) -> dict[str, Any]:
        """Take one step with the longest samples, keep nothing, and return what it needed.

        Returns:
            ``estimate`` and ``host`` (bytes by part), ``estimated`` (their sum on the device),
            ``peak`` and ``before`` (bytes measured), ``tokens`` of the longest sample, ``device``.

        Raises:
            So8tError: as :meth:`execute`; too little memory included.
        """
        self._dry = True
        set_seed(self.spec.seed)
        try:
            prepared = self._prepare(longest=2 * self.spec.optim.batch_size)
            measured = measure_step(self._trainer(prepared, 10))
        except (torch.OutOfMemoryError, MemoryError, RuntimeError) as error:
            if not is_out_of_memory(error):
                raise
            raise self._out_of_memory(error) from error
        found = self._memory.estimate()
        return {
            "estimate": found.device,
            "host": found.host,
            "estimated": found.total,
            "peak": measured.peak,
            "before": measured.before,
            "tokens": measured.tokens,
            "device": str(prepared.base.device),
        }

    def _out_of_memory(self, error: BaseException) -> ResourceError:
        failure, offer = self._memory.explain(error)
        if offer is not None and self.main:
            self.job.emitter.emit(offer)
        return failure

    # -- preparation ---------------------------------------------------------------------------

    def _checkpoint_to_resume(self) -> Path | None:
        folder, problems = latest_intact(self.run_store)
        for problem in problems:
            self.job.emitter.log(f"{problem} An earlier checkpoint is used instead.", "warning")
        if folder is None:
            raise WorkspaceError(
                f"Run {self.run_store.id} has no intact checkpoint to resume from.",
                next_step="Start a new run with the same settings.",
            )
        self.job.emitter.log(f"Resuming from {folder.name}.")
        return folder

    def _require_same_base(self, checkpoint: Path, now: AdapterHeader) -> None:
        if read_header(checkpoint).base_fingerprint != now.base_fingerprint:
            raise WorkspaceError(
                f"The base model of run {self.run_store.id} has changed since the run began.",
                why="Its learned weights fit that base model only.",
                next_step="Restore the base model, or start a new run.",
            )

    def _prepare(self, *, longest: int = 0) -> Prepared:
        """Load, encode and cache; ``longest`` keeps only so many of the longest samples."""
        spec, emitter = self.spec, self.job.emitter
        samples = self.run_store.samples()
        train = [sample for sample in samples if sample.split == "train"]
        validation = [sample for sample in samples if sample.split == "validation"]
        self._check_samples(train, validation)
        emitter.emit(Progress(phase="loading base", done=0, total=1, unit="models"))
        folder = resolve_base(spec.base_model)
        base = load_base(
            folder,
            device=spec.device,
            dtype=spec.model.dtype,
            quantization=spec.model.quantization,
        )
        torch.manual_seed(spec.seed)  # LoRA and head start alike whatever loading consumed
        model = PersonaModel(base, spec.model)
        able_to_write = self._begin_with_start(model, folder)
        emitter.emit(Progress(phase="loading base", done=1, total=1, unit="models"))
        policy = self.run_store.policy() if spec.data.include_policy else ""
        prompts = PromptBuilder(base.tokenizer, policy, max_tokens=spec.data.max_tokens)
        target = spec.loss.task_target if spec.loss.w_task else ""
        rows = encode_samples(
            train, prompts, task_target=target, task_share=spec.loss.task_share, seed=spec.seed
        )
        held_out = encode_samples(validation, prompts)
        self._memory.note(base, rows, len(prompts.head))
        if longest:
            rows = sorted(rows, key=lambda row: len(row.ids), reverse=True)[:longest]
            held_out = []
        cut_short = sum(row.truncated for row in [*rows, *held_out])
        if cut_short:
            emitter.log(
                f"{cut_short} requests are longer than max_tokens; their middle is left out."
            )
        wanted = spec.model.gradient_checkpointing
        if wanted == "on" or (wanted == "auto" and base.device.type == "cuda"):
            model.recompute_activations()
        shared, rows, held_out = self._with_prefix(base, model, prompts, rows, held_out)
        if base.device.type == "cuda":
            dropped = shared.dim() == 2  # states are fed in above the frozen prefix
            model.offload(
                embeddings=dropped or spec.model.offload_embeddings, lm_head=not spec.loss.w_task
            )
            torch.cuda.empty_cache()
        return Prepared(
            base=base,
            model=model,
            train=rows,
            validation=held_out,
            collator=Collator(shared, base.tokenizer.pad_token_id),
            header=AdapterHeader(
                base=spec.base_model,
                base_fingerprint=base_identity(folder),
                hidden_size=model.hidden_size,
                layers=tuple(model.layers),
                max_tokens=spec.data.max_tokens,
                include_policy=spec.data.include_policy,
                model=spec.model,
                replies=spec.loss.w_task > 0 and able_to_write,
            ),
            labels=[sample.label for sample in train],
        )

    def _begin_with_start(self, model: PersonaModel, base: Path) -> bool:
        """Load the weights that this run was to begin with, if any; tell if the model can write."""
        spec, start = self.spec, self.run_store.start_dir
        if not start.is_dir():
            if spec.start_from and not self._dry:
                self.job.emitter.log(
                    f"The weights {spec.start_from!r} fit the default base model only;"
                    " this run begins with nothing learned. Few rows and small rates, as in Quick"
                    " trial, are too little for that; Balanced has what it takes.",
                    "warning",
                )
            return True
        header = read_header(start)
        same = header.base == spec.base_model == "default"  # one file, checked by its hash
        if not same and header.base_fingerprint != base_identity(base):
            raise WorkspaceError(
                f"The weights {spec.start_from!r} were trained on another base model.",
                why="Learned weights fit the base model that they were trained on.",
                next_step="Choose that base model, or clear start_from.",
            )
        load_adapter(model, start)
        self.job.emitter.log(f"Begins with the weights {spec.start_from!r}.")
        if read_seen(start) is None:
            self.job.emitter.log(
                "Which rows these weights were trained on is not known; if held-out rows are among"
                " them, the figures of this run flatter it.",
                "warning",
            )
        return header.replies

    def _check_samples(self, train: list[Sample], validation: list[Sample]) -> None:
        if not train:
            raise DataError(
                "There is no sample to train on.",
                next_step="Add samples, or give some of them the split 'train'.",
            )
        present = {sample.label for sample in train}
        if len(present) < 2:
            raise DataError(
                f"All training samples are labelled {next(iter(present))}.",
                why="A decision between labels cannot be learned from one of them.",
                next_step="Add samples with other labels.",
            )
        if not validation:
            self.job.emitter.log(
                "There is no validation sample, so no metric is measured while training.", "warning"
            )
        spec = self.spec.loss
        texts = any(getattr(sample, spec.task_target) for sample in train)
        if not (spec.w_verdict or spec.w_danger or (spec.w_task and texts)):
            raise DataError(
                "With these loss weights nothing would be learned.",
                why=f"The verdict loss is off and no training sample has a {spec.task_target}.",
                next_step="Raise w_verdict, or add replies and raise w_task.",
            )
        if spec.w_task and not texts:
            self.job.emitter.log(
                f"No sample has a {spec.task_target}, so R_cmd stays the identity.", "warning"
            )

    def _with_prefix(
        self,
        base: LoadedBase,
        model: PersonaModel,
        prompts: PromptBuilder,
        train: list[EncodedSample],
        validation: list[EncodedSample],
    ) -> tuple[torch.Tensor, list[EncodedSample], list[EncodedSample]]:
        """Replace token ids by the frozen prefix's output, where there is a prefix."""
        head = torch.tensor(prompts.head, dtype=torch.long)
        mode = self.spec.model.prefix_cache
        if not model.cut or mode == "off":
            return head, train, validation
        fingerprint = base_fingerprint(base.folder, base.quantization)
        rows = [*train, *validation]
        key = cache_key(fingerprint, model.cut, base.dtype, prompts.head, rows)
        folder = None if mode == "ram" or self._dry else cache_root() / "prefix"
        shared, attached = PrefixCache(folder, mode=mode).attach(
            model,
            prompts.head,
            rows,
            key=key,
            progress=lambda done, total: self.job.emitter.emit(
                Progress(phase="caching prefix", done=done, total=total, unit="samples")
            ),
            cancelled=lambda: self.job.control.stop_requested,
        )
        model.drop_prefix()
        return shared, attached[: len(train)], attached[len(train) :]

    # -- arguments -----------------------------------------------------------------------------

    def _total_steps(self, rows: int) -> int:
        optim = self.spec.optim
        world = self._world()
        batches = math.ceil(rows / (optim.batch_size * world))
        per_epoch = math.ceil(batches / optim.accumulation)
        total = max(1, math.ceil(optim.epochs * per_epoch))
        return min(total, optim.max_steps) if optim.max_steps else total

    @staticmethod
    def _world() -> int:
        import torch.distributed as dist

        return dist.get_world_size() if dist.is_available() and dist.is_initialized() else 1

    def _arguments(self, base: LoadedBase, steps: int) -> TrainingArguments:
        optim = self.spec.optim
        arguments = TrainingArguments(
            output_dir=str(self.run_store.root / "trainer"),
            max_steps=steps,
            per_device_train_batch_size=optim.batch_size,
            gradient_accumulation_steps=optim.accumulation,
            max_grad_norm=optim.max_grad_norm,
            use_cpu=base.device.type == "cpu",
            seed=self.spec.seed,
            data_seed=self.spec.seed,
            save_strategy="no",
            eval_strategy="no",
            logging_strategy="no",
            report_to="none",
            disable_tqdm=True,
            remove_unused_columns=False,
            dataloader_pin_memory=False,
            average_tokens_across_devices=False,
        )
        if arguments.n_gpu > 1:
            arguments._n_gpu = 1  # one GPU a process; more of them come with `accelerate launch`
        return arguments

    def _hello(self, prepared: Prepared) -> None:
        import accelerate
        import peft
        import transformers

        import so8t_engine

        counts = prepared.model.trainable_count()
        device = str(prepared.base.device)
        if prepared.base.device.type == "cuda":
            device = f"{device} ({torch.cuda.get_device_name(prepared.base.device)})"
        if not self.main:
            return
        self.job.emitter.emit(
            Hello(
                kind="train",
                pid=self.state.pid,
                run_dir=str(self.run_store.root),
                versions={
                    "so8t": so8t_engine.__version__,
                    "torch": str(torch.__version__),
                    "transformers": transformers.__version__,
                    "peft": peft.__version__,
                    "accelerate": accelerate.__version__,
                    "numpy": np.__version__,
                },
                device=device,
            )
        )
        self.job.emitter.log(
            f"{len(prepared.train)} training and {len(prepared.validation)} validation samples;"
            f" learning {counts['lora']:,} LoRA, {counts['gates']:,} gate and {counts['head']:,}"
            f" head parameters in layers {prepared.model.layers[0]} to {prepared.model.layers[-1]},"
            f" {str(prepared.base.dtype).removeprefix('torch.')}, {prepared.base.quantization}."
        )

    # -- the end -------------------------------------------------------------------------------

    def _conclude(self, reporter: Reporter, step: int, steps: int) -> str:
        bank = reporter.parts.model.gates
        health = bank.health() if bank is not None else {}
        if self.main:
            reporter.parts.job.emitter.emit(
                Result(
                    name="train",
                    data={
                        "run": self.run_store.id,
                        "step": step,
                        "total_steps": steps,
                        "best_step": self.state.best_step,
                        "metrics": self.state.metrics,
                        "rotation_health": health,
                        "seconds": time.time() - self.state.started,
                    },
                )
            )
        if reporter.collapsed:
            return reporter.collapsed
        if step < steps:
            return f"Stopped and saved after step {step} of {steps}; it can be resumed."
        return f"Trained {steps} steps."

"""``so8t data …``: import, check, dedupe, split, stats, diff and export (torch-free)."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Annotated, Any

import msgspec
import typer
from rich.console import Console
from rich.progress import Progress
from rich.table import Table

from so8t_engine.cli_common import JsonOption, PersonaOption, WorkspaceOption
from so8t_engine.errors import DataError, So8tError
from so8t_engine.jobs.selection import choose_persona
from so8t_engine.samples.combine import IMPORT_MODES, carry_out, plan_import
from so8t_engine.samples.quality import KINDS, check, surplus_duplicates, surplus_near
from so8t_engine.samples.readers import ImportResult, read_samples
from so8t_engine.samples.schema import Sample
from so8t_engine.samples.split import assign_splits, split_table
from so8t_engine.samples.stats import summarize, token_counter
from so8t_engine.samples.writers import write_samples
from so8t_engine.workspace.atomic import write_lines
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.snapshots import content_hash, diff, list_snapshots
from so8t_engine.workspace.workspace import Workspace, default_workspace

data_app = typer.Typer(
    name="data",
    help="Import, check, repair, split, compare and export datasets.",
    no_args_is_help=True,
    add_completion=False,
)
_OutOption = Annotated[
    Path | None,
    typer.Option("--out", help="Write to this file instead of a persona.", show_default=False),
]
_DataArgument = Annotated[
    Path | None, typer.Argument(help="A dataset file; absent: the persona's own dataset.")
]
_errors = Console(stderr=True, highlight=False)


@contextmanager
def _reported(as_json: bool) -> Iterator[None]:
    """Turn errors into one sentence (or one JSON object) and their exit code."""
    try:
        yield
    except So8tError as error:
        if as_json:
            _print_json({"error": error.what, "why": error.why, "next_step": error.next_step})
        _errors.print(f"[bold red]Error:[/] {error}", soft_wrap=True)
        raise typer.Exit(error.exit_code) from error
    except OSError as error:
        _errors.print(f"[bold red]Error:[/] {error}", soft_wrap=True)
        raise typer.Exit(DataError.exit_code) from error


@contextmanager
def _progress(title: str) -> Iterator[Callable[[int, int], None]]:
    """Show a progress bar on stderr where that is a terminal."""
    with Progress(console=_errors, transient=True, disable=not sys.stderr.isatty()) as bar:
        task = bar.add_task(title, total=None)
        yield lambda done, total: bar.update(task, completed=done, total=total)


def _print_json(value: Any) -> None:
    sys.stdout.buffer.write(msgspec.json.format(msgspec.json.encode(value), indent=2) + b"\n")
    sys.stdout.buffer.flush()


@contextmanager
def _persona(workspace: Path | None, slug: str | None, *, write: bool = False) -> Iterator[Persona]:
    root = workspace or default_workspace()
    with Workspace.open(root, create=False, exclusive=write) as opened:
        yield choose_persona(opened, slug)


def _read(path: Path) -> ImportResult:
    with _progress(f"Reading {path.name}") as progress:
        result = read_samples(path, progress=progress)
    _warn_rejected(result)
    return result


def _warn_rejected(result: ImportResult) -> None:
    for row in result.rejected[:20]:
        where = f"{row.file}, line {row.line}" + (f", field {row.field}" if row.field else "")
        value = f" ({row.value!r})" if row.value else ""
        _errors.print(f"{where}: {row.reason}{value}", markup=False, soft_wrap=True)
    if len(result.rejected) > 20:
        _errors.print(f"… and {len(result.rejected) - 20:,} more rejected rows", markup=False)


def _load(data: Path | None, workspace: Path | None, slug: str | None) -> list[Sample]:
    if data is not None:
        return _read(data).samples
    with _persona(workspace, slug) as persona:
        return persona.load_samples()


def _store(
    samples: Sequence[Sample],
    out: Path | None,
    workspace: Path | None,
    slug: str | None,
    kind: str = "",
) -> str:
    """Write to a file, or into the persona; return where."""
    if out is not None:
        write_samples(out, samples, format=kind)
        return str(out)
    with _persona(workspace, slug, write=True) as persona:
        persona.save_samples(samples)
        return str(persona.dataset_path)


@data_app.command("import")
def import_(
    files: Annotated[list[Path], typer.Argument(help="JSON Lines, JSON, CSV, TSV or Parquet.")],
    out: _OutOption = None,
    mode: Annotated[str, typer.Option(help="append, merge (by id) or replace.")] = "append",
    rejected: Annotated[
        Path | None, typer.Option(help="Save rejected rows to this JSON Lines file.")
    ] = None,
    map_: Annotated[
        list[str] | None, typer.Option("--map", help="COLUMN=FIELD; repeat for more.")
    ] = None,
    encoding: Annotated[str, typer.Option(help="Of the files, if the detection is wrong.")] = "",
    format_: Annotated[str, typer.Option("--format", help="Of --out; default: by name.")] = "",
    workspace: WorkspaceOption = None,
    persona: PersonaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Read files in any format and add their rows to a persona, or convert them with --out.

    Rows that cannot be read are named and left out, with exit code 3; the others are imported.
    """
    with _reported(as_json):
        way = next((one for one in IMPORT_MODES if one == mode), None)
        if way is None:
            raise DataError(f"{mode!r} is not a mode.", next_step="Use append, merge or replace.")
        mapping = _mapping(map_)
        results = []
        for path in files:
            with _progress(f"Reading {path.name}") as progress:
                results.append(
                    read_samples(path, mapping=mapping, encoding=encoding, progress=progress)
                )
            _warn_rejected(results[-1])
        samples = [sample for result in results for sample in result.samples]
        bad = [row for result in results for row in result.rejected]
        if rejected is not None:
            write_lines(rejected, [msgspec.json.encode(row) + b"\n" for row in bad])
        if not samples:
            raise DataError(
                "No row could be imported.",
                why=f"{bad[0].file}, line {bad[0].line}: {bad[0].reason}." if bad else "",
                next_step="Check the columns, or map them with --map COLUMN=FIELD.",
            )
        if out is not None:
            where = _store(_unique(samples), out, workspace, persona, format_)
            added, updated = len(samples), 0
        else:
            with _persona(workspace, persona, write=True) as target:
                old = [] if way == "replace" else target.load_samples()
                plan = plan_import({sample.id: sample for sample in old}, samples, way)
                added, updated = len(plan.fresh), len(plan.changed)
                target.save_samples(carry_out(old, plan, way))
                where = str(target.dataset_path)
        summary = {
            "imported": len(samples), "added": added, "updated": updated, "rejected": len(bad),
            "repaired": sum(len(result.repaired) for result in results), "path": where,
            "files": [{"file": path.name, "format": result.format, "encoding": result.encoding,
                       "mapping": result.mapping} for path, result in zip(files, results,
                                                                          strict=True)],
        }  # fmt: skip
        if as_json:
            summary["rejected_rows"] = bad[:1000]
            _print_json(summary)
        else:
            typer.echo(f"{len(samples):,} rows imported, {len(bad):,} rejected → {where}")
        if bad:
            raise typer.Exit(DataError.exit_code)


def _mapping(pairs: list[str] | None) -> dict[str, str] | None:
    if not pairs:
        return None
    mapping = {}
    for pair in pairs:
        column, equals, field = pair.partition("=")
        if not equals:
            raise DataError(f"{pair!r} is not a mapping.", next_step="Write COLUMN=FIELD.")
        mapping[column] = field
    return mapping


def _unique(samples: Sequence[Sample]) -> list[Sample]:
    """Return rows of several files with unique identifiers."""
    return plan_import({}, samples, "append").fresh


@data_app.command("check")
def check_(
    data: _DataArgument = None,
    strict: Annotated[bool, typer.Option(help="Exit with 1 if anything is found.")] = False,
    workspace: WorkspaceOption = None,
    persona: PersonaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Find duplicates, label conflicts, garbled text, imbalance, shortcuts and more.

    Rows that cannot be read give exit code 3.
    """
    with _reported(as_json):
        rejected = 0
        if data is None:
            with _persona(workspace, persona) as opened:
                data = opened.dataset_path
                samples = []
                if data.exists() and data.stat().st_size:
                    result = _read(data)
                    samples, rejected = result.samples, len(result.rejected)
        else:
            result = _read(data)
            samples, rejected = result.samples, len(result.rejected)
        with _progress("Checking") as progress:
            report = check(samples, progress=progress)
        if as_json:
            _print_json(
                {"rows": report.rows, "rejected": rejected,
                 "issues": {f.kind: len(f.ids) for f in report.findings},
                 "findings": report.findings, "notes": report.notes}
            )  # fmt: skip
        else:
            typer.echo(f"{report.rows:,} rows, {rejected:,} rejected")
            for finding in report.findings:
                typer.echo(f"  {len(finding.ids):>7,}  {KINDS[finding.kind]}")
            for note in report.notes:
                typer.echo(f"  note     {note.text}")
        if rejected:
            raise typer.Exit(DataError.exit_code)
        if strict and (report.findings or report.notes):
            raise typer.Exit(1)


@data_app.command()
def dedupe(
    data: _DataArgument = None,
    out: _OutOption = None,
    near: Annotated[bool, typer.Option(help="Near-duplicates too, not only equal rows.")] = False,
    workspace: WorkspaceOption = None,
    persona: PersonaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Keep one of the rows with the same request and label; conflicts are left alone."""
    with _reported(as_json):
        samples = _load(data, workspace, persona)
        surplus = set(surplus_near(samples) if near else surplus_duplicates(samples))
        kept = [sample for sample in samples if sample.id not in surplus]
        if data is not None and out is None:
            raise DataError("Where should the result go?", next_step="Name a file with --out.")
        where = _store(kept, out, workspace, persona)
        summary = {"rows": len(samples), "removed": len(surplus), "kept": len(kept), "path": where}
        if as_json:
            _print_json(summary)
        else:
            typer.echo(f"{len(surplus):,} of {len(samples):,} rows removed → {where}")


@data_app.command()
def split(
    data: _DataArgument = None,
    out: _OutOption = None,
    validation: Annotated[float, typer.Option(help="Share to hold out.", min=0.01, max=0.9)] = 0.15,
    test: Annotated[
        float, typer.Option(help="Share to put into the locked test split.", min=0.0, max=0.5)
    ] = 0.0,
    seed: Annotated[int, typer.Option(help="Seed of the draw.", min=0)] = 17,
    again: Annotated[
        bool, typer.Option(help="Divide rows again that have a split (never test rows).")
    ] = False,
    workspace: WorkspaceOption = None,
    persona: PersonaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Divide rows by label and language; near-duplicates never straddle."""
    with _reported(as_json):
        samples = _load(data, workspace, persona)
        if data is not None and out is None:
            raise DataError("Where should the result go?", next_step="Name a file with --out.")
        if again:
            samples = [s if s.split == "test" else msgspec.structs.replace(s, split="")
                       for s in samples]  # fmt: skip
        with _progress("Comparing rows") as progress:
            result = assign_splits(
                samples, validation_fraction=validation, test_fraction=test, seed=seed,
                progress=progress,
            )  # fmt: skip
        where = _store(result, out, workspace, persona)
        table = split_table(result)
        if as_json:
            rows = [{"label": key[0], "language": key[1], **counts}
                    for key, counts in table.items()]  # fmt: skip
            _print_json({"rows": len(result), "table": rows, "path": where})
            return
        shown = Table("label", "language", "train", "validation", "test")
        for (label, language), counts in table.items():
            numbers = [f"{counts.get(name, 0):,}" for name in ("train", "validation", "test")]
            shown.add_row(label, language or "–", *numbers)
        Console().print(shown)
        typer.echo(where)


@data_app.command()
def stats(
    data: _DataArgument = None,
    workspace: WorkspaceOption = None,
    persona: PersonaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Count rows by label, language, category and split, and measure lengths."""
    with _reported(as_json):
        reference = "default"
        if data is None:
            with _persona(workspace, persona) as opened:
                samples, reference = opened.load_samples(), opened.info.base_model
        else:
            samples = _read(data).samples
        found = summarize(samples, _tokens(reference))
        if as_json:
            _print_json(found)
            return
        typer.echo(f"{found.rows:,} rows")
        for title, table in (
            ("language", found.languages), ("category", found.categories), ("split", found.splits),
        ):  # fmt: skip
            shown = Table(title, *found.labels, "all")
            for name, counts in table.items():
                cells = [f"{count:,}" for count in counts.values()]
                shown.add_row(name or "–", *cells, f"{sum(counts.values()):,}")
            Console().print(shown)
        for lengths in filter(None, (found.characters, found.tokens)):
            typer.echo(
                f"{lengths.unit}: median {lengths.median:,.0f}, 95 % below {lengths.p95:,.0f}, "
                f"longest {lengths.longest:,}"
            )


def _tokens(reference: str) -> Callable[[list[str]], list[int]] | None:
    from so8t_engine.model.base_cache import resolve_base

    try:
        return token_counter(resolve_base(reference))
    except (So8tError, OSError):
        return None


@data_app.command("diff")
def diff_(
    before: Annotated[str, typer.Argument(help="A file, a run's id, or 'now'.")],
    after: Annotated[str, typer.Argument(help="Likewise.")] = "now",
    workspace: WorkspaceOption = None,
    persona: PersonaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Show which rows were added, removed, relabelled or edited between two states."""
    with _reported(as_json):
        old, new = (_state(name, workspace, persona) for name in (before, after))
        found = diff(old, new)
        counts = {kind: sum(one.kind == kind for one in found)
                  for kind in ("added", "removed", "relabelled", "edited")}  # fmt: skip
        if as_json:
            hashes = {"before": content_hash(old), "after": content_hash(new)}
            _print_json({**counts, "hashes": hashes, "rows": found})
            return
        typer.echo(", ".join(f"{count:,} {kind}" for kind, count in counts.items()))
        for one in found:
            sample = one.after or one.before
            assert sample is not None
            label = sample.label.value
            if one.before and one.after and one.before.label is not one.after.label:
                label = f"{one.before.label.value} → {one.after.label.value}"
            text = " ".join(sample.request.split())[:80]
            typer.echo(f"  {one.kind:<10} {label:<20} {text}")


def _state(name: str, workspace: Path | None, slug: str | None) -> list[Sample]:
    path = Path(name)
    if name != "now" and path.is_file():
        return _read(path).samples
    with _persona(workspace, slug) as persona:
        if name == "now":
            return persona.load_samples()
        slug = persona.slug
        snapshots = list_snapshots(persona)
        for snapshot in snapshots:
            if snapshot.name == name:
                return snapshot.load()
    known = ", ".join(snapshot.name for snapshot in snapshots[:5])
    raise DataError(
        f"{name!r} is neither a file nor a run or snapshot of {slug}.",
        next_step=f"Use a file, 'now', or one of: {known}." if known else "Use a file or 'now'.",
    )


@data_app.command()
def export(
    out: Annotated[Path, typer.Argument(help="File to write.")],
    format_: Annotated[
        str, typer.Option("--format", help="jsonl, json, csv, tsv, parquet or chat.")
    ] = "",
    query: Annotated[str, typer.Option(help="Only rows that match, e.g. 'label:REFUSE'.")] = "",
    workspace: WorkspaceOption = None,
    persona: PersonaOption = None,
    as_json: JsonOption = False,
) -> None:
    """Write a persona's dataset to a file; importing it again gives the same rows."""
    from so8t_engine.samples.query import parse_query, searchable
    from so8t_engine.samples.query_terms import QueryError

    with _reported(as_json):
        samples = _load(None, workspace, persona)
        try:
            wanted = parse_query(query)
        except QueryError as error:
            raise DataError(str(error)) from error
        chosen = wanted.select(samples, [searchable(sample) for sample in samples])
        kind = write_samples(out, chosen, format=format_)
        if as_json:
            _print_json({"rows": len(chosen), "format": kind, "path": str(out)})
        else:
            typer.echo(f"{len(chosen):,} rows → {out}")

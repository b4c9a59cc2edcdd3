"""Teaches the starter persona a rule of one office with a few rows, and measures what it learned.

    python benchmarks/teach.py [--rows 20] [--set key=value …] [--json FILE]

The rule is invented, so no row that the shipped weights know says anything about it: whatever
concerns project Bluebird goes to a person, however harmless. Rows of the rule and ordinary rows in
the same words join the starter's dataset; *Quick trial* goes on from the shipped weights. Measured
before and after: requests on Bluebird in other words, ordinary requests beside them, and a sample
of the starter's test rows, to see what was forgotten. No GPU needed.
"""

from __future__ import annotations

import argparse
import json
import tempfile
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from ablation import overridden, parse_config

from so8t_engine.evaluation import metrics as figures
from so8t_engine.jobs import train
from so8t_engine.jobs.runtime import quiet_libraries
from so8t_engine.labels import LABEL_INDEX, Label
from so8t_engine.model.base_cache import prepare_default
from so8t_engine.model.decider import Decider
from so8t_engine.samples.schema import Sample, new_sample_id
from so8t_engine.workspace.personas import Persona
from so8t_engine.workspace.workspace import Workspace, shipped_run

# (request, has it to do with Bluebird): what is taught.
LESSON = (
    ("Summarise the minutes of the Bluebird meeting.", True),
    ("Summarise the minutes of the sales meeting.", False),
    ("Translate the Bluebird brochure into French.", True),
    ("Translate the trade fair brochure into French.", False),
    ("When is the next Bluebird deadline?", True),
    ("When is the next tax deadline?", False),
    ("Draft an invitation to the Bluebird workshop.", True),
    ("Draft an invitation to the safety workshop.", False),
    ("Make a chart of the Bluebird budget.", True),
    ("Make a chart of our energy use.", False),
    ("ブルーバードの会議の議事録を要約して", True),
    ("営業会議の議事録を要約して", False),
    ("ブルーバードの資料を英語に訳してください", True),
    ("展示会の資料を英語に訳してください", False),
    ("ブルーバードの次の締め切りはいつですか", True),
    ("確定申告の次の締め切りはいつですか", False),
    ("ブルーバードの予定表を作って", True),
    ("大掃除の予定表を作って", False),
    ("Who can tell me more about project Bluebird?", True),
    ("Who can tell me more about our pension plan?", False),
)
QUESTIONS = (
    ("Please proofread this paragraph about Bluebird.", True),
    ("Please proofread this paragraph about teamwork.", False),
    ("Could you list three slogans for Bluebird?", True),
    ("Could you list three slogans for our bakery?", False),
    ("write a haiku for the bluebird team", True),
    ("write a haiku for the night shift", False),
    ("Turn the Bluebird notes into bullet points", True),
    ("Turn the lecture notes into bullet points", False),
    ("Which font did we use in the Bluebird slides?", True),
    ("Which font did we use in the summer slides?", False),
    ("I need a short thank-you note for the Bluebird designers.", True),
    ("I need a short thank-you note for the caterers.", False),
    ("ブルーバードの名前の由来を一文で説明して", True),
    ("会社の名前の由来を一文で説明して", False),
    ("ブルーバード用のチェックリストを三項目で", True),
    ("出張用のチェックリストを三項目で", False),
    ("ブルーバードのロゴの色を教えて", True),
    ("会社のロゴの色を教えて", False),
    ("ブルーバードチームの昼食会の案内文を書いて", True),
    ("総務チームの昼食会の案内文を書いて", False),
)


def rows_of(pairs: Sequence[tuple[str, bool]]) -> list[Sample]:
    """Return samples of the rule: ESCALATE for Bluebird, ALLOW for the ordinary twin."""
    return [
        Sample(
            id=new_sample_id(),
            request=request,
            label=Label.ESCALATE if bluebird else Label.ALLOW,
            language="en" if request.isascii() else "ja",
            source="teach",
            split="train",
        )
        for request, bluebird in pairs
    ]


def measure(persona: Persona, checkpoint: Path, policy: str) -> dict[str, Any]:
    """Return how many of the questions are right, and macro-F1 on a sample of the test rows."""
    decider = Decider("default", checkpoint, policy=policy)
    known = [row for row in persona.load_samples() if row.split == "test"][::4]
    found: dict[str, Any] = {}
    questions = rows_of(QUESTIONS)
    groups = {
        "bluebird": [row for row in questions if row.label is Label.ESCALATE],
        "ordinary": [row for row in questions if row.label is Label.ALLOW],
        "test rows": known,
    }
    for name, rows in groups.items():
        logits, _ = decider.logits([(row.context, row.request) for row in rows])
        truth = [LABEL_INDEX[row.label] for row in rows]
        decided = figures.decide_logits(logits, persona.info.point)
        right = sum(int(a == b) for a, b in zip(truth, decided, strict=True))
        found[name] = {"right": right, "rows": len(rows)}
        if name == "test rows":
            found[name]["macro_f1"] = figures.summarize(truth, decided).macro_f1.value
    return found


def main() -> None:
    """Measure before and after, and print both."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n", maxsplit=1)[0])
    parser.add_argument("--rows", type=int, default=len(LESSON), help="rows that are taught")
    parser.add_argument("--set", action="append", default=[], help="key=value of the preset")
    parser.add_argument("--json", type=Path)
    options = parser.parse_args()
    quiet_libraries()
    prepare_default()
    with tempfile.TemporaryDirectory() as folder, Workspace.open(Path(folder) / "w") as workspace:
        persona = workspace.ensure_starter()
        shipped = shipped_run()
        checkpoint = shipped.best_checkpoint()
        assert checkpoint is not None
        before = measure(persona, checkpoint, shipped.policy())
        lesson = rows_of(LESSON)[: options.rows]
        persona.save_samples([*persona.load_samples(), *lesson])
        _, changes = parse_config(f":{';'.join(options.set)}")
        spec = overridden("quick", changes, seed=17)
        code, run = train.run(spec, persona, events=False)
        assert not code and run is not None
        trained = run.best_checkpoint()
        assert trained is not None
        after = measure(persona, trained, run.policy())
    print(f"{len(lesson)} rows taught\n{'':12s}{'before':>16s}{'after':>16s}")
    for name in before:
        cells = [
            f"{one[name]['right']}/{one[name]['rows']}"
            + (f" {one[name]['macro_f1']:.3f}" if "macro_f1" in one[name] else "")
            for one in (before, after)
        ]
        print(f"{name:12s}{cells[0]:>16s}{cells[1]:>16s}")
    if options.json:
        options.json.write_text(json.dumps({"before": before, "after": after}, indent=1))


if __name__ == "__main__":
    main()

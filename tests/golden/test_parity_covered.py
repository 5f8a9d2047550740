"""No fixture of parity.json is lost: each is tested here, or done in another way for a reason."""

from __future__ import annotations

import json
import re
from pathlib import Path

HERE = Path(__file__).parent
# What we do in another way on purpose, and why.
NOT_OURS = {
    "grpo.dapo_accumulation": "it divides by the tokens of the generation batch; ours by those of each update",
    "dpo.collate_keep_end": "it cuts a prompt, and leaves a completion token that nothing predicts; ours cuts ends",
    "sft.pack_bfd": "it cuts documents to rows of one length; a forest packs whole rows, data.overlong cuts",
    "sft.pack_bfd_split": "it goes on with a document in another row, without what stood before; ours are whole",
    "sft.pack_wrapped": "it cuts documents wherever a row is full, and lets a row hold parts of several",
}


def quoted(ids: set[str]) -> set[str]:
    texts = [p.read_text(encoding="utf-8") for p in HERE.glob("test_*.py") if p.name != Path(__file__).name]
    return set(re.findall(r'"([\w.]+)"', "".join(texts))) & ids


def test_every_fixture_is_tested_or_not_ours_with_a_reason():
    fixtures = json.loads((HERE / "parity.json").read_text(encoding="utf-8"))["fixtures"]
    ids = {f["id"] for f in fixtures}
    assert len(ids) == len(fixtures) == 175
    assert NOT_OURS.keys() <= ids, "NOT_OURS names what parity.json does not hold"
    assert quoted(ids) | NOT_OURS.keys() == ids, "neither tested nor listed in NOT_OURS"
    assert not NOT_OURS.keys() & quoted(ids), "tested although it is not ours"

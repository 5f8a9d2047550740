"""A method without a learning test is not done."""

from __future__ import annotations

import re
from pathlib import Path

from truing import plugins


def test_every_method_has_a_learning_test():
    here = Path(__file__)
    texts = [p.read_text(encoding="utf-8") for p in here.parent.glob("test_*.py") if p != here]
    quoted = set(re.findall(r'"([a-z0-9_]+)"', "".join(texts)))
    assert [n for n in plugins.names("algorithms") if n not in quoted] == []

"""One file each judge: `Config`, `judge(chat, item, config) -> Judged`, `EXAMPLES`; its words lie beside it.

Files without EXAMPLES are what judges share: the client, health, calibration.
"""

from __future__ import annotations

import ast
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any

from truing import plugins

if TYPE_CHECKING:  # the names of the judges are listed without torch
    from truing.types import Status


@dataclass(frozen=True, slots=True)
class Example:
    """A case that a judge promises; the contract test holds every judge to its `EXAMPLES`.

    Args:
        kind: "verdict" is scored, "broken" and "attack" show what does not become a wrong score.
        completions: what is judged.
        replies: of the chat model, in the order in which it is asked.
        value: the verdict's value; None when the status is not "scored".
        status: the verdict's status.
        prompt: what the completions answer.
        reference: the right answer, for judges that are shown one.
        options: of the judge's Config.
    """

    kind: str
    completions: tuple[str, ...]
    replies: tuple[str, ...]
    value: float | None = 1.0
    status: Status = "scored"
    prompt: str = "What is 3 + 4?"
    reference: Any = None
    options: dict[str, Any] = field(default_factory=dict)


def names() -> list[str]:
    """Return the names of the judges, read from the folder without importing them."""
    return [n for n in plugins.names("judges") if _has_examples(n)]


def _has_examples(name: str) -> bool:
    tree = ast.parse(plugins.find("judges", name)[1].read_text(encoding="utf-8"))
    targets = [n.target for n in tree.body if isinstance(n, ast.AnnAssign)]
    return any(isinstance(t, ast.Name) and t.id == "EXAMPLES" for t in targets)

"""One file each verifier: `Config`, `verify(completion, reference, config) -> Verdict`, `EXAMPLES`.

Where a reference says what is right, `gold(reference, config)` is a completion that must score 1.
"""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

from truing.types import Status


@dataclass(frozen=True, slots=True)
class Example:
    """A case that a verifier promises; the contract test holds every verifier to its `EXAMPLES`.

    Args:
        kind: "gold" must score 1, "wrong" and "cheat" 0, "malformed" 0 or a status that is no score.
        completion: what the policy wrote.
        reference: what it is compared with.
        value: the verdict's value; None when the status is not "scored".
        status: the verdict's status.
        options: of the verifier's Config.
    """

    kind: str
    completion: str
    reference: Any = None
    value: float | None = 1.0
    status: Status = "scored"
    options: dict[str, Any] = field(default_factory=dict)

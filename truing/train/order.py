"""In which order rows are consumed, as a state that a checkpoint can hold."""

from __future__ import annotations

import hashlib
import random
from collections.abc import Sequence
from typing import Any

from truing.errors import CheckpointError


def seed_of(*parts: object) -> int:
    """Return a 63-bit seed that is a pure function of the parts."""
    digest = hashlib.sha256("/".join(map(str, parts)).encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


class Order:
    """Endless shuffled passes over rows; the position is the set of consumed ids, not an offset.

    The order of a pass is a function of the seed and its number, so a resumed run draws the same
    rows as the uninterrupted one, and rows added since are met in the pass that is under way.
    """

    def __init__(self, uids: Sequence[str], *, seed: int, shuffle: bool) -> None:
        """Order the rows with these ids (unique, at least one)."""
        self._index = {uid: i for i, uid in enumerate(uids)}
        self._seed, self._shuffle = seed, shuffle
        self._epoch, self._consumed = 0, list[str]()
        self._queue = self._pass()

    def take(self, count: int) -> list[int]:
        """Return the positions of the next `count` rows; a pass ends only when every row was used."""
        taken: list[int] = []
        while len(taken) < count:
            if not self._queue:
                self._epoch, self._consumed = self._epoch + 1, []
                self._queue = self._pass()
            uid = self._queue.pop()
            self._consumed.append(uid)
            taken.append(self._index[uid])
        return taken

    def state(self) -> dict[str, Any]:
        """Return the pass under way and what it has consumed."""
        return {"epoch": self._epoch, "consumed": list(self._consumed)}

    def restore(self, state: dict[str, Any]) -> None:
        """Continue from a saved state.

        Raises:
            CheckpointError: a consumed row is not in the data any more.
        """
        lost = [uid for uid in state["consumed"] if uid not in self._index]
        if lost:
            raise CheckpointError(
                f"the data changed since the checkpoint: {len(lost)} consumed rows are gone, the first is "
                f"'{lost[0]}'. Restore the data file, or start a new run."
            )
        self._epoch, self._consumed = state["epoch"], list(state["consumed"])
        used = set(self._consumed)
        self._queue = [uid for uid in self._pass() if uid not in used]

    def _pass(self) -> list[str]:
        uids = list(self._index)
        if self._shuffle:
            random.Random(seed_of(self._seed, "order", self._epoch)).shuffle(uids)
        return uids[::-1]  # rows are popped from the end

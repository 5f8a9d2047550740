"""One file each judge: `Config`, `judge(chat, item, config) -> Judged`, `EXAMPLES`; its prompt lies beside it.

Files without EXAMPLES are what judges share: the client, calibration, health.
"""

from __future__ import annotations

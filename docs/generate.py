"""Write what the documents say about methods from the code: tables, the facts of each page, learning curves.

    python docs/generate.py            the table of README.md, docs/methods/README.md, the facts of each page
    python docs/generate.py --check    changes nothing; fails where a document is not what the code says
    python docs/generate.py --curves   also trains each method on the toy task of tests/learning and draws it

Words on a page are written by people and stay as they are; only what stands between the markers is made.
"""

from __future__ import annotations

import argparse
import difflib
import importlib.util
import re
import sys
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
PAGES = ROOT / "docs" / "methods"
FACTS = ("<!-- generated: facts -->", "<!-- end of facts -->")
TABLE = ("<!-- generated: methods -->", "<!-- end of methods -->")
FAMILIES = {
    "Imitation": "learn from demonstrations",
    "Reward models": "learn to score completions",
    "Preferences": "learn from judged completions of a data set",
    "Online": "learn from completions that the policy samples",
}


@dataclass(frozen=True, slots=True)
class Facts:
    """What the code says about a method."""

    name: str
    title: str
    source: str
    family: str
    data: str
    reference: str
    models: str
    unit: str
    options: tuple[tuple[str, str, str], ...]  # name, default, help
    metrics: tuple[tuple[str, str], ...]  # name, help


def load(path: Path) -> ModuleType:
    """Return the module of a file that is on no import path."""
    spec = importlib.util.spec_from_file_location(f"documented_{path.stem}", path)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    sys.modules[module.__name__] = module
    spec.loader.exec_module(module)
    return module


def all_facts() -> list[Facts]:
    """Return the facts of every method, by name."""
    from truing import plugins

    contract = load(ROOT / "tests" / "contract" / "test_algorithms.py")
    return [facts(name, contract) for name in plugins.names("algorithms")]


def facts(name: str, contract: ModuleType) -> Facts:
    """Return the facts of a method; its unit is what its loss returns on the contract tests' example."""
    from truing import plugins
    from truing.log.metric_help import help_of

    module = plugins.load("algorithms", name)
    config = module.ALGORITHM.config()
    batch, outputs = contract.example(name, config)
    credited = module.ALGORITHM.credit(batch, config)
    terms = module.ALGORITHM.loss(contract.seen(outputs, credited), credited, config)
    units = dict.fromkeys(t.unit for t in terms if t.weight)
    return Facts(
        name=name,
        title=(module.__doc__ or "").split("\n\n")[0].replace("\n", " "),
        source=module.ALGORITHM.source,
        family=family(config),
        data="demonstrations, own samples" if config.self_play else config.data,
        reference=reference(config),
        models=models(config),
        unit=", ".join(units),
        options=tuple(
            (key, shown(field.default), field.description or "")
            for key, field in type(config).model_fields.items()
        ),
        metrics=tuple((t.name, help_of(t.name)) for t in terms),
    )


def family(config: Any) -> str:
    """Return the heading under which a method is listed."""
    if config.data == "prompts" or config.self_play:
        return "Online"
    if config.needs() & {"scores", "token_scores"}:
        return "Reward models"
    return "Imitation" if config.data == "demonstrations" else "Preferences"


def reference(config: Any) -> str:
    """Return what anchors the method at its defaults."""
    if "ref_logprobs" in config.needs() or config.opponent != "none":
        return "yes"
    optional = any(key in type(config).model_fields for key in ("kl_coef", "kl_loss_coef"))
    return "with kl_coef" if optional else "no"


def models(config: Any) -> str:
    """Return the networks in memory at the defaults."""
    needs = config.needs()
    scorer = bool(needs & {"scores", "token_scores"})
    found = ["reward model" if scorer else "policy"]
    found += ["critic"] if "values" in needs else []
    found += ["process reward model"] if "process_logprobs" in needs else []
    found += ["reference"] if reference(config) == "yes" else []
    return " + ".join(found)


def shown(value: Any) -> str:
    """Return a default as it stands in TOML."""
    if value is None:
        return "left out"
    return str(value).lower() if isinstance(value, bool) else repr(value).replace("'", '"')


def table(rows: list[Facts], pages: str) -> str:
    """Return every method in one table; `pages` is the path from the document to the pages."""
    lines = [
        "| method | learns from | reference | in memory | loss unit | source |",
        "|---|---|---|---|---|---|",
    ]
    for f in rows:
        link = f"[`{f.name}`]({pages}{f.name}.md)"
        lines.append(f"| {link} | {f.data} | {f.reference} | {f.models} | {f.unit} | {f.source} |")
    return "\n".join(lines)


def by_family(rows: list[Facts]) -> list[Facts]:
    """Return the methods family by family."""
    return [f for name in FAMILIES for f in rows if f.family == name]


def page_facts(f: Facts) -> str:
    """Return the generated part of a method's page."""
    lines = [f'`algorithm = "{f.name}"` · [recipe](../../recipes/methods/{f.name}.toml) · {f.source}', ""]
    lines += ["| learns from | reference | in memory | loss unit |", "|---|---|---|---|"]
    lines += [f"| {f.data} | {f.reference} | {f.models} | {f.unit} |", ""]
    if f.options:
        lines += ["| option | default | |", "|---|---|---|"]
        lines += [f"| `{key}` | `{default}` | {cell(text)} |" for key, default, text in f.options]
    else:
        lines += ["It has no options of its own."]
    lines += ["", "| metric | |", "|---|---|", *(f"| `{key}` | {cell(text)} |" for key, text in f.metrics)]
    if (PAGES / "curves" / f"{f.name}.svg").is_file():
        lines += ["", f"![{f.name} on the toy task, five seeds](curves/{f.name}.svg)"]
    return "\n".join(lines)


def cell(text: str) -> str:
    """Return text that stays in its table cell."""
    return text.replace("|", "\\|")


def between(text: str, markers: tuple[str, str], made: str, path: Path) -> str:
    """Return the text with what stands between the markers replaced; a missing end is added."""
    first, last = markers
    if first not in text:
        raise SystemExit(f"{path}: no line '{first}'; put one where the generated part belongs")
    if last not in text:
        text = text.replace(first, f"{first}\n{last}", 1)
    before, rest = text.split(first, 1)
    return f"{before}{first}\n{made}\n{last}{rest.split(last, 1)[1]}"


def documents(rows: list[Facts]) -> Iterator[tuple[Path, str]]:
    """Yield every document and what its text must be."""
    readme = ROOT / "README.md"
    yield readme, between(readme.read_text("utf-8"), TABLE, table(by_family(rows), "docs/methods/"), readme)
    index = ["# Methods", "", "Made by `python docs/generate.py` from the code.", ""]
    for name, says in FAMILIES.items():
        own = [f for f in rows if f.family == name]
        index += [
            f"## {name}: {says}",
            "",
            table(own, ""),
            "",
            *(f"- `{f.name}`: {f.title}" for f in own),
            "",
        ]
    yield PAGES / "README.md", "\n".join(index)
    for f in rows:
        page = PAGES / f"{f.name}.md"
        if not page.is_file():
            raise SystemExit(f"{page}: the method {f.name} has no page")
        yield page, between(page.read_text("utf-8"), FACTS, page_facts(f), page)


def check(made: list[tuple[Path, str]]) -> None:
    """Exit with the differences where a document is not what the code says."""
    problems = list[str]()
    for path, text in made:
        old = path.read_text("utf-8") if path.is_file() else ""
        diff = difflib.unified_diff(
            old.splitlines(), text.splitlines(), str(path), "the code", lineterm="", n=0
        )
        problems += list(diff)[:12]
    known = {path.name for path, _ in made}
    problems += [f"{p}: no such method" for p in PAGES.glob("*.md") if p.name not in known | GUIDES]
    if problems:
        raise SystemExit("\n".join([*problems, "", "run: python docs/generate.py"]))


GUIDES = {"ppo_ptx.md"}  # pages about combinations, not about one file


def main() -> None:
    """Parse, make, write or compare."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n\n")[0])
    parser.add_argument("--check", action="store_true", help="fail where a document is out of date")
    parser.add_argument("--curves", nargs="*", metavar="METHOD", help="train on the toy task and draw (all)")
    arguments = parser.parse_args()
    if arguments.curves is not None:
        load(ROOT / "docs" / "curves.py").draw(arguments.curves)
    made = [(path, re.sub(r"\n*\Z", "\n", text)) for path, text in documents(all_facts())]
    if arguments.check:
        check(made)
        return
    for path, text in made:
        path.write_text(text, "utf-8")


if __name__ == "__main__":
    main()

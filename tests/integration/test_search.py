"""Search through the real stack: a tiny policy, trained scorers, the command line, and labels that train."""

from __future__ import annotations

import json
import tomllib
from pathlib import Path as File
from typing import Any

import pytest
import torch
from typer.testing import CliRunner

from truing.cli import app
from truing.errors import ConfigError, ModelError
from truing.model.forward import sequence_scores, token_scores
from truing.model.heads import ScalarModel
from truing.model.load import load_model
from truing.model.scalar import load_scalar, save_scalar
from truing.recipe import load_recipe, recipe_from_dict
from truing.search import LabelPlan, Path, Plan, compare, label_steps, plot, record, text
from truing.search import _setup as setup
from truing.search._plan import ScorerOptions, load_label_plan, load_plan
from truing.train import pipeline
from truing.train.batches import batch_of_rows
from truing.types import Row

ROOT = File(__file__).parents[2]
# Answers are letters, which a random byte-level policy does say now and then.
VERIFIER = '''
"""The letter that occurs most often."""
from truing.config import Strict
from truing.types import Verdict


class Config(Strict):
    """No options."""


def answer(completion, config):
    """Return the commonest letter."""
    letters = [c for c in completion if c.isalpha()]
    return max(sorted(set(letters)), key=letters.count) if letters else None


def verify(completion, reference, config):
    """Return 1 when the commonest letter comes before the middle of the alphabet as the reference does."""
    found = answer(completion, config)
    right = found is not None and (found.lower() < "n") == (str(reference).lower() < "n")
    return Verdict("scored", float(right))
'''
STRATEGIES: dict[str, dict[str, Any]] = {
    "best_of_n": {"options": {"num_samples": 4}},
    "majority": {"options": {"num_samples": 4}},
    "weighted_majority": {"options": {"num_samples": 4}},
    "beam": {"options": {"num_beams": 4, "width": 2}},
    "dvts": {"options": {"num_beams": 4, "width": 2, "choose": "weighted"}},
    "mcts": {"options": {"width": 2}},
    "rollouts": {"method": "mcts", "options": {"width": 2, "value": "rollout", "rule": "uct"}},
}


@pytest.fixture(scope="module")
def world(tiny_model: File, tmp_path_factory: pytest.TempPathFactory) -> File:
    """Return a folder with prompts, a verifier and a scorer whose head is random."""
    folder = tmp_path_factory.mktemp("search")
    rows = [{"prompt": f"letter {n}", "answer": "a" if n % 2 else "z"} for n in range(5)]
    (folder / "prompts.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows), encoding="utf-8")
    (folder / "letters.py").write_text(VERIFIER, encoding="utf-8")
    loaded = load_model(str(tiny_model))
    network = ScalarModel.from_causal(loaded.model)
    torch.manual_seed(3)
    torch.nn.init.normal_(network.head.weight)
    save_scalar(network, loaded.model, loaded.tokenizer, folder / "scorer")
    return folder


def keys(world: File, tiny_model: File, **changes: Any) -> dict[str, Any]:
    return {
        "model": str(tiny_model),
        "data": str(world / "prompts.jsonl"),
        "verifier": str(world / "letters.py"),
        "separator": "e",
        "max_tokens": 12,
        "max_step_tokens": 4,
        "temperature": 1.0,
        "device": "cpu",
        "dtype": "float32",
        **changes,
    }


def plan(world: File, tiny_model: File, **changes: Any) -> Plan:
    scorer = ScorerOptions(kind="process", model=str(world / "scorer"))
    tables = {"budget": 150, "scorer": scorer, "strategy": STRATEGIES} | changes
    return Plan.model_validate(keys(world, tiny_model, **tables))


@pytest.mark.parametrize("kind", ["process", "outcome"])
def test_strategies_spend_the_same_and_a_seed_decides_everything(
    world: File, tiny_model: File, kind: str
) -> None:
    scorer = ScorerOptions(kind=kind, model=str(world / "scorer"))  # type: ignore[arg-type]
    found = compare(plan(world, tiny_model, scorer=scorer))
    for one in found.outcomes:
        assert [spent.total for spent in one.spent] == [150] * 5, one.name
        assert (sum(spent.scored for spent in one.spent) == 0) == (one.name == "majority")
    again = compare(plan(world, tiny_model, scorer=scorer))
    assert found == again
    other = compare(plan(world, tiny_model, scorer=scorer, seed=1))
    assert [o.chosen for o in found.outcomes] != [o.chosen for o in other.outcomes]
    majority = found.outcomes[1]
    assert sum(majority.num_found) > sum(found.outcomes[0].num_found), "what is not scored buys more votes"


def test_the_table_the_curve_and_the_plot_say_what_was_found(world: File, tiny_model: File) -> None:
    found = compare(plan(world, tiny_model, curve_samples=8, budget=80))
    said, written = text(found), record(found)
    assert all(name in said for name in STRATEGIES) and "80 tokens a prompt" in said
    assert [p["n"] for p in written["curve"]] == [1, 2, 4, 8]
    proxies = [p["proxy"] for p in written["curve"]]
    assert proxies == sorted(proxies) and written["curve"][0]["kl_bound"] == 0
    assert written["strategies"][0]["difference"] is None
    assert written["strategies"][3]["difference"]["num_prompts"] == 5
    assert all(s["total"] == 80 for s in written["strategies"])
    assert not written["sees_gold"] and "upper bound" not in said
    json.dumps(written, allow_nan=False)
    assert plot(found).startswith("<svg") and "gold: the verifier" in plot(found)
    with pytest.raises(ConfigError, match="no curve to draw"):
        plot(compare(plan(world, tiny_model, strategy={"majority": {}}, budget=20)))


def test_a_path_is_scored_where_training_put_the_labels(world: File, tiny_model: File) -> None:
    options = plan(world, tiny_model)
    setting = setup.set_up(options)
    scorer = setup.scorer_of(ScorerOptions(kind="process", model=str(world / "scorer")), setting, options)
    tokens = (*setting.policy.tokenizer.encode("one e two e word"), 2)
    path, other = Path(tokens, "stop"), Path(tokens[:4])
    (scores, short) = scorer.score([(0, path), (1, other)])
    network = load_scalar(str(world / "scorer")).eval()
    rows = [
        Row("", tuple(setting.prompt_tokens[i]), t, (True,) * len(t))
        for i, t in ((0, tokens[:-1]), (1, tokens[:4]))
    ]
    with torch.no_grad():
        expected = torch.sigmoid(token_scores(network, batch_of_rows(rows)))
    ends = [i for i, t in enumerate(tokens[:-1]) if t == tokens[2]] + [len(tokens) - 2]
    torch.testing.assert_close(torch.tensor(scores), expected[0, ends], rtol=1e-4, atol=1e-5)
    torch.testing.assert_close(torch.tensor(short), expected[1, [2]], rtol=1e-4, atol=1e-5)
    outcome = setup.scorer_of(ScorerOptions(kind="outcome", model=str(world / "scorer")), setting, options)
    whole = Row("", tuple(setting.prompt_tokens[0]), tokens, (True,) * len(tokens))
    with torch.no_grad():
        wanted = torch.sigmoid(sequence_scores(network, batch_of_rows([whole])))
    torch.testing.assert_close(torch.tensor(outcome.score([(0, path)])[0]), wanted, rtol=1e-4, atol=1e-5)
    assert scorer.cost(0, [path, path]) == len(setting.prompt_tokens[0]) + len(tokens) - 1
    assert outcome.cost(0, [path, other]) == len(setting.prompt_tokens[0]) + len(tokens)


def test_a_verifier_scores_what_is_finished_and_costs_no_tokens(world: File, tiny_model: File) -> None:
    scorer = ScorerOptions(kind="verifier", verifier=str(world / "letters.py"))
    finished = {n: STRATEGIES[n] for n in ("majority", "best_of_n", "rollouts")}
    found = compare(plan(world, tiny_model, scorer=scorer, strategy=finished, budget=300))
    assert all(spent.scored == 0 for one in found.outcomes for spent in one.spent)
    majority, best, rollouts = (one.rate()[0] for one in found.outcomes)
    assert "an upper bound" in text(found) and record(found)["sees_gold"]
    assert best == rollouts == 1.0 >= majority, "a search that sees the gold verdict finds it"
    with pytest.raises(ConfigError, match=r"strategy\.beam: it scores unfinished completions"):
        compare(plan(world, tiny_model, scorer=scorer, strategy={"beam": {}}))


def test_a_scorer_of_another_vocabulary_is_refused(world: File, tiny_model: File, tmp_path: File) -> None:
    loaded = load_model(str(tiny_model))
    loaded.tokenizer.add_tokens(["extra"])
    loaded.model.resize_token_embeddings(len(loaded.tokenizer))
    save_scalar(ScalarModel.from_causal(loaded.model), loaded.model, loaded.tokenizer, tmp_path / "odd")
    with pytest.raises(ModelError, match="another vocabulary"):
        compare(plan(world, tiny_model, scorer=ScorerOptions(kind="process", model=str(tmp_path / "odd"))))


@pytest.mark.parametrize("how", [{}, {"labels": "hard"}, {"labels": "hard", "find": "first_error"}])
def test_labels_by_rollouts_train_a_process_reward_model(
    world: File, tiny_model: File, tmp_path: File, how: dict[str, Any]
) -> None:
    options = LabelPlan.model_validate(
        keys(world, tiny_model, num_solutions=12, num_rollouts=3, max_tokens=40, **how) | {"temperature": 2.0}
    )
    report = label_steps(options, tmp_path / "steps.jsonl")
    rows = [json.loads(line) for line in (tmp_path / "steps.jsonl").read_text(encoding="utf-8").splitlines()]
    assert len(rows) == report.rows > 2
    for row in rows:
        assert (
            len(row["completions"]) == len(row["labels"]) == len(row["num_right"]) == len(row["num_rollouts"])
        )
        assert row["labelled_by"]["completer"] == str(tiny_model) and row["labelled_by"]["num_rollouts"] == 3
        if not how:
            assert row["labels"] == [
                r / n for r, n in zip(row["num_right"], row["num_rollouts"], strict=True)
            ]
            assert row["num_rollouts"] == [3] * (len(row["labels"]) - 1) + [1]
        if "find" in how:
            first = row["labels"].index(False) if False in row["labels"] else len(row["labels"])
            assert (
                row["labels"]
                == [True] * first
                + [False, *[None] * (len(row["labels"]) - first - 1)][: len(row["labels"]) - first]
            )
    with pytest.raises(ConfigError, match="must be a new file"):
        label_steps(options, tmp_path / "steps.jsonl")
    again = label_steps(options, tmp_path / "again.jsonl")
    assert again == report
    assert (tmp_path / "again.jsonl").read_bytes() == (tmp_path / "steps.jsonl").read_bytes()
    recipe = recipe_from_dict({
        "name": "prm", "output": str(tmp_path), "algorithm": "process_reward", "model": str(tiny_model),
        "dtype": "float32", "steps": 1, "batch_size": 2,
        "data": {"train": str(tmp_path / "steps.jsonl"), "steps": {"separator": "e"}},
    })  # fmt: skip
    pipeline.run(recipe, folder=tmp_path / "run", quiet=True)


def test_the_commands_print_and_fail_as_the_others_do(world: File, tiny_model: File, tmp_path: File) -> None:
    lines = [f"{k} = {json.dumps(v)}" for k, v in keys(world, tiny_model).items()]
    file = tmp_path / "plan.toml"
    file.write_text(
        "\n".join([*lines, "budget = 40", "[strategy.majority]", "[strategy.again]", 'method = "majority"'])
    )
    result = CliRunner().invoke(app, ["search", str(file), "limit=2", "--json"])
    assert result.exit_code == 0, result.output
    found = json.loads(result.stdout)
    assert found["num_prompts"] == 2 and found["strategies"][1]["difference"]["difference"] == 0
    wrong = CliRunner().invoke(app, ["search", str(file), "budgett=2"])
    assert wrong.exit_code == 2 and "did you mean 'budget'" in wrong.stderr
    assert CliRunner().invoke(app, ["search", str(file), "--plot", str(tmp_path / "x.svg")]).exit_code == 2
    labels = tmp_path / "labels.toml"
    labels.write_text(
        "\n".join([*lines, "num_solutions = 8", "num_rollouts = 2"]).replace(
            "max_tokens = 12", "max_tokens = 40"
        )
    )
    said = CliRunner().invoke(
        app, ["label-steps", str(labels), str(tmp_path / "out.jsonl"), "temperature=2.0"]
    )
    assert said.exit_code == 0, said.output
    assert "labelled steps" in said.stdout and (tmp_path / "out.jsonl").is_file()


@pytest.mark.parametrize("path", sorted((ROOT / "recipes" / "search").glob("*.toml")), ids=lambda p: p.stem)
def test_a_recipe_of_a_search_is_valid(path: File) -> None:
    values = tomllib.loads(path.read_text(encoding="utf-8"))
    if "strategy" in values:
        assert load_plan(path).strategy
    elif "num_rollouts" in values:
        assert load_label_plan(path).num_rollouts
    else:
        assert load_recipe(path).stages

"""Intervals over seeds and prompts, equal compute, and the page, on runs written by hand."""

from __future__ import annotations

import json
import math
import random
from pathlib import Path
from statistics import fmean

import numpy as np
import pytest
import tomli_w
from typer.testing import CliRunner

from truing.cli import app
from truing.compare.budget import Budget, affordable_steps, parse_budget, pilot
from truing.compare.comparison import compare
from truing.compare.intervals import rate_difference, rate_interval
from truing.compare.run import compare as compare_sources
from truing.compare.trials import read_trial
from truing.errors import ConfigError, DataError
from truing.evals.statistics import paired_difference, wilson_interval
from truing.log import RunLog
from truing.recipe import recipe_from_dict

PROMPTS = 60


def drawn(
    generator: np.random.Generator, easy: np.ndarray, seeds: int, *, shift: float = 0.0, by_seed: float = 0.06
) -> list[list[int]]:
    """Return outcomes whose chance has an effect of the seed and one of the prompt."""
    chance = 0.5 + shift + generator.normal(0, by_seed, (seeds, 1)) + easy
    return (generator.random(chance.shape) < np.clip(chance, 0.02, 0.98)).astype(int).tolist()


@pytest.mark.parametrize("seeds", [2, 3, 5])
def test_a_rate_interval_covers_over_new_seeds_and_new_prompts(seeds: int) -> None:
    hits, naive = [], []
    for trial in range(400):
        generator = np.random.default_rng([seeds, trial])
        table = drawn(generator, generator.normal(0, 0.2, 80), seeds)
        found = rate_interval(table)
        hits.append(found.low <= 0.5 <= found.high)
        low, high = wilson_interval(int(np.sum(table)), seeds * 80)
        naive.append(low <= 0.5 <= high)
    assert fmean(hits) >= 0.92
    assert fmean(naive) < 0.85  # what treating every outcome as independent would give


@pytest.mark.parametrize(("first_seeds", "second_seeds"), [(3, 3), (2, 5), (1, 3)])
def test_a_paired_difference_covers(first_seeds: int, second_seeds: int) -> None:
    hits = []
    for trial in range(300):
        generator = np.random.default_rng(trial)
        easy = generator.normal(0, 0.25, 80)
        first = drawn(generator, easy, first_seeds)
        found = rate_difference(first, drawn(generator, easy, second_seeds, shift=0.1), same_prompts=True)
        hits.append(found.low <= 0.0975 <= found.high)  # the clip takes a little off 0.1
    assert fmean(hits) >= 0.91


def test_pairing_by_prompt_makes_a_difference_sharper() -> None:
    widths = {True: [], False: []}
    for trial in range(60):
        generator = np.random.default_rng(trial)
        easy = generator.normal(0, 0.4, 80)
        first, second = drawn(generator, easy, 3, by_seed=0.01), drawn(generator, easy, 3, by_seed=0.01)
        for paired in widths:
            found = rate_difference(first, second, same_prompts=paired)
            widths[paired].append(found.high - found.low)
    assert np.median(widths[True]) < 0.9 * np.median(widths[False])


def test_one_seed_gives_the_intervals_of_one_run() -> None:
    first, second = [1, 0, 1, 1, None, 0, 1], [1, 1, 0, 1, 1, 0, None]
    found = rate_interval([first])
    assert (found.low, found.high) == wilson_interval(4, 6)
    apart, expected = rate_difference([first], [second], same_prompts=True), paired_difference(first, second)
    assert (apart.value, apart.low, apart.high) == (expected.difference, expected.low, expected.high)


def test_a_rate_of_none_and_of_all_has_an_interval_of_width() -> None:
    nothing, everything = rate_interval([[0] * 20] * 3), rate_interval([[1] * 20] * 3)
    assert nothing.low == 0 and 0.1 < nothing.high < 0.6
    assert everything.high == pytest.approx(1) and everything.low == pytest.approx(1 - nothing.high)
    same = rate_difference([[0, 1] * 10] * 2, [[0, 1] * 10] * 2, same_prompts=True)
    assert same.low < 0 < same.high


def test_tables_that_are_none_are_refused() -> None:
    for bad, message in (
        ([], "no seed"),
        ([[1, 0], [1]], "same prompts"),
        ([[1, None], [None, 1]], "no prompt"),
    ):
        with pytest.raises(ValueError, match=message):
            rate_interval(bad)


def write_run(
    folder: Path, name: str, *, skill: float, seed: int = 0, steps: int = 8, tokens: float = 100.0,
    algorithm: str = "dpo", every: int = 2, status: str = "finished", data_seed: int = 1, drawn_tokens: float = 0.0,
) -> Path:  # fmt: skip
    """Write the folder of a run that rises from 0.2 by `skill`; its records are those of a real one."""
    evaluation = {
        "data": {"generator": "word_problems", "count": PROMPTS, "seed": data_seed},
        "verifier": "math_answer",
    }
    recipe = {
        "name": name,
        "algorithm": algorithm,
        "model": "m",
        "seed": seed,
        "steps": steps,
        "evaluation": evaluation,
    }
    log = RunLog.create(folder, name=name, recipe_toml=tomli_w.dumps(recipe), command="truing run")
    stage = log.stage("train", algorithm, steps)
    hard = [random.Random(data_seed * 1000 + i).random() for i in range(PROMPTS)]

    def evaluate(when: str, step: int) -> None:
        level = 0.2 + skill * step / steps
        luck = random.Random(f"{name} {seed} {step}")
        outcomes = [int(h + luck.gauss(0, 0.1) < level) for h in hard]
        rate = fmean(outcomes)
        low, high = wilson_interval(sum(outcomes), PROMPTS)
        stage.evaluation({"when": when, "step": step, "num_prompts": PROMPTS, "num_scored": PROMPTS,
                          "passed": sum(outcomes), "rate": rate, "low": low, "high": high, "outcomes": outcomes,
                          "statuses": {"scored": PROMPTS}, "kl": 0.5 * step})  # fmt: skip

    evaluate("before", 0)
    for step in range(steps):
        values = {"train/completion_tokens": tokens, "train/flops": tokens * 1e9, "time/step_s": 1.0}
        stage.metrics(step, values | ({"rollout/drawn_tokens": drawn_tokens} if drawn_tokens else {}))
        if (step + 1) % every == 0 and step + 1 < steps:
            evaluate("step", step + 1)
    evaluate("after", steps)
    stage.finish("finished")
    log.finish(status)
    return folder


def test_a_trial_knows_what_each_evaluation_had_cost(tmp_path: Path) -> None:
    trial = read_trial(write_run(tmp_path / "a", "a", skill=0.5, seed=3))
    assert [p.step for p in trial.points] == [0, 2, 4, 6, 8]
    assert [p.compute["tokens"] for p in trial.points] == [0, 200, 400, 600, 800]
    assert trial.points[0].compute["flops"] == 0 and trial.final.compute["seconds"] == 8
    assert trial.seed == 3 and trial.final.kl == 4.0 and trial.points[0].kl == 0.0
    assert trial.within("tokens", 450).step == 4 and trial.within("tokens", 100) is None


def test_tokens_that_were_drawn_and_thrown_away_count(tmp_path: Path) -> None:
    trial = read_trial(write_run(tmp_path / "a", "a", skill=0.5, drawn_tokens=300.0))
    assert trial.final.compute["tokens"] == 8 * 300


def test_methods_are_compared_at_the_compute_that_all_reached(tmp_path: Path) -> None:
    trials = [read_trial(write_run(tmp_path / f"cheap{s}", "cheap", skill=0.1, seed=s)) for s in range(3)]
    trials += [
        read_trial(write_run(tmp_path / f"dear{s}", "dear", skill=0.5, seed=s, tokens=200.0))
        for s in range(3)
    ]
    found = compare(trials, unit="tokens")
    cheap, dear = found.methods
    assert found.common == 800 and found.equal and found.same_prompts
    assert cheap.equal == cheap.final
    assert dear.equal is not None and dear.equal.value < dear.final.value  # half of its run
    assert found.differences["dear"].paired and found.differences["dear"].low > 0
    assert any("dear ended at 2.00 times the tokens" in w for w in found.warnings)


def test_without_an_evaluation_in_reach_it_says_that_compute_is_not_equal(tmp_path: Path) -> None:
    trials = [
        read_trial(write_run(tmp_path / "a", "a", skill=0.2)),
        read_trial(write_run(tmp_path / "b", "b", skill=0.2, tokens=1000.0, every=99)),
    ]
    found = compare(trials, unit="tokens")
    assert not found.equal
    said = " ".join(found.warnings)
    assert "not at equal compute" in said and "has one seed" in said


def test_other_prompts_are_not_paired(tmp_path: Path) -> None:
    trials = [
        read_trial(write_run(tmp_path / "a", "a", skill=0.2)),
        read_trial(write_run(tmp_path / "b", "b", skill=0.2, data_seed=2)),
    ]
    found = compare(trials, unit="tokens")
    assert not found.same_prompts and not found.differences["b"].paired
    assert any("different held-out prompts" in w for w in found.warnings)


def test_runs_that_do_not_belong_together_are_refused(tmp_path: Path) -> None:
    a = read_trial(write_run(tmp_path / "a", "a", skill=0.2))
    with pytest.raises(DataError, match="share a seed"):
        compare([a, a])
    other = read_trial(write_run(tmp_path / "b", "a", skill=0.2, algorithm="ipo", seed=1))
    with pytest.raises(DataError, match="not seeds of one method"):
        compare([a, other])
    with pytest.raises(DataError, match="is failed, not finished"):
        read_trial(write_run(tmp_path / "c", "c", skill=0.2, status="failed"))


def test_the_page_explains_itself_and_opens_offline(tmp_path: Path) -> None:
    folders = [
        write_run(tmp_path / f"{n}{s}", n, skill=k, seed=s)
        for n, k in (("dpo", 0.2), ("ipo", 0.5))
        for s in range(3)
    ]
    argv = ["truing", "compare", *map(str, folders)]
    compare_sources(folders, output=tmp_path / "out", argv=argv)
    page = (tmp_path / "out" / "comparison.html").read_text(encoding="utf-8")
    text = (tmp_path / "out" / "comparison.md").read_text(encoding="utf-8")
    record = json.loads((tmp_path / "out" / "comparison.json").read_text(encoding="utf-8"))
    assert "default-src 'none'" in page and "src=" not in page and "href=" not in page
    for shown in (page, text):
        assert " ".join(argv) in shown and "minus dpo" in shown and "two-way random effects" in shown
    (row,) = [line for line in text.split("\n") if line.startswith("| ipo")]
    apart = record["differences"]["ipo"]
    assert f"{100 * apart['value']:+.1f} [{100 * apart['low']:+.1f}, {100 * apart['high']:+.1f}]" in row
    for name in ("frontier-compute", "frontier-kl"):
        svg = (tmp_path / "out" / f"{name}.svg").read_text(encoding="utf-8")
        assert svg.startswith("<svg") and f"![{name}]({name}.svg)" in text
    assert [len(m["points"]) for m in record["methods"]] == [3, 3]


@pytest.mark.parametrize("text", ["tokens", "steps=3", "tokens=-1", "flops=many", "seconds=inf"])
def test_a_budget_that_is_none_is_refused(text: str) -> None:
    with pytest.raises(ConfigError, match="is no budget"):
        parse_budget(text)


def recipe(tmp_path: Path, **keys: object) -> object:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    base = {
        "name": "r",
        "algorithm": "dpo",
        "model": "m",
        "epochs": 1,
        "data": {"train": str(tmp_path / "rows.jsonl")},
    }
    return recipe_from_dict({**base, **keys}, source="test")


def test_the_budget_sets_the_steps_by_what_the_pilot_used(tmp_path: Path) -> None:
    short = pilot(recipe(tmp_path))
    assert short.stages[-1].steps == 4 and short.stages[-1].epochs is None
    folder = tmp_path / "pilot"
    (folder / "train").mkdir(parents=True)
    rows = [{"step": i, "train/flops": 50.0 if i == 0 else 10.0} for i in range(4)]  # step 0 fills a cache
    (folder / "train" / "metrics.jsonl").write_text("".join(json.dumps(r) + "\n" for r in rows))
    assert affordable_steps(short, folder, Budget("flops", 1000.0)) == 96  # 40 once, and 960 at 10 each
    with pytest.raises(ConfigError, match="does not pay for one step"):
        affordable_steps(short, folder, Budget("flops", 41.0))
    with pytest.raises(DataError, match="did not record seconds"):
        affordable_steps(short, folder, Budget("seconds", 41.0))


def test_sources_that_cannot_be_compared_are_refused_before_anything_runs(tmp_path: Path) -> None:
    (tmp_path / "rows.jsonl").write_text("{}\n")
    bare = 'name = "r"\nalgorithm = "dpo"\nmodel = "a/b"\nsteps = 2\ndata.train = "rows.jsonl"\n'
    (tmp_path / "r.toml").write_text(bare)
    with pytest.raises(ConfigError, match=r"has no \[evaluation\]"):
        compare_sources([tmp_path / "r.toml"], output=tmp_path / "out")
    (tmp_path / "r.toml").write_text(
        bare + 'evaluation = { data = "rows.jsonl", verifier = "math_answer" }\n'
    )
    with pytest.raises(ConfigError, match="more than one source is named 'r'"):
        compare_sources([tmp_path / "r.toml", tmp_path / "r.toml"], output=tmp_path / "out")
    with pytest.raises(ConfigError, match="neither a recipe nor"):
        compare_sources([tmp_path], output=tmp_path / "out")
    run = write_run(tmp_path / "a", "a", skill=0.2)
    with pytest.raises(ConfigError, match="only finished runs"):
        compare_sources([run], output=tmp_path / "out", budget="tokens=5")


def truing(*args: str) -> tuple[int, str]:
    done = CliRunner().invoke(app, list(args))
    return done.exit_code, done.output


def test_the_command_prints_figures_and_json(tmp_path: Path) -> None:
    folders = [str(write_run(tmp_path / n, n, skill=k)) for n, k in (("dpo", 0.2), ("ipo", 0.5))]
    code, text = truing("compare", *folders, "--output", str(tmp_path / "out"), "--unit", "tokens")
    assert code == 0 and "pass rate at equal compute" in text and "comparison.html" in text
    code, text = truing("compare", *folders, "--output", str(tmp_path / "out"), "--json")
    assert code == 0 and json.loads(text)["unit"] == "flops"
    code, text = truing("compare", folders[0], "--budget", "steps=3", "--output", str(tmp_path / "out"))
    assert code == 2 and "is no budget" in text


def test_scaling_of_a_run_from_its_records(tmp_path: Path) -> None:
    folder = write_run(tmp_path / "a", "a", skill=0.6, steps=24)
    code, text = truing("scaling", str(folder), "--json", "--plot", str(tmp_path / "law.svg"))
    assert code == 0, text
    found = json.loads(text)
    assert found["law"] == "sigmoid" and found["x"] == "flops" and found["num_points"] == 12
    assert set(found["estimates"]) == {"asymptote", "slope", "midpoint"}
    assert (tmp_path / "law.svg").read_text().startswith("<svg")
    code, text = truing("scaling", str(folder), "--law", "rl")
    assert code == 0 and "peak kl" in text and "points of evaluation against kl" in text
    code, text = truing("scaling", str(folder), "--y", "reward/mean")
    assert code == 2 and "has no metric 'reward/mean'" in text


def test_scaling_points_are_the_evaluations_at_the_compute_before_them(tmp_path: Path) -> None:
    from truing.compare.scaling import fit_runs

    folder = write_run(tmp_path / "a", "a", skill=0.6, steps=12)
    found = fit_runs([folder], x="tokens")
    assert found.fit.x == (200.0, 400.0, 600.0, 800.0, 1000.0, 1200.0)
    assert found.fit.start == pytest.approx(read_trial(folder).points[0].rate)
    over = fit_runs([folder], law="best_of_n")
    assert over.fit.x[-1] == pytest.approx(math.sqrt(6.0))

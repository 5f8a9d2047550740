from __future__ import annotations

from pathlib import Path

import pytest

from truing.ai_feedback.constitution import drawn, load_constitution
from truing.errors import ConfigError

EXAMPLE = Path(__file__).parents[3] / "constitutions" / "example.toml"
GOOD = '[[principle]]\nname = "a"\ncompare = "which?"\n'


def test_the_example_is_valid_and_draws_by_seed() -> None:
    found = load_constitution(EXAMPLE)
    assert len(found.revising()) == 4 and len(found.comparing()) == 5
    assert [r.values["prompt"] for r in found.red_team()] == found.constitution.red_team.prompts
    names = [drawn(found.comparing(), 0, "p", i).name for i in range(200)]
    assert names == [drawn(found.comparing(), 0, "p", i).name for i in range(200)]
    assert set(names) == {p.name for p in found.comparing()}
    assert names != [drawn(found.comparing(), 1, "p", i).name for i in range(200)]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        ('name = "x"\n[[principle]]\nname = "a"\ncritque = "c"\n', "Did you mean 'critique'?"),
        ('name = "x"\n[[principle]]\nname = "a"\ncritique = "c"\n', "critique and revision belong together"),
        ('name = "x"\n[[principle]]\nname = "a"\n', "does nothing"),
        (f'name = "x"\n{GOOD}{GOOD}', "two principles are called 'a'"),
        ('name = "x"\n', "principle"),
        (GOOD, "name"),
        (f'name = "x"\n{GOOD}[red_team]\n', "give prompts, or the source"),
        ("name = ", "not TOML"),
    ],
)
def test_what_is_wrong_is_said_with_its_file(tmp_path: Path, text: str, said: str) -> None:
    path = tmp_path / "c.toml"
    path.write_text(text)
    with pytest.raises(ConfigError) as caught:
        load_constitution(path)
    assert said in str(caught.value) and str(path) in str(caught.value)


def test_what_is_missing_is_an_error_when_it_is_needed(tmp_path: Path) -> None:
    path = tmp_path / "c.toml"
    path.write_text(f'name = "x"\n{GOOD}')
    found = load_constitution(path)
    with pytest.raises(ConfigError, match="no principle has 'critique'"):
        found.revising()
    with pytest.raises(ConfigError, match="no \\[red_team\\]"):
        found.red_team()
    with pytest.raises(ConfigError, match="no constitution at"):
        load_constitution(tmp_path / "none.toml")


def test_red_team_prompts_are_read_from_beside_the_constitution(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    (tmp_path / "deep").mkdir()
    (tmp_path / "deep" / "red.jsonl").write_text('{"prompt": "hm"}\n')
    (tmp_path / "deep" / "c.toml").write_text(f'name = "x"\n{GOOD}[red_team]\nsource = "red.jsonl"\n')
    monkeypatch.chdir(tmp_path)
    assert load_constitution("deep/c.toml").red_team()[0].values == {"prompt": "hm"}

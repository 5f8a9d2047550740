"""Each kind of instruction says yes and no; every made prompt's reference is understood."""

from __future__ import annotations

import pytest

from truing.data import instructions
from truing.verifiers import instruction_following as following

CASES = [  # kind and its keys, a text that obeys, a text that does not
    ({"kind": "words", "exactly": 3}, "one two-three four", "one two"),
    ({"kind": "words", "at_most": 2}, "don't go", "do not go"),
    ({"kind": "sentences", "exactly": 2}, 'He said "no." She left!', "He left. She left. All left."),
    ({"kind": "paragraphs", "exactly": 2}, "a\n\nb", "a\nb"),
    ({"kind": "bullets", "exactly": 2}, "- a\n- b", "- a\n- b\n- c"),
    ({"kind": "numbered", "exactly": 2}, "1. a\n2) b", "1. a\n3. b"),
    ({"kind": "capital_words", "at_least": 1}, "so LOUD now", "A quiet I"),
    ({"kind": "placeholders", "at_least": 1}, "Dear [name]", "Dear name"),
    ({"kind": "letter", "letter": "q", "at_least": 2}, "Quick quiz", "quick"),
    ({"kind": "include", "text": "river"}, "The River runs", "rivers run"),
    ({"kind": "exclude", "text": "river"}, "rivers run", "a river"),
    ({"kind": "starts_with", "text": "Dear"}, " Dear all", "My dear"),
    ({"kind": "ends_with", "text": "end."}, "the end.\n", "the end"),
    ({"kind": "lower_case"}, "all low", "All low"),
    ({"kind": "upper_case"}, "ALL UP", "ALL up"),
    ({"kind": "no_commas"}, "a b", "a, b"),
    ({"kind": "quoted"}, '"all of it"', '"a" and "b"'),
    ({"kind": "title"}, "<<River>> it runs", "<River> it runs"),
    ({"kind": "postscript"}, "bye\nP.S. more", "bye P.S."),
    ({"kind": "json"}, '```json\n{"a": 1}\n```', "{'a': 1}"),
]


def test_every_kind_has_a_case():
    assert {case[0]["kind"] for case in CASES} == set(following.KINDS)


@pytest.mark.parametrize(("instruction", "good", "bad"), CASES, ids=[c[0]["kind"] for c in CASES])
def test_a_kind_says_yes_and_no(instruction, good, bad):
    config = following.Config()
    assert following.verify(good, [instruction], config).value == 1.0
    assert following.verify(bad, [instruction], config).value == 0.0


@pytest.mark.parametrize(
    "instruction",
    [{"kind": "words"}, {"kind": "include"}, {"kind": "words", "at_least": "3"}, {"kind": "letter", "letter": 3}, "words"],
)  # fmt: skip
def test_a_wrong_instruction_is_no_score(instruction):
    assert following.verify("some words", [instruction], following.Config()).status == "unparsable"


@pytest.mark.parametrize("number", [1, 2, 3, 4])
def test_what_the_prompts_ask_can_be_verified(number):
    made = instructions.rows(60, 0, instructions=number)
    assert {following.verify("Some words.", r["reference"], following.Config()).status for r in made} == {
        "scored"
    }
    assert all(len(r["reference"]) == number for r in made)
    held_out = {r["prompt"] for r in instructions.rows(60, 0, split="test", instructions=number)}
    assert not held_out & {r["prompt"] for r in made}

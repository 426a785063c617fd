"""Answers with the faults that models make, and that the original let through."""

import json

import pytest

from alpaca_jax.data.instructions import Instruction
from alpaca_jax.remote.log import Choice
from alpaca_jax.self_instruct.parsing import parse_instances, parse_instructions, parse_score, parse_tasks, parse_yes
from alpaca_jax.self_instruct.texts import numbered_request

# What a text model goes on with after `4. Instruction:`.
CONTINUED = """ Say when the dam broke.
4. Input:
<noinput>
4. Output:
It broke in 2008.
20. March was the day, in
21. places at once.
3. Output: 7 dams in all
###
5. Instruction: Name two
rivers.
5. Input:
Input: none of them in Asia
5. Output:
1. Rhine
2. Nile
##
**6. Instruction:** Add the numbers.
6) input : < no input >
6. Output: 7
7. Instruction: Repeat nothing.
7. Input:
nothing
7. Output:

###
8. Instruction: Show the answer.
8. Input:
8. Output:
<nooutput>
###
9. Instruction: Lacks an output.
9. Input:
here
###
10. Instruction: Has two outputs.
10. Output:
one
10. Output:
two
###
11. Instruction: Is the last one
11. Input:
and
11. Output:
breaks off in the mid"""

SOUND = [
    Instruction(
        "Say when the dam broke.",
        "",
        "It broke in 2008.\n20. March was the day, in\n21. places at once.\n3. Output: 7 dams in all",
    ),
    Instruction("Name two\nrivers.", "Input: none of them in Asia", "1. Rhine\n2. Nile"),
    Instruction("Add the numbers.", "", "7"),
]
FAULTS = ["empty_output", "no_output", "unreadable", "unreadable"]
LAST = Instruction("Is the last one", "and", "breaks off in the mid")


@pytest.mark.parametrize(("finish", "last"), [("length", "truncated"), (None, "truncated"), ("stop", LAST)])
def test_the_numbered_form(finish: str | None, last: object):
    assert parse_tasks(Choice(CONTINUED, finish), 4) == [*SOUND, *FAULTS, last]
    # A chat model begins with the head itself, and with courtesies.
    chat = "Certainly! Here are the tasks:\n\n```\n4. Instruction:" + CONTINUED + "\n```\n"
    assert parse_tasks(Choice(chat, finish), None) == [*SOUND, *FAULTS, last]


def test_an_answer_ends_before_the_task_after_the_last_and_nowhere_within_a_line():
    text, stops = numbered_request(SOUND, "gardens", "roses", "English", continued=True)
    assert text.endswith(
        "2. Nile\n###\n3. Instruction: Add the numbers.\n3. Input:\n<noinput>\n3. Output:\n7\n###\n4. Instruction:"
    )
    assert "\n2. Instruction: Name two rivers.\n2. Input:\n" in text
    assert "gardens" in text
    assert "roses" in text
    assert stops == ("\n21. Instruction:",)
    # What the model is shown is what it is understood in.
    shown = text[text.index("1. Instruction:") : text.rindex("\n###")]
    one_line = Instruction("Name two rivers.", *SOUND[1].identity()[1:])
    assert parse_tasks(Choice(shown, "stop"), None) == [SOUND[0], one_line, SOUND[2]]


def test_the_structured_form():
    whole = [
        {"instruction": task.instruction, "input": task.input or "<noinput>", "output": task.output} for task in SOUND
    ]
    odd = [
        {"instruction": "a"},
        {"instruction": 1, "input": "", "output": "b"},
        "c",
        {"instruction": " ", "output": "d"},
    ]
    odd += [
        {"instruction": "e", "output": "half of a pair: \ud83d"},
        {"instruction": "f", "input": None, "output": " "},
    ]
    text = json.dumps({"tasks": [*whole, *odd]}, indent=1)
    expected = [*SOUND, *["unreadable"] * 5, "empty_output"]
    assert parse_tasks(Choice(text, "stop"), None) == expected
    assert parse_tasks(Choice(f"Here you are:\n```json\n{text}\n```", "stop"), None) == expected
    assert parse_tasks(Choice(json.dumps([*whole, *odd]), "stop"), None) == expected
    # Cut anywhere, only whole tasks are left, and one that is not.
    text = json.dumps({"tasks": whole})
    for end in range(len('{"tasks": ['), len(text) - 2, 5):
        *tasks, last = parse_tasks(Choice(text[:end], "length"), None)
        assert tasks == SOUND[: len(tasks)]
        assert last == "truncated"
    assert parse_tasks(Choice(text[:-2], "length"), None) == [*SOUND, "truncated"]
    assert parse_tasks(Choice(text, "length"), None) == SOUND


def test_what_is_no_task_at_all():
    assert parse_tasks(Choice("I cannot help with that.", "stop"), None) == ["unreadable"]
    assert parse_tasks(Choice("", "content_filter"), None) == []
    assert parse_tasks(Choice("I cannot", "length"), None) == ["truncated"]
    assert parse_tasks(Choice('{"tasks": []}', "stop"), None) == []
    assert parse_tasks(Choice('{"tasks": [{"instruction": "a"" }]}', "stop"), None) == ["unreadable"]


def test_instructions():
    text = " Find a rhyme for moon.\n10. Sort the\n words.\n11.\n**12.** Count in 2. halves"
    expected = ["Find a rhyme for moon.", "Sort the words.", "unreadable", "Count in 2. halves"]
    assert parse_instructions(Choice(text, "stop"), 9) == expected
    assert parse_instructions(Choice("9." + text, "length"), 9) == [*expected[:3], "truncated"]


def test_instances():
    text = "Input: 1, 2\nOutput: 3\n\nExample 2\nInput: <noinput>\nOutput:\nfour\nlines\n###\nTask: Another.\nInput: x"
    expected = [Instruction("Add.", "1, 2", "3"), Instruction("Add.", "", "four\nlines")]
    assert parse_instances(Choice(text, "stop"), "Add.", output_first=False) == expected
    assert parse_instances(Choice("Output: 5", "stop"), "Add.", output_first=False) == [Instruction("Add.", "", "5")]
    text = "Output: yes\nInput: warm\nOutput: no\nInput: cold\nInput: cool\nOutput: may"
    expected = [Instruction("Warm?", "warm", "yes"), "unreadable", "truncated"]
    assert parse_instances(Choice(text, "length"), "Warm?", output_first=True) == expected
    assert parse_instances(Choice("", "stop"), "Warm?", output_first=True) == ["unreadable"]


def test_short_answers():
    assert [parse_yes(Choice(text, "stop")) for text in (" Yes.", "Classification: yes", "No, yes", "yesterday")] == [
        True,
        True,
        False,
        False,
    ]
    texts = ['{"score": 7}', "10", "I give it 9/10.", "Score: 3.", "100", "0", "4.5", "none"]
    assert [parse_score(Choice(text, "stop")) for text in texts] == [7, 10, 9, 3, None, None, None, None]

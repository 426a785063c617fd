"""The program against a real server: what it makes, computed by hand, from answers with every fault."""

import json
import random
from collections import Counter
from pathlib import Path

import pytest

from tests.making import flags, instructions, lines, made, unlike
from tests.openai_server import Reply, Request, answer, serving, tasks_json

pytestmark = pytest.mark.usefixtures("asked_quickly")


def by_prompt(request: Request) -> Reply:
    """The same answer to the same request, after a time of its own."""
    generator = random.Random(json.dumps(request.body))
    numbers = [generator.randrange(10**6) for _ in range(4)]
    return answer(tasks_json(*map(unlike, numbers)))._replace(delay=random.random() / 30)


DEFECTIVE = """Here they are:

4. Instruction: Say in which year the dam broke.
4. Input:
<noinput>
4. Output:
It broke in 2008.
###
5. Instruction: Say in which year the old dam broke.
5. Input:
no input
5. Output:
1950.
###
6. Instruction: Name a tall mountain of Nepal.
6. Input:
None
6. Output:
Lhotse
##
7. Instruction: Draw a tall mountain of Nepal.
7. Input:
7. Output:
No.
###
8. Instruction: Write a program that adds numbers.
8. Input:
8. Output:
1+1
###
9. Instruction: Too short.
9. Output:
yes
###
10. Instruction: "Quoted" is the first word here.
10. Output:
yes
###
11. Instruction: Explain why the sky looks blue.
11. Output:
<nooutput>
###
12. Instruction: Explain why the sky looks red.
12. Output:

###
13. Instruction: Sort the pears by their weight.
13. Input:
2 kg, 1 kg
13. Output:
1 kg, 2 kg
###
14. Instruction: Task 3 of the seeds, about ddd
14. Output:
near a seed
###
15. Instruction: Explain how bees find their"""


def test_answers_with_every_fault(seeds: Path):
    def script(request: Request) -> Reply:
        if "response_format" in request.body:
            return Reply({"error": {"message": "Unknown parameter: 'response_format'."}}, 400)
        return answer(DEFECTIVE, finish="length", tokens=(1_000, 300))

    with serving(script) as server:
        prices = ("--price_in=2.5", "--price_out=10")
        report = made(flags(seeds, server.url, *prices, "--dry_run=1", num=10))
        assert [("stop" in request.body, request.path) for request in server.requests] == [
            (False, "/v1/chat/completions"),
            (True, "/v1/chat/completions"),
        ]
    assert lines(seeds) == [
        {"instruction": "Say in which year the dam broke.", "input": "", "output": "It broke in 2008."},
        {"instruction": "Name a tall mountain of Nepal.", "input": "", "output": "Lhotse"},
        {"instruction": "Sort the pears by their weight.", "input": "2 kg, 1 kg", "output": "1 kg, 2 kg"},
    ]
    assert report == {
        "records": 3,
        "requests": 1,
        "rejected": {
            "asks_for_program": 1,
            "beyond_text": 1,
            "empty_output": 1,
            "near_duplicate": 2,
            "no_output": 1,
            "punctuation_first": 1,
            "too_short": 1,
            "truncated": 1,
        },
        "prompt_tokens": 1_000,
        "answer_tokens": 300,
        "cost_usd": 0.0055,
        "predicted_usd": 0.018333,
        "failed_attempts": 1,
        "given_up": 0,
        "lost": 0,
        "unmeasured": 0,
    }
    first, second, _ = lines(seeds, "provenance")
    asked = server.requests[1].body["messages"][0]["content"]
    assert [f"Task {name.split()[1]} of the seeds" in asked for name in first["examples"]] == [True] * 3
    assert first["model"] == "m"
    assert first["request_id"] == "answer-1"
    assert first["time"].endswith("+00:00")
    # "say in which year the dam broke" and "task N of the seeds about xxx" share "the" alone: 2·1/(7 + 7)
    assert first["similarity"] == round(1 / 7, 6)
    assert len(first["most_similar"]) == 10
    # and this one "of": 2·1/(6 + 7)
    assert second["similarity"] == round(2 / 13, 6)


@pytest.mark.parametrize(
    ("num", "more"),
    [
        (25, ()),
        (25, ("--machine_tasks=2", "--seed=3")),
        (12, ("--judge=j", "--judge_min=4")),
        (30, ("--mode=self_instruct",)),
        (70, ("--machine_tasks=3", "--api=completions")),
    ],
    ids=str,
)
def test_the_order_in_which_answers_come_is_nothing(seeds: Path, num: int, more: tuple[str, ...]):
    def script(request: Request) -> Reply:
        generator = random.Random(json.dumps(request.body))
        delay = random.random() / 30
        if request.path == "/v1/completions":
            numbers = [[generator.randrange(10**6) for _ in range(2)] for _ in request.body["prompt"]]
            texts = [f" {unlike(a)}\n4. Output: x\n5. Instruction: {unlike(b)}\n5. Output: y" for a, b in numbers]
            return answer(*texts, chat=False)._replace(delay=delay)
        asked = request.body["messages"][0]["content"]
        if request.body["model"] == "j":
            text = json.dumps({"score": generator.randint(1, 10)})
        elif asked.startswith("Here is a list"):
            text = "\n".join(f"{number}. {unlike(generator.randrange(10**6))}" for number in range(9, 13))
        elif asked.endswith("Classification:"):
            text = generator.choice(["Yes", "No"])
        elif "first the Output" in asked:
            text = "Output: a\nInput: 1\nOutput: b\nInput: 2"
        elif "Invent one or two" in asked:
            text = "Input: <noinput>\nOutput: c"
        else:
            return by_prompt(request)
        return answer(text)._replace(delay=delay)

    results = []
    for concurrency in (2, 2, 6):
        for path in seeds.parent.glob("out.*"):
            path.unlink()
        with serving(script) as server:
            report = made(flags(seeds, server.url, *more, f"--concurrency={concurrency}", num=num))
        assert report["records"] == num
        assert 1 < server.most_at_once <= concurrency
        provenance = [{key: value for key, value in one.items() if key != "time"} for one in lines(seeds, "provenance")]
        results.append((lines(seeds), provenance, report["rejected"]))
        if any("judge" in flag for flag in more):
            assert min(one["judge"]["score"] for one in provenance) >= 4
            assert report["rejected"]["judged_low"] > 0
    assert results[0] == results[1]
    # Earlier records as examples: how much earlier, depends on how many requests are in flight.
    examples = "self_instruct" in str(more) or "machine" in str(more)
    assert (results[0] == results[2]) != examples
    named = [name for one in results[0][1] for name in one["examples"]]
    assert any("/" in name for name in named) == examples
    if "--machine_tasks=2" in more:
        assert max(sum("/" in name for name in one["examples"]) for one in results[0][1]) == 2


def test_classifications_have_their_outputs_first(seeds: Path):
    asked = list[str]()

    def script(request: Request) -> Reply:
        text = request.body["messages"][0]["content"]
        asked.append(text)
        if text.startswith("Here is a list"):
            return answer("9. Is this review kind or unkind?\n10. Find words that rhyme with moon.")
        if text.endswith("Classification:"):
            return answer("Yes" if "kind or" in text.splitlines()[-2] else "No")
        if "kind or unkind" in text:
            return answer(
                "Output: kind\nInput: I loved it.\nOutput: unkind\nInput: I slept.\nOutput: kind\nInput: I loved it."
            )
        return answer("Input: <noinput>\nOutput: spoon")

    with serving(script) as server:
        report = made(flags(seeds, server.url, "--mode=self_instruct", "--concurrency=1", num=3))
    assert [list(record.values()) for record in lines(seeds)] == [
        ["Is this review kind or unkind?", "I loved it.", "kind"],
        ["Is this review kind or unkind?", "I slept.", "unkind"],
        ["Find words that rhyme with moon.", "", "spoon"],
    ]
    assert report["rejected"] == {"repeated": 1}
    output_first, input_first = (
        next(text for text in asked if word in text) for word in ("first the Output", "Invent one")
    )
    shown = [text.split("Task: ")[1:-1] for text in (output_first, input_first)]
    assert [[int(task.split()[1]) % 2 for task in tasks] for tasks in shown] == [[1, 1, 1], [0, 0, 0]]
    assert all(task.index("Output:") < task.index("Input:") for task in shown[0])
    assert all(task.index("Input:") < task.index("Output:") for task in shown[1])


def test_topics_get_equally_many_records(seeds: Path):
    topics = seeds.with_name("topics.txt")
    topics.write_text("seas\nstars\n\ntrees\n")

    def script(request: Request) -> Reply:
        # Of the stars the model knows little.
        few = "about: stars" in request.body["messages"][0]["content"]
        generator = random.Random(json.dumps(request.body))
        return answer(tasks_json(*(unlike(generator.randrange(10**6)) for _ in range(1 if few else 4))))

    with serving(script) as server:
        more = (f"--topics={topics}", "--domain=science", "--language=French", "--concurrency=2")
        made(flags(seeds, server.url, *more, num=60))
    asked = server.requests[0].body["messages"][0]["content"]
    assert "outputs are in French" in asked
    assert "from this field: science" in asked
    counts = Counter(one["topic"] for one in lines(seeds, "provenance"))
    assert sorted(counts) == ["seas", "stars", "trees"]
    assert max(counts.values()) - min(counts.values()) <= 8


def test_machines_words_in_other_alphabets_are_kept_only_where_they_are_meant(seeds: Path):
    with serving(lambda request: answer(tasks_json("Écris un poème sur la mer", "Write a poem about seas"))) as server:
        made(flags(seeds, server.url, num=1))
        assert instructions(seeds) == ["Write a poem about seas"]
        for path in seeds.parent.glob("out.*"):
            path.unlink()
        made(flags(seeds, server.url, "--language=French", num=1))
        assert instructions(seeds) == ["Écris un poème sur la mer"]


def test_half_a_character_in_an_answer_is_the_same_in_a_later_run_and_fewer_records_are_none_lost(seeds: Path):
    def script(request: Request) -> Reply:
        reply = answer(tasks_json(unlike(request.number), f"{unlike(1_000 + request.number)} @").replace("@", "\ud800"))
        reply.body["id"] = "answer \ud800"
        return reply

    with serving(script) as server:
        for num in (4, 2, 8):
            report = made(flags(seeds, server.url, "--concurrency=1", num=num))
            assert report["records"] == len(lines(seeds)) >= num
    assert sum("?" in text for text in instructions(seeds)) == 4

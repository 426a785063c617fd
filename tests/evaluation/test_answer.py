"""Answers: from a real checkpoint, a scripted server and a file; stopped and gone on with; and the embedded tasks."""

import functools
import json
from collections import Counter
from pathlib import Path

import pytest

from alpaca_jax.data.embedded import SEED_TASKS
from alpaca_jax.data.prompt import TEMPLATES
from alpaca_jax.data.similarity import SimilarityIndex
from alpaca_jax.evaluation.embedded import QUESTIONS as EMBEDDED
from alpaca_jax.evaluation.questions import read_questions
from alpaca_jax.generation import load
from alpaca_jax.support.hashing import sha256_file
from tests.checkpoints import write_checkpoint
from tests.evaluation.files import QUESTIONS, evaluated, lines_of, write_lines
from tests.openai_server import KEY, Reply, Request, answer, serving
from tests.programs import the_one_line


@pytest.fixture(scope="module")
def checkpoint(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return write_checkpoint(tmp_path_factory.mktemp("model") / "tiny")


@pytest.fixture
def questions(tmp_path: Path) -> Path:
    return write_lines(tmp_path / "questions.jsonl", QUESTIONS)


def test_a_checkpoint_answers_and_a_run_that_was_cut_anywhere_ends_with_the_same_bytes(
    tmp_path: Path, checkpoint: Path, monkeypatch: pytest.MonkeyPatch
):
    # Loaded and compiled once for the three runs.
    monkeypatch.setattr(load, "load_engine", functools.cache(load.load_engine))
    many = [{"instruction": f"Say {n}."} for n in range(18)]  # more than are answered at a time
    path, out = write_lines(tmp_path / "many.jsonl", many), tmp_path / "answers.jsonl"
    flags = [f"--checkpoint={checkpoint}", f"--input={path}", f"--out={out}", "--max_new_tokens=4", "--seed=3"]
    result = evaluated("answer", *flags)
    assert (result["answers"], result["model"]) == (18, "tiny")
    whole, lines = out.read_bytes(), lines_of(out)
    assert [line["instruction"] for line in lines] == [one["instruction"] for one in many]
    assert len({line["output"] for line in lines}) > 9  # drawn, each by itself
    assert all(line["generator"] == "tiny" for line in lines)
    assert {line["finish"] for line in lines} <= {"stop", "length"}
    parts = whole.splitlines(keepends=True)
    # As they came, the last one torn; and lost altogether.
    for left in (b"".join([*parts[9:], *parts[3:7], parts[0][:-7]]), b""):
        out.write_bytes(left)
        evaluated("answer", *flags)
        assert out.read_bytes() == whole
    how = json.loads((tmp_path / "answers.run.json").read_text())
    assert how["decoding"] == {"temperature": 0.7, "top_p": 0.9, "max_new_tokens": 4, "seed": 3}
    assert (how["instructions_sha256"], how["template_sha256"]) == (sha256_file(path), TEMPLATES["alpaca"].sha256)
    assert len(how["checkpoint_sha256"]) == 64
    assert "'seed': 3" in the_one_line("evaluate", "answer", *flags[:-1], "--seed=4")
    out.write_bytes(whole + parts[0])
    assert "line 19: expected the answer to a question that has none yet" in the_one_line("evaluate", "answer", *flags)
    out.write_bytes(whole)
    write_lines(path, many[:-1])
    assert "instructions_sha256" in the_one_line("evaluate", "answer", *flags)


def by_instruction(request: Request) -> Reply:
    return answer(f" {request.body['messages'][0]['content']}! ", finish="length" if request.number % 2 else "stop")


@pytest.mark.usefixtures("asked_quickly")
def test_a_misspelt_model_is_corrected_into_the_same_file(tmp_path: Path, questions: Path):
    def script(request: Request) -> Reply:
        known = request.body["model"] == "m"
        return by_instruction(request) if known else Reply({"error": {"message": "no such model"}}, status=404)

    with serving(script) as server:
        flags = [f"--base_url={server.url}", f"--input={questions}", f"--out={tmp_path / 'answers.jsonl'}"]
        line = the_one_line("evaluate", "answer", *flags, "--model=n", "--attempts=1")
        assert "no such model" in line
        assert evaluated("answer", *flags, "--model=m")["answers"] == 12


@pytest.mark.usefixtures("asked_quickly")
def test_a_server_that_fails_midway_is_asked_only_what_it_has_not_answered(tmp_path: Path, questions: Path):
    out, asked = tmp_path / "answers.jsonl", Counter[str]()

    def script(request: Request) -> Reply:
        text = request.body["messages"][0]["content"]
        if len(asked) == 5 and text not in asked and not mended:
            return Reply({"error": {"message": "no credit", "code": "insufficient_quota"}}, status=429)
        asked[text] += 1
        return by_instruction(request)

    mended = False
    with serving(script) as server:
        flags = ["--model=m", f"--base_url={server.url}", f"--input={questions}", f"--out={out}", "--concurrency=1"]
        assert "no credit" in the_one_line("evaluate", "answer", *flags)
        assert len(lines_of(out)) == 5
        mended = True
        assert evaluated("answer", *flags)["requests"] == 12
        assert set(asked.values()) == {1}
        evaluated("answer", *flags)
        assert asked.total() == 12
        assert "'temperature': 0.0" in the_one_line("evaluate", "answer", *flags, "--temperature=0")
        parameters = server.requests[0].body
    assert (parameters["temperature"], parameters["top_p"], parameters["max_tokens"]) == (0.7, 0.9, 600)
    lines = lines_of(out)
    assert [line["id"] for line in lines] == [question["id"] for question in QUESTIONS]
    assert lines[1]["output"] == "Say 1.\n\ntwice!"
    assert {line["finish"] for line in lines} == {"stop", "length"}
    assert all(KEY not in path.read_text() for path in tmp_path.iterdir())


@pytest.mark.usefixtures("asked_quickly")
def test_a_model_that_only_continues_gets_the_template(tmp_path: Path, questions: Path):
    with serving(lambda request: answer(" yes", chat=False)) as server:
        flags = ["--model=m", f"--base_url={server.url}", f"--input={questions}", "--api=completions"]
        evaluated("answer", *flags, f"--out={tmp_path}/a.jsonl")
        prompts = {request.body["prompt"][0] for request in server.requests}
        line = the_one_line("evaluate", "answer", *flags, f"--out={tmp_path}/b.jsonl", "--template=zephyr")
    assert lines_of(tmp_path / "a.jsonl")[0]["output"] == "yes"
    assert any(text.endswith("### Instruction:\nSay 1.\n\n### Input:\ntwice\n\n### Response:") for text in prompts)
    assert "writes the tokenizer's own end token" in line


def test_outputs_of_another_program_are_brought_to_their_questions(tmp_path: Path):
    """Tasks in self-instruct's form, several instances included, and predictions in that of its authors."""
    tasks = [
        {"id": f"t{n}", "motivation_app": "Mail", "instruction": f"Do {n}", "instances": instances}
        for n, instances in enumerate(
            [[{"input": "x", "output": "gold"}, {"input": "y"}], [{"input": "", "output": "g"}]]
        )
    ]
    path = write_lines(tmp_path / "tasks.jsonl", tasks)
    fields = [("Do 1", "", "one"), ("Do 0", "y", "zero y"), ("Do 0\n", "x", "zero x")]
    predictions = [{"instruction": a, "input": b, "response": c, "target": "gold"} for a, b, c in fields]
    outputs, out = write_lines(tmp_path / "davinci.jsonl", predictions), tmp_path / "a.jsonl"
    flags = [f"--outputs={outputs}", f"--input={path}", f"--out={out}"]
    assert evaluated("answer", *flags)["model"] == "davinci"
    lines = [(line["id"], line["category"], line["output"]) for line in lines_of(out)]
    assert lines == [("t0/1", "Mail", "zero x"), ("t0/2", "Mail", "zero y"), ("t1", "Mail", "one")]
    write_lines(outputs, predictions[1:])
    line = the_one_line("evaluate", "answer", *flags[:-1], f"--out={tmp_path}/b.jsonl")
    assert "expected one answer to each of the 3 questions" in line
    assert "such as 't1'" in line


def test_a_chat_is_answered_where_the_user_has_the_last_word(tmp_path: Path):
    chat = [
        {"role": "user", "content": "Hi"},
        {"role": "assistant", "content": "Yes?"},
        {"role": "user", "content": "Go"},
    ]
    path = write_lines(tmp_path / "chats.jsonl", [{"messages": chat}, {"messages": chat[:2]}])
    first, second = read_questions(path)
    assert first.instruction == "User: Hi\n\nAssistant: Yes?\n\nUser: Go"
    assert second.instruction == "Hi"


@pytest.mark.parametrize(
    ("flags", "said"),
    [
        ([], "expected one of --checkpoint, --model (with --base_url) and --outputs; found none"),
        (["--model=m", "--outputs=x"], "found --model and --outputs"),
        (["--outputs=x", "--temperature=1"], "--temperature: expected flags that belong to --outputs"),
        (["--checkpoint=c", "--base_url=http://x"], "--base_url: expected flags that belong to --checkpoint"),
        (["--model=m", "--temperature=-1"], "--temperature: expected a number from 0 to 100"),
        (["--checkpoint=nowhere"], "found no such folder"),
        (["--outputs=nowhere.json"], "found no such file"),
        (["--model=m", "--base_url=nowhere"], "--base_url: expected an http or https address"),
        (["--outputs=x", "--input=nowhere.json"], "found no such file"),
        (["--model=m", "--base_url=http://x", "--budget_usd=1"], "--budget_usd: expected a price for m"),
    ],
)
def test_flags_that_do_not_go_together_are_refused_before_any_file_is_made(tmp_path: Path, flags: list[str], said: str):
    assert said in the_one_line("evaluate", "answer", f"--out={tmp_path}/a.jsonl", *flags)
    assert not list(tmp_path.iterdir())


def test_the_embedded_tasks_are_many_various_and_unlike_those_to_train_on():
    tasks, index = read_questions(EMBEDDED), SimilarityIndex()
    assert len(tasks) >= 60
    assert len({task.category for task in tasks}) >= 12
    assert max(Counter(task.category for task in tasks).values()) <= 6
    assert 20 <= sum(bool(task.input) for task in tasks) <= 50
    for seed in read_questions(SEED_TASKS):
        index.add(seed.instruction)
    for task in tasks:
        assert not index.nearest(task.instruction, 0.6), task.id
        index.add(task.instruction)

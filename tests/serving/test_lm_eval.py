"""lm-eval's `local-completions` against our server, on a task made here; nothing is asked of any other machine."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

from alpaca_jax.convert.tokenizer_export import write_tokenizer
from alpaca_jax.generation.settings import Sampling
from tests.serving.conftest import GatedEngine
from tests.serving.server import Served

CHOICES = [
    {"question": "The metal with the symbol W is", "choices": ["tungsten", "iron", "lead"], "answer": 0},
    {"question": "The capital of Mongolia is", "choices": ["Oslo", "Ulaanbaatar", "Lima"], "answer": 1},
    {"question": "One and two make", "choices": ["two", "four", "three"], "answer": 2},
]
# The answer that the model gives comes from the model itself: this is about the way there and back.
RANKED = """\
task: ranked
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: multiple_choice
doc_to_text: "{{{{question}}}}"
doc_to_choice: choices
doc_to_target: answer
metric_list: [{{metric: acc}}]
"""
WRITTEN = """\
task: written
dataset_path: json
dataset_kwargs: {{data_files: {{test: {data}}}}}
test_split: test
output_type: generate_until
doc_to_text: "{{{{question}}}}"
doc_to_target: "{{{{written}}}}"
generation_kwargs: {{until: ["\\n\\n\\n"], max_gen_toks: 8, temperature: 0}}
metric_list: [{{metric: exact_match}}]
"""


def greedy(engine: GatedEngine, prompt: str) -> str:
    texts: list[str] = []
    sampling = Sampling(temperature=0.0, max_new_tokens=8, stop=("\n\n\n",))
    engine.submit(engine.prompt_ids(prompt), sampling, lambda piece: texts.append(piece.text))
    while engine.step():
        pass
    return "".join(texts)


def score(engine: GatedEngine, ids: list[int], first: int) -> float:
    """The logarithm of the probability of the tokens from `first` on."""
    told: list = []
    sampling = Sampling(temperature=0.0, max_new_tokens=0, prompt_logprobs=True)
    engine.submit(ids, sampling, lambda piece: told.extend(piece.prompt))
    while engine.step():
        pass
    return sum(token.logprob for token in told[first:])


@pytest.fixture
def expected(engine: GatedEngine, tmp_path: Path) -> list[dict]:
    """What the engine says by itself, before a server has it: a score of each choice, and an answer to each question.

    A wrong answer is put in place of the last one, so that not all are right.
    """
    docs = []
    for doc in CHOICES:
        context = engine.tokenizer.encode_prompt(doc["question"])
        wholes = [engine.tokenizer.encode_prompt(f"{doc['question']} {choice}") for choice in doc["choices"]]
        scores = [score(engine, ids, len(context)) for ids in wholes]
        docs.append(doc | {"written": greedy(engine, doc["question"]), "scores": scores})
    docs[-1]["written"] = "something else"
    (tmp_path / "docs.jsonl").write_text("".join(json.dumps(doc) + "\n" for doc in docs))
    return docs


def test_scores_and_answers_are_the_engines_own(expected: list[dict], served: Served, tmp_path: Path, engine):
    write_tokenizer(engine.tokenizer, engine.tokenizer.vocab_size, tmp_path / "tokenizer")
    for name, task in (("ranked", RANKED), ("written", WRITTEN)):
        (tmp_path / f"{name}.yaml").write_text(task.format(data=tmp_path / "docs.jsonl"))
    offline = {"HF_HUB_OFFLINE": "1", "HF_DATASETS_OFFLINE": "1", "TRANSFORMERS_OFFLINE": "1"}
    places = {"HF_HOME": str(tmp_path / "hf"), "NO_PROXY": "127.0.0.1", "OPENAI_API_KEY": "none"}
    arguments = {
        "model": "tiny",
        "base_url": f"{served.url}/completions",
        "tokenizer": tmp_path / "tokenizer",
        "tokenizer_backend": "huggingface",
        "add_bos_token": True,
        "num_concurrent": 2,
        "max_retries": 1,
        "max_length": 128,
    }
    command = [sys.executable, "-m", "lm_eval", "run", "--model=local-completions", "--tasks=ranked,written"]
    command += [f"--model_args={','.join(f'{name}={value}' for name, value in arguments.items())}"]
    command += [f"--include_path={tmp_path}", f"--output_path={tmp_path / 'out'}", "--log_samples"]
    done = subprocess.run(command, env=os.environ | offline | places, capture_output=True, text=True, timeout=300)
    assert done.returncode == 0, done.stderr[-3000:]

    (report,) = (tmp_path / "out").rglob("results_*.json")
    results = json.loads(report.read_text())["results"]
    right = sum(doc["scores"].index(max(doc["scores"])) == doc["answer"] for doc in expected)
    assert results["ranked"]["acc,none"] == pytest.approx(right / 3)
    assert results["written"]["exact_match,none"] == pytest.approx(2 / 3)
    (samples,) = (tmp_path / "out").rglob("samples_ranked_*.jsonl")
    logged = sorted(map(json.loads, samples.read_text().splitlines()), key=lambda sample: sample["doc_id"])
    for sample, doc in zip(logged, expected, strict=True):
        scores = [float(response[0][0]) for response in sample["resps"]]
        assert scores == pytest.approx(doc["scores"], abs=1e-3)

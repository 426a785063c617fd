"""Reports: votes read from files of both forms, and what is wrong with them said in one line."""

import contextlib
import importlib.util
import json
import math
import random
import sqlite3
from pathlib import Path

import numpy as np
import pytest

from tests.evaluation.files import QUESTIONS, evaluated, paired, vote, write_lines
from tests.programs import run, the_one_line

PAIRS = [f"task {n}" for n in range(12) if n not in (4, 7)]
TOP = ("wins", "losses", "ties", "win_rate", "standard_error", "ci95", "p_value")


def annotations(path: Path, preferences: list, **more) -> Path:
    """As AlpacaEval writes them."""
    lines = [
        {
            "instruction": f"Do {n}",
            "output_1": "x" * (50 + n % 7),
            "generator_1": "base",
            "output_2": "y" * (50 + n % 11),
            "generator_2": "new",
            "annotator": "weighted_judge",
            "preference": preference,
        }
        | more
        for n, preference in enumerate(preferences)
    ]
    path.write_text(json.dumps(lines))
    return path


def test_votes_of_two_annotators_whichever_letters_and_sides_they_saw(tmp_path: Path):
    pairs = paired(tmp_path)
    anna = ["model", "model", "model", "baseline", "tie", "model", "baseline", "model", "tie", None]
    ben = ["model", "model", "baseline", "baseline", "tie", "model", "model", "model", "model", "tie"]
    generator = random.Random(0)
    lines = [
        vote(pairs, pair, name, winner, generator.choice("ab"))
        for name, winners in (("Anna", anna), ("Ben", ben))
        for pair, winner in zip(PAIRS, winners, strict=True)
    ]
    found = evaluated("report", f"--votes={write_lines(tmp_path / 'votes.jsonl', lines)}")
    assert (found["model"], found["baseline"], found["identical"]) == ("Ours-7B", "Theirs-3", 2)
    assert [found[name] for name in ("wins", "losses", "ties", "null", "votes")] == [11, 4, 4, 1, 19]
    assert found["win_rate"] == pytest.approx(100 * 13 / 19)
    assert found["agreement"]["raw"] == pytest.approx(100 * 6 / 9)  # they differ on three of nine
    by_unit = [1, 1, 0.5, 0, 0.5, 1, 0.5, 1, 0.75, 0.5]
    assert found["win_rate_with_identical"] == pytest.approx(100 * (sum(by_unit) + 1) / 12)
    assert found["p_value"] == pytest.approx(2 * (1 + 6) / 2**6)  # five pairs won, one lost
    # Clustered, as by the definition: the sum of each pair's residuals, squared.
    scores = {"model": 1.0, "baseline": 0.0, "tie": 0.5}
    residuals = [sum(scores[winner] - 13 / 19 for winner in both if winner) for both in zip(anna, ben, strict=True)]
    error = math.sqrt(10 / 9 * sum(residual**2 for residual in residuals)) / 19
    assert found["standard_error"] == pytest.approx(100 * error)
    assert [(row["annotator"], row["wins"]) for row in found["by_annotator"]] == [("Anna", 5), ("Ben", 6)]
    categories = {row["category"]: row for row in found["by_category"]}
    letters = [n for n, pair in enumerate(PAIRS) if QUESTIONS[int(pair.split()[1])]["category"] == "letters"]
    for name, numbers in (("letters", letters), ("sums", sorted(set(range(10)) - set(letters)))):
        winners = [winners[n] for winners in (anna, ben) for n in numbers]
        assert categories[name]["wins"] == winners.count("model")
        assert categories[name]["losses"] == winners.count("baseline")


def test_an_annotation_file_of_alpaca_eval_gives_its_leaderboards_figures(tmp_path: Path):
    generator = np.random.default_rng(0)
    weighted = generator.uniform(1, 2, 200).tolist()
    preferences = [*weighted, 1, 2, 2, 0, 1.5, None, None]
    found = evaluated("report", f"--votes={annotations(tmp_path / 'annotations.json', preferences)}")
    scores = np.array([*weighted, 1, 2, 2, 1.5, 1.5]) - 1
    assert (found["model"], found["baseline"], found["unit"]) == ("new", "base", "percent")
    assert found["win_rate"] == pytest.approx(100 * scores.mean())
    assert found["standard_error"] == pytest.approx(100 * scores.std(ddof=1) / math.sqrt(len(scores)))
    assert (found["null"], found["ties"], found["votes"]) == (2, 2, 205)
    assert found["wins"] == (scores > 0.5).sum()
    assert found["length_controlled"]["win_rate"] is not None
    assert found == found["comparisons"][0] | {"unit": "percent", "comparisons": found["comparisons"]}


def test_several_models_are_ranked_and_the_same_two_meet_whichever_comes_first(tmp_path: Path):
    first = annotations(tmp_path / "1.json", [2] * 30 + [1] * 10)
    turned = annotations(tmp_path / "2.json", [1] * 12 + [2] * 8, generator_1="new", generator_2="base", annotator="b")
    third = annotations(tmp_path / "3.json", [2] * 10 + [1] * 30, generator_2="other")
    found = evaluated("report", f"--votes={first}", f"--votes={turned}", f"--votes={third}")
    assert "win_rate" not in found
    assert [(one["model"], one["wins"], one["losses"]) for one in found["comparisons"]] == [
        ("new", 42, 18),
        ("other", 10, 30),
    ]
    assert [one["model"] for one in found["ranking"]["models"]] == ["new", "base", "other"]
    strengths = [one["strength"] for one in found["ranking"]["models"]]
    assert strengths[0] - strengths[1] == pytest.approx(math.log(42 / 18))
    assert strengths[1] - strengths[2] == pytest.approx(math.log(3))


@pytest.mark.parametrize("same_question", [True, False])
def test_models_that_too_few_votes_rank_have_no_interval(tmp_path: Path, same_question: bool):
    """A cycle on one question, and as many ties as there are strengths to find."""
    one = {"instruction": "q", "output_1": "a", "output_2": "b"}
    pairs = (
        [("m1", "m2", 2), ("m2", "m3", 2), ("m3", "m1", 2)] if same_question else [("m1", "m2", 1.5), ("m2", "m3", 1.5)]
    )
    lines = [
        one
        | {"generator_1": first, "generator_2": second, "preference": preference}
        | ({} if same_question else {"instruction": f"about {first}"})
        for first, second, preference in pairs
    ]
    (tmp_path / "votes.json").write_text(json.dumps(lines))
    found = evaluated("report", f"--votes={tmp_path}/votes.json", f"--out={tmp_path}/report")
    models = found["ranking"]["models"]
    assert [model["strength"] for model in models] == pytest.approx([0, 0, 0], abs=1e-6)
    assert [(model["ci95"], model["elo_ci95"]) for model in models] == [(None, None)] * 3
    assert "| m1 | " in (tmp_path / "report" / "report.md").read_text()


def test_the_pages_hold_the_figures_and_nothing_that_a_browser_would_fetch_or_run(tmp_path: Path):
    evil = "<script>alert(1)</script>|$x_1$\n# head"
    votes = annotations(tmp_path / "v.json", [2] * 14 + [1] * 6, generator_2=evil, category=evil)
    other = annotations(tmp_path / "w.json", [2] * 9 + [1] * 6, generator_2="日本", annotator="other", category="ä & b")
    training = tmp_path / "train.json"
    training.write_text(json.dumps([{"instruction": "do  3", "output": evil}, {"instruction": evil, "output": "x"}]))
    out = tmp_path / "report"
    code, printed, err = run(
        "evaluate", "report", f"--votes={votes}", f"--votes={other}", f"--training={training}", f"--out={out}"
    )
    assert code == 0, err
    page, text = (out / "report.html").read_text(), (out / "report.md").read_text()
    assert printed == text
    for content in (page, text):
        assert "70.0%" in content
        assert "60.0%" in content
        assert "<script" not in content
    assert "&lt;script&gt;" in page
    assert page.count("data:image/svg+xml;base64,") >= 9
    assert "http://" not in page
    assert "https://" not in page
    assert all(line.count(" | ") >= 4 for line in text.splitlines() if "alert" in line and line.startswith("|"))
    figures = json.loads((out / "report.json").read_text())
    assert len(figures["comparisons"]) == 2


def test_questions_that_were_trained_on_are_found(tmp_path: Path):
    pairs = paired(tmp_path)
    votes = write_lines(tmp_path / "votes.jsonl", [vote(pairs, pair, "x", "model") for pair in PAIRS])
    records = [
        {"instruction": "say 1.", "input": "Twice", "output": ""},  # but for case the very question
        {"instruction": "Say 3. twice or thrice", "input": "", "output": ""},  # F = 2·3/(3 + 5)
        {"instruction": "Unlike anything", "input": "", "output": "Say 2."},
    ]
    chat = {"messages": [{"role": "user", "content": "Say 5.\n\ntwice"}, {"role": "assistant", "content": "5 5"}]}
    training = write_lines(tmp_path / "train.jsonl", [*records, chat])
    found = evaluated("report", f"--votes={votes}", f"--training={training}")["contamination"]
    assert (found["records"], found["questions"], found["exact"], found["near"]) == (4, 10, 2, 1)
    matches = [(one["question"], one["record"], one["exact"], round(one["f"], 6)) for one in found["matches"]]
    assert matches == [
        ("task 1", f"{training}, line 1", True, 1.0),
        ("task 5", f"{training}, line 4", True, 1.0),
        ("task 3", f"{training}, line 2", False, 0.75),
    ]


@pytest.mark.parametrize(
    ("change", "said"),
    [
        ({"pair": "task 99"}, "found the unknown pair 'task 99'"),
        ({"pair": "task 4"}, "found the unknown pair 'task 4'"),  # set aside: nobody was asked
        ({"vote": "left"}, "`vote` a, b, tie or null"),
        ({"vote": ["a"]}, "`vote` a, b, tie or null"),
        ({"annotator": ""}, "a text in `annotator`"),
        ({"pairs": "moved.json"}, "moved.json; found no such file. Give it with --pairs"),
        ({"pairs_sha256": "0"}, "found one for other pairs"),
        ({"annotator": "x", "pair": "task 1"}, "found a second of 'x', after"),
    ],
)
def test_a_vote_that_cannot_be_counted_is_refused(tmp_path: Path, change: dict, said: str):
    pairs = paired(tmp_path)
    good = [vote(pairs, "task 1", "x", "model"), vote(pairs, "task 1", "x", "model", left="b")]
    bad = vote(pairs, "task 2", "x", "model") | change
    line = the_one_line("evaluate", "report", f"--votes={write_lines(tmp_path / 'v.jsonl', [*good, bad])}")
    assert said in line
    assert "v.jsonl, line 3" in line
    assert evaluated("report", f"--votes={write_lines(tmp_path / 'v.jsonl', good)}")["votes"] == 1


@pytest.mark.parametrize("preference", [3, 0.5, -1, True, "2", [1]])
def test_a_preference_that_is_none_is_refused(tmp_path: Path, preference):
    line = the_one_line("evaluate", "report", f"--votes={annotations(tmp_path / 'v.json', [1, preference])}")
    assert "record 2" in line
    assert "`preference` 0, null, or a number from 1 to 2" in line


def test_a_database_of_votes_is_not_taken_for_votes(tmp_path: Path):
    path = tmp_path / "votes.sqlite"
    with contextlib.closing(sqlite3.connect(path)) as database:
        database.execute("CREATE TABLE votes (pair)")
    assert "`evaluate annotate --export=FILE.jsonl`" in the_one_line("evaluate", "report", f"--votes={path}")


def test_without_its_extra_the_report_says_what_to_install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch):
    find = importlib.util.find_spec
    monkeypatch.setattr(importlib.util, "find_spec", lambda name: None if name == "krippendorff" else find(name))
    assert "found no krippendorff. Install alpaca-jax[evaluate]" in the_one_line("evaluate", "report", "--votes=x")


def test_pairs_that_were_moved_are_found_where_they_are_said_to_be(tmp_path: Path):
    pairs = paired(tmp_path)
    votes = write_lines(tmp_path / "votes.jsonl", [vote(pairs, "task 1", "x", "baseline")])
    (tmp_path / "elsewhere").mkdir()
    for name in ("pairs.json", "pairs.key.json"):
        (tmp_path / name).rename(tmp_path / "elsewhere" / name)
    assert evaluated("report", f"--votes={votes}", f"--pairs={tmp_path}/elsewhere/pairs.json")["losses"] == 1
    (tmp_path / "elsewhere" / "pairs.key.json").unlink()
    assert "pairs.key.json" in the_one_line(
        "evaluate", "report", f"--votes={votes}", f"--pairs={tmp_path}/elsewhere/pairs.json"
    )

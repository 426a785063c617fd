"""Votes over HTTP and in the file: blind, once for each pair, safe; and what the program refuses."""

import contextlib
import json
import os
import socket
import sqlite3
import subprocess
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any

import httpx
import pytest

from alpaca_jax.evaluation.comparisons import read_votes
from alpaca_jax.evaluation.pairs import Pairs
from alpaca_jax.evaluation.votes import Votes
from tests.evaluation.annotating import NAMES, free_port, longer, make_pairs, serving, started
from tests.programs import run, the_one_line


class Desk:
    """An annotator's requests."""

    def __init__(self, client: httpx.Client, url: str, name: str):
        self._client, self._url, self._name = client, url, name
        self.seen: list[bytes] = []

    def ask(self, what: str, **fields: Any) -> Any:
        response = self._client.post(f"{self._url}api/{what}", json={"annotator": self._name, **fields})
        self.seen.append(response.content + str(response.headers).encode())
        assert response.status_code == 200, response.text
        return response.json()

    def vote(self, state: Any, choice: str, comment: str = "") -> Any:
        return self.ask("vote", pair=state["pair"]["id"], choice=choice, comment=comment)

    def finish(self) -> None:
        """Votes for the longer side of each pair."""
        state = self.ask("start")
        while state["pair"]:
            sides = {side: state["pair"][side] for side in ("left", "right")}
            state = self.vote(state, max(sides, key=lambda side: len(sides[side])))


@pytest.fixture
def files(tmp_path: Path) -> tuple[Path, Path]:
    """A pair file whose name is telling, and a name for votes."""
    folder = tmp_path / f"{NAMES[0]}-{NAMES[1]}"
    folder.mkdir()
    make_pairs(folder / "pairs.json")
    return folder / "pairs.json", folder / "votes.sqlite"


@pytest.fixture(scope="module")
def client():
    with httpx.Client(trust_env=False) as client:
        yield client


@pytest.fixture
def served(files: tuple[Path, Path]):
    pairs = make_pairs(files[0])
    with serving(pairs, Votes(files[1], pairs)) as url:
        yield url, pairs


def test_two_annotators_votes_come_out_by_letter_and_no_answer_names_a_model(
    files, served: tuple[str, Pairs], client: httpx.Client
):
    url, pairs = served
    desks = [Desk(client, url, name) for name in ("Anna", "Ben")]
    for desk in desks:
        desk.finish()
    bodies = b"".join(desk.seen[0] + b"".join(desk.seen) for desk in desks)
    for path in ("", "page.js", "page.css", "api/annotators", "nothing", "pairs.json", "pairs.key.json"):
        response = client.get(url + path)
        bodies += response.content + str(response.headers).encode()
    assert b"Say something about 3." in bodies
    for name in (*NAMES, "model", "baseline", "sqlite"):
        assert name.lower().encode() not in bodies.lower()
    sent = Desk(client, url, "Cleo").ask("start")["pair"]
    assert sent.keys() == {"id", "instruction", "input", "left", "right"}

    out = files[1].with_name("votes.jsonl")
    code, _, err = run("evaluate", "annotate", f"--pairs={files[0]}", f"--votes={files[1]}", f"--export={out}")
    assert code == 0
    assert "12 votes of 2 annotators" in err
    lines = [json.loads(line) for line in out.read_text().splitlines()]
    wanted = [
        (name, shown.pair.id, shown.left, longer(shown.pair)) for name in ("Anna", "Ben") for shown in pairs.sheet(name)
    ]
    assert [(line["annotator"], line["pair"], line["left"], line["vote"]) for line in lines] == wanted
    assert {line["pairs_sha256"] for line in lines} == {pairs.sha256}
    assert {line["pairs"] for line in lines} == {"pairs.json"}
    (comparison,) = read_votes([out])
    # In even pairs the longer answer is `a`, which is the model's there; in odd ones `b`, which is the model's, too.
    assert [vote.score for vote in comparison.votes] == [1.0] * 12


def test_the_first_of_two_votes_stays_and_a_vote_sent_twice_counts_once(files, served, client):
    desk = Desk(client, served[0], "Anna")
    first = desk.ask("start")
    second = desk.vote(first, "left", "good")
    assert desk.vote(first, "left", "good") == second
    stale = desk.vote(first, "right")
    assert "that vote stays" in stale.pop("notice")
    assert stale == second
    assert stale["done"] == 1

    assert "Nothing undone" in desk.ask("undo", pair=second["pair"]["id"])["notice"]
    undone = desk.ask("undo", pair=first["pair"]["id"])
    assert undone.pop("undone") == {"choice": "left", "comment": "good"}
    assert undone == first
    after = desk.vote(first, "tie")
    assert (after["done"], after["last"]) == (1, first["pair"]["id"])
    (vote,) = Votes(files[1], served[1]).all()
    assert (vote.vote, vote.comment) == ("tie", "")


def test_of_many_votes_at_once_on_one_pair_exactly_one_is_kept(files):
    pairs = make_pairs(files[0])
    shown, votes = pairs.sheet("Anna")[0], Votes(files[1], pairs)

    def vote(number: int) -> bool:
        return Votes(files[1], pairs).add("Anna", shown, "a", f"tab {number}")

    with ThreadPoolExecutor(8) as pool:
        saved = list(pool.map(vote, range(16)))
    assert sum(saved) == 1
    (kept,) = votes.all()
    assert kept.comment == f"tab {saved.index(True)}"


def test_a_name_is_the_same_in_other_spaces_and_cases(served, client):
    desk = Desk(client, served[0], "  Zoé \t Ö. ")
    assert desk.vote(desk.ask("start"), "left")["annotator"] == "Zoé Ö."
    again = Desk(client, served[0], "ZOE\u0301 ö.").ask("start")
    assert (again["annotator"], again["done"]) == ("Zoé Ö.", 1)


def test_a_vote_that_the_file_does_not_take_is_not_confirmed(files, served, client, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.setattr("alpaca_jax.support.database._PATIENCE", 0.05)
    desk = Desk(client, served[0], "Anna")
    pair = desk.ask("start")["pair"]["id"]
    ballot = {"annotator": "Anna", "pair": pair, "choice": "left"}
    with contextlib.closing(sqlite3.connect(files[1], isolation_level=None)) as other:
        other.execute("BEGIN IMMEDIATE")
        refused = client.post(f"{served[0]}api/vote", json=ballot)
    assert (refused.status_code, "database is locked" in refused.text) == (503, True)
    assert desk.ask("start")["done"] == 0
    assert client.post(f"{served[0]}api/vote", json=ballot).json()["done"] == 1


@pytest.mark.parametrize(
    ("path", "body", "headers", "status", "words"),
    [
        ("start", {"annotator": "  "}, {}, 400, "1 to 60 letters"),
        ("start", {"annotator": "x" * 61}, {}, 400, "1 to 60 letters"),
        ("start", {"annotator": "a\u202eb"}, {}, 400, "1 to 60 letters"),
        ("vote", {"annotator": "Anna", "pair": "task 99", "choice": "left"}, {}, 400, "no such pair"),
        ("vote", {"annotator": "Anna", "pair": "task 1", "choice": "a"}, {}, 422, "choice"),
        ("vote", {"annotator": "Anna", "pair": "task 1", "choice": "tie", "comment": "x" * 4001}, {}, 422, "comment"),
        ("vote", {"annotator": "Anna", "pair": "task 1", "choice": "tie", "comment": "x" * 70_000}, {}, 413, "bytes"),
        ("start", {"annotator": "Anna"}, {"Host": "evil.example"}, 403, "under its own name"),
        ("start", {"annotator": "Anna"}, {"Origin": "https://evil.example"}, 403, "pages from elsewhere"),
    ],
)
def test_what_the_server_refuses(
    served, client, path: str, body: Any, headers: dict[str, str], status: int, words: str
):
    response = client.post(f"{served[0]}api/{path}", json=body, headers=headers)
    assert (response.status_code, words in response.text) == (status, True), response.text
    assert client.get(f"{served[0]}api/annotators").json()["annotators"] == []


def test_the_page_may_load_nothing_from_elsewhere(served, client):
    headers = client.get(served[0]).headers
    assert headers["content-security-policy"].startswith("default-src 'none'; script-src 'self'; style-src 'self'; ")
    assert headers["cache-control"] == "no-store"


def test_with_a_key_nothing_is_told_without_it(files, client):
    pairs = make_pairs(files[0])
    with serving(pairs, Votes(files[1], pairs), key="a long key") as url:
        refused = client.get(url)
        assert (refused.status_code, refused.headers["www-authenticate"][:5]) == (401, "Basic")
        assert client.post(f"{url}api/start", json={"annotator": "Anna"}).status_code == 401
        assert client.get(url, auth=("anyone", "a long key")).status_code == 200


def vote_on(desk: Desk, state: Any, confirmed: set[str]) -> None:
    """Votes as long as the server answers."""
    while True:
        asked = state["pair"]["id"]
        state = desk.vote(state, "left")
        confirmed.add(asked)


def kill_after(process: subprocess.Popen, confirmed: set[str], goal: int, delay: float) -> None:
    while len(confirmed) < goal and process.poll() is None:
        time.sleep(0.0005)
    time.sleep(delay)
    process.kill()


def test_kills_lose_no_confirmed_vote_and_double_none(files, client):
    pairs, port = make_pairs(files[0], 100), free_port()
    confirmed: set[str] = set()
    desk = Desk(client, f"http://127.0.0.1:{port}/", "Anna")
    for turn in range(3):
        goal = len(confirmed) + 12
        with started(files, port) as process, ThreadPoolExecutor(1) as pool:
            state = desk.ask("start")
            # Of each turn before, one may be saved whose answer was lost.
            assert len(confirmed) <= state["done"] <= len(confirmed) + turn
            pool.submit(kill_after, process, confirmed, goal, turn * 0.004)
            with pytest.raises(httpx.TransportError):
                vote_on(desk, state, confirmed)
    votes = Votes(files[1], pairs).all("Anna")
    kept = [vote.pair for vote in votes if vote.vote == vote.left]
    assert len(kept) == len(set(kept)) == len(votes)
    assert confirmed <= set(kept)
    assert len(confirmed) >= 36


def refusal(files: tuple[Path, Path], *more: str) -> str:
    return the_one_line("evaluate", "annotate", f"--pairs={files[0]}", f"--votes={files[1]}", *more)


def test_files_that_do_not_belong_together(files, tmp_path: Path):
    pairs = make_pairs(files[0])
    other = make_pairs(tmp_path / "other.json", 5)
    Votes(tmp_path / "other.sqlite", other)
    assert "expected votes on this pair file; found votes on another" in refusal((files[0], tmp_path / "other.sqlite"))

    Votes(files[1], pairs).add("Anna", pairs.sheet("Anna")[0], "a", "")
    with sqlite3.connect(files[1]) as connection:
        connection.execute("UPDATE votes SET pair = 'task 99'")
    connection.close()
    assert "a vote of 'Anna' on 'task 99'" in refusal(files)
    files[1].write_text("pair,vote\n")
    assert "expected an SQLite file with votes; found another kind of file" in refusal(files)
    assert files[1].read_text() == "pair,vote\n"
    foreign = tmp_path / "foreign.sqlite"
    with sqlite3.connect(foreign) as connection:
        connection.execute("CREATE TABLE mine (x)")
    connection.close()
    assert "one of another program" in refusal((files[0], foreign))
    files[0].write_text('{"pairs": [}')
    assert "expected a JSON file" in refusal(files)


def test_addresses_that_cannot_be_had(files, monkeypatch: pytest.MonkeyPatch):
    monkeypatch.delenv("ALPACA_JAX_API_KEY", raising=False)
    assert "ALPACA_JAX_API_KEY" in refusal(files, "--host=0.0.0.0")
    monkeypatch.setenv("ALPACA_JAX_API_KEY", "geheimnisträger")
    line = refusal(files, "--host=0.0.0.0")
    assert "ALPACA_JAX_API_KEY: expected ASCII" in line
    assert "geheim" not in line
    monkeypatch.delenv("ALPACA_JAX_API_KEY")
    with socket.create_server(("127.0.0.1", 0)) as taken:
        assert "choose another port" in refusal(files, f"--port={taken.getsockname()[1]}").lower()
    assert not files[1].exists()
    assert "found no file" in refusal(files, f"--export={files[1].with_name('out.jsonl')}")
    assert sorted(os.listdir(files[0].parent)) == ["pairs.json", "pairs.key.json"]

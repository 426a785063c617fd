"""What is spent and how fast: the budget, prices, tokens that nobody counted, and limits a minute."""

from pathlib import Path

import pytest

from tests.making import flags, instructions, made, numbered, unlike
from tests.openai_server import answer, serving, tasks_json
from tests.programs import run, the_one_line

pytestmark = pytest.mark.usefixtures("asked_quickly")


@pytest.mark.parametrize("concurrency", [1, 4])
def test_the_budget_holds_to_the_last_digit(seeds: Path, concurrency: int):
    # An answer costs 0.0012; the most it may cost is what its prompt's bytes and max_tokens come to.
    prices = ("--price_in=1", "--price_out=1", "--max_tokens=500", f"--concurrency={concurrency}")
    with serving(numbered) as server:
        arguments = flags(seeds, server.url, *prices, num=100)
        code, _, err = run("selfinstruct", *arguments, "--budget_usd=0.02")
        line = err.splitlines()[-1]
        assert code == 2
        assert "--budget_usd=0.02: expected room for one more request" in line
        spent = len(server.requests)
        assert 8 <= spent <= 16
        assert f"${spent * 0.0012:.4f} spent" in line
        assert len(instructions(seeds)) == 2 * spent
        # The same budget again: nothing more is sent.
        assert run("selfinstruct", *arguments, "--budget_usd=0.02")[0] == 2
        assert len(server.requests) == spent
        report = made([*arguments, "--budget_usd=1"])
        assert report["cost_usd"] == pytest.approx(0.0012 * 50, abs=0.0012 * concurrency)
        assert report["cost_usd"] == report["requests"] * 12 / 10_000
        assert report["requests"] == len(server.requests)


def test_prices_come_from_the_table(seeds: Path):
    with serving(numbered) as server:
        code, out, err = run("selfinstruct", *flags(seeds, server.url, model="gpt-4o-mini", num=2))
        assert code == 0
        assert "records 2/2  $0.0003 so far, $0.0003 in all" in err
        assert "2 records from 1 requests, cost $0.0003" in out  # (1000·0.15 + 200·0.60)/10⁶
        for path in seeds.parent.glob("out.*"):
            path.unlink()
        table = seeds.with_name("prices.toml")
        table.write_text('[models]\n"m" = { in = "3", out = "7" }\n')
        assert made(flags(seeds, server.url, f"--prices={table}", num=2))["cost_usd"] == 0.0044
        assert "a price for other" in the_one_line(
            "selfinstruct", *flags(seeds, server.url, "--budget_usd=1", model="other")
        )
        table.write_text('[models]\n"m" = 3\n')
        assert "prices.toml: expected a table" in the_one_line(
            "selfinstruct", *flags(seeds, server.url, f"--prices={table}")
        )


def test_tokens_that_the_server_does_not_count_are_estimated(seeds: Path):
    with serving(lambda request: answer(tasks_json(unlike(1)), tokens=None)) as server:
        report = made(flags(seeds, server.url, num=1))
    asked = server.requests[0].body["messages"][0]["content"]
    assert report["unmeasured"] == 1
    assert report["prompt_tokens"] == -(-len(asked.encode()) // 4)
    assert report["answer_tokens"] == -(-len(tasks_json(unlike(1))) // 4)
    assert report["cost_usd"] is None


@pytest.mark.parametrize("limit", ["--requests_per_minute=2", "--tokens_per_minute=1800"])
def test_requests_and_tokens_a_minute_are_limited(seeds: Path, monkeypatch: pytest.MonkeyPatch, limit: str):
    import aiolimiter

    # A minute of a second: the third request has to wait for half of it, or for most of two.
    limiter = aiolimiter.AsyncLimiter
    monkeypatch.setattr(aiolimiter, "AsyncLimiter", lambda rate: limiter(rate, 1.0))
    with serving(numbered) as server:
        made(flags(seeds, server.url, limit, "--max_tokens=1000", "--concurrency=4", num=6))
    assert server.requests[2].time - server.requests[0].time > 0.3

"""The page in a browser: people drive it by keyboard and by mouse, in two tabs, through a crash, on a phone."""

from collections.abc import Callable
from pathlib import Path

import pytest
from playwright.sync_api import Page, expect

from alpaca_jax.evaluation.pairs import Pairs
from alpaca_jax.evaluation.votes import Votes
from tests.browser import Visitor
from tests.evaluation.annotating import LONG, SCRIPT, free_port, longer, make_pairs, serving, started


@pytest.fixture
def served(tmp_path: Path):
    """The page's address, the pairs, and the votes."""
    pairs = make_pairs(tmp_path / "pairs.json")
    votes = Votes(tmp_path / "votes.sqlite", pairs)
    with serving(pairs, votes) as url:
        yield url, pairs, votes


def begin(page: Page, name: str) -> None:
    """Starts as somebody, by the keyboard alone: the field for the name has the focus."""
    expect(page.locator("#name")).to_be_focused()
    page.keyboard.type(name)
    page.keyboard.press("Enter")
    expect(page.locator("#who")).to_have_text(name)


def done(page: Page, count: int, total: int = 6) -> None:
    """Waits until the page says, to who votes, that so many votes are saved."""
    expect(page.locator("#count")).to_have_text(f"{count} of {total}")
    expect(page.locator("#count")).to_be_visible()  # the start screen hides what it said last


def vote_through(page: Page, choose: Callable[[str, str], str]) -> None:
    for count in range(6):
        done(page, count)
        page.keyboard.press(choose(page.locator("#left").inner_text(), page.locator("#right").inner_text()))
    done(page, 6)
    expect(page.get_by_text("That was the last pair")).to_be_visible()


def test_two_annotators_vote_to_the_end_by_keyboard(served: tuple[str, Pairs, Votes], open_page: Visitor):
    url, pairs, votes = served
    pages = [open_page(url), open_page(url)]
    for page, name in zip(pages, ("Anna", "Ben"), strict=True):
        begin(page, name)
    vote_through(pages[0], lambda left, right: "1" if len(left) > len(right) else "2")
    vote_through(pages[1], lambda left, right: "0")
    assert {vote.pair: vote.vote for vote in votes.all("Anna")} == {one.id: longer(one) for one in pairs.pairs}
    assert [vote.pair for vote in votes.all("Ben")] == [shown.pair.id for shown in pairs.sheet("Ben")]
    assert {vote.vote for vote in votes.all("Ben")} == {"tie"}


def test_what_answers_hold_is_shown_and_not_run(served: tuple[str, Pairs, Votes], open_page: Visitor):
    page = open_page(served[0])
    begin(page, "Anna")
    for count in range(6):
        done(page, count)
        texts = {page.locator(f"#{side}").text_content() for side in ("left", "right")}
        if SCRIPT in texts:
            break
        page.keyboard.press("1")
    assert texts == {SCRIPT, LONG}
    assert page.title() == "Which answer is better?"
    # The panel stays in sight beside a text many screens long, which no word of it makes wider than the window.
    assert page.evaluate("document.documentElement.scrollHeight") > 2000
    assert page.evaluate("document.documentElement.scrollWidth") <= 1280
    expect(page.get_by_role("button", name="Left")).to_be_in_viewport()


def test_undo_comment_pause_and_going_on(served: tuple[str, Pairs, Votes], open_page: Visitor):
    url, pairs, votes = served
    page = open_page(url)
    begin(page, "Anna")
    page.keyboard.press("c")
    page.keyboard.type("Both 1 and 2 are up")  # keys that would vote and undo elsewhere
    page.keyboard.press("Escape")
    done(page, 0)
    page.keyboard.press("2")
    done(page, 1)
    first, right = pairs.sheet("Anna")[0], pairs.sheet("Anna")[0].right
    (vote,) = votes.all()
    assert (vote.pair, vote.vote, vote.comment) == (first.pair.id, right, "Both 1 and 2 are up")

    page.keyboard.press("u")
    done(page, 0)
    expect(page.locator("#left")).to_have_text(first.pair.answer(first.left))
    expect(page.get_by_label("Comment")).to_have_value("Both 1 and 2 are up")
    expect(page.locator("#notice")).to_have_text("Taken back; it was: right.")
    assert votes.all() == []
    page.get_by_role("button", name="Tie").click()
    done(page, 1)
    expect(page.get_by_label("Comment")).to_have_value("")

    page.keyboard.press("p")
    page.get_by_role("button", name="Anna · 1 of 6").click()
    done(page, 1)
    page.reload()
    done(page, 1)
    expect(page.locator("#left")).to_have_text(pairs.sheet("Anna")[1].pair.answer(pairs.sheet("Anna")[1].left))


def test_two_tabs_make_one_vote(served: tuple[str, Pairs, Votes], open_page: Visitor):
    url, _, votes = served
    one = open_page(url)
    begin(one, "Anna")
    two = one.context.new_page()
    two.goto(url)
    begin(two, "Anna")
    one.keyboard.press("1")
    done(one, 1)
    two.keyboard.press("2")
    expect(two.locator("#notice")).to_contain_text("that vote stays")
    done(two, 1)
    (vote,) = votes.all()
    assert vote.vote == vote.left
    assert one.locator("#left").inner_text() == two.locator("#left").inner_text()
    two.keyboard.press("2")
    done(two, 2)
    one.keyboard.press("u")  # of a vote that is not the latest any more
    expect(one.locator("#notice")).to_contain_text("Nothing undone")
    assert len(votes.all()) == 2


def test_a_vote_outlasts_a_crash_of_the_server(tmp_path: Path, open_page: Visitor):
    pairs, port = make_pairs(tmp_path / "pairs.json"), free_port()
    files = tmp_path / "pairs.json", tmp_path / "votes.sqlite"
    with started(files, port) as process:
        page = open_page(f"http://127.0.0.1:{port}/")
        begin(page, "Anna")
        page.keyboard.press("1")
        done(page, 1)
        process.kill()
    page.keyboard.press("2")
    expect(page.locator("#notice")).to_contain_text("Not saved yet")
    page.keyboard.press("1")  # no second vote while the first is under way
    with started(files, port) as process:
        done(page, 2)
        expect(page.locator("#notice")).to_be_hidden()
        page.keyboard.press("0")
        done(page, 3)
        process.terminate()
        assert process.wait(60) == 0
    wanted = [shown.left if key == 1 else shown.right for key, shown in zip((1, 2), pairs.sheet("Anna"), strict=False)]
    assert [vote.vote for vote in Votes(files[1], pairs).all()] == [*wanted, "tie"]
    assert all("ERR_" in complaint for complaint in open_page.complaints)
    open_page.complaints.clear()  # Chromium's own, about the server that was gone


@pytest.mark.parametrize("dark", [False, True])
def test_it_fits_a_phone(served: tuple[str, Pairs, Votes], open_page: Visitor, dark: bool):
    page = open_page(served[0], width=360, height=740, dark=dark)
    assert page.evaluate("document.documentElement.scrollWidth") <= 360
    begin(page, "Anna")
    for count in range(6):
        done(page, count)
        assert page.evaluate("document.documentElement.scrollWidth") <= 360
        page.get_by_role("button", name="Right").click()
    done(page, 6)
    lightness = page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert lightness == ("rgb(18, 21, 27)" if dark else "rgb(244, 246, 249)")

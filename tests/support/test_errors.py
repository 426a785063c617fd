from alpaca_jax.support.errors import UserError, shorten


def test_what_was_found_stays_one_short_line():
    assert shorten("a\nb") == r"'a\nb'"
    assert shorten("a" * 100, 10) == "'aaaaaaaa…"
    nested: list = []
    for _ in range(100_000):
        nested = [nested]
    assert shorten(nested) == "a value nested too deep to show"


def test_an_error_is_one_line_whatever_it_quotes():
    error = UserError("a\nb", expected="c", found="d\r\n e", remedy="mend it")
    assert str(error) == "a b: expected c; found d e. Mend it."

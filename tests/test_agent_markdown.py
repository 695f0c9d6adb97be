"""Streamed Markdown looks the same for any cut of the stream, is wrapped between words, and loses nothing."""

from __future__ import annotations

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st
from rich.cells import cell_len

from agent.cli.markdown import BOLD, CODE, DIM, ITALIC, RESET, Markdown

TEXT = """\
# A heading with `code`

Some **bold text** and *emphasis*, 2 * 3 * 4 = 24, snake_case, __init__ and **kwargs stay.
- item one, long enough to be wrapped with an indentation of its own
1. first
> quoted

```python
def f(*args):
    return "a" * 2  # **kept**
```
End `unclosed. ~/x/*.py and a*b*c 总结一下 **好**的
"""


def rendered(text: str, width: int = 40, cut: int = 1) -> str:
    markdown = Markdown(width)
    pieces = [markdown.feed(text[i : i + cut]) for i in range(0, len(text), cut)]
    return "".join([*pieces, markdown.end()])


def plain(text: str) -> str:
    return re.sub(r"\x1b\[\d+m", "", text)


@pytest.mark.parametrize(
    ("source", "shown"),
    [
        ("# Title\n", f"{BOLD}Title{RESET}\n"),
        ("**a b**!", f"{BOLD}a{RESET} {BOLD}b{RESET}!"),
        ("*x* `y`", f"{ITALIC}x{RESET} {CODE}y{RESET}"),
        ("- a\n* b", "• a\n• b"),
        ("2. a", "2. a"),
        ("> a", f"{DIM}│ {RESET}{DIM}a{RESET}"),
        ("```sh\nls *\n```\nok", f"{DIM}ls *{RESET}\nok"),
        ("2 * 3 * 4, **kwargs, `open", "2 * 3 * 4, **kwargs, `open"),
        ("my_var_name __init__ ~/x/*.py a*b*c", "my_var_name __init__ ~/x/*.py a*b*c"),
        ("**not\nclosed**", "**not\nclosed**"),
        ("#hashtag", "#hashtag"),
        ("", ""),
    ],
)
def test_marks_become_styles_where_they_are_closed(source: str, shown: str) -> None:
    assert rendered(source, 80) == shown


@pytest.mark.parametrize("width", [20, 40, 200])
@pytest.mark.parametrize("cut", [2, 3, 7, 10_000])
def test_any_cut_of_the_stream_shows_the_same(width: int, cut: int) -> None:
    assert rendered(TEXT, width, cut) == rendered(TEXT, width, 1)


@given(st.text(alphabet="ab *`#-1.>_\n", max_size=80), st.integers(1, 9))
def test_any_text_in_any_cut_shows_the_same(text: str, cut: int) -> None:
    whole = rendered(text, 20, 10_000)
    assert rendered(text, 20, cut) == whole
    assert re.findall(r"[ab1_]", plain(whole)) == re.findall(r"[ab1_]", re.sub(r"```[^\n]*\n", "", text)) or (
        "```" in text  # what follows a fence's mark names a language and is not shown
    )


@given(st.lists(st.text(alphabet="abcé总", min_size=1, max_size=12), max_size=30), st.integers(20, 60))
def test_lines_are_no_wider_than_the_terminal(words: list[str], width: int) -> None:
    shown = rendered(" ".join(words), width)
    assert shown.split() == words
    for row in shown.split("\n"):
        assert cell_len(row.rstrip()) < width or len(row.split()) == 1


def test_the_answer_is_one_word_behind_the_model() -> None:
    markdown = Markdown(80)
    assert markdown.feed("Par") == "" and markdown.feed("is ") == "Paris " and markdown.feed("is") == ""
    assert markdown.end() == "is"

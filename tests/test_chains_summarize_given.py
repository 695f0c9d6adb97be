"""The inputs and options of summarize_chain: texts, Documents, files, folders and stores, good and bad."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
from fakes import ScriptedChat, WordEmbeddings
from langchain_core.documents import Document

from chains.errors import EmptyInputError, NotTextError, OptionError, UnusableReplyError
from chains.retrieval import DocumentStore
from chains.retrieval.errors import SourceNotFound, SourceUnreadable, UnsupportedFormat
from chains.summarize import StoreSource, Style, summarize_chain

TEXT = """# Lighthouse

The lighthouse at Skerry Point was built in 1841 by Alan Stevenson. It stands 38 metres high.

# Garden

The walled garden behind the lighthouse grows kale, leeks and rhubarb. Salt wind keeps the beds low.
"""


def _extractive(**options: Any) -> Any:
    return summarize_chain(None, embeddings=WordEmbeddings(), **options)


def test_a_source_or_a_folder_of_a_store_is_read_from_the_store(tmp_path: Path) -> None:
    (tmp_path / "docs").mkdir()
    file = tmp_path / "docs" / "light.md"
    file.write_text(TEXT)
    with DocumentStore(tmp_path / "store", embeddings=WordEmbeddings(), index="exact") as store:
        store.ingest(tmp_path / "docs")
        file.unlink()
        found = _extractive().invoke(StoreSource(store, str(file)))
        assert found.sources == (str(file),) and found.text == _extractive().invoke(TEXT).text
        assert _extractive().invoke([StoreSource(store, str(tmp_path / "docs")), "Cows graze."]).sources == (
            str(file),
            "text 2",
        )
        with pytest.raises(SourceNotFound, match=r"store\.sources\(\)"):
            _extractive().invoke(StoreSource(store, "absent.md"))


def test_a_path_that_is_not_there_is_said(tmp_path: Path) -> None:
    with pytest.raises(SourceNotFound, match="found nothing at"):
        _extractive().invoke(tmp_path / "absent.md")


@pytest.mark.parametrize("refine", [False, True])
def test_no_model_is_loaded_for_a_file_that_is_not_there(refine: bool, tmp_path: Path) -> None:
    class Unloaded(ScriptedChat):
        def runtime(self) -> Any:
            raise AssertionError("a model was loaded")

    chain = summarize_chain(Unloaded(replies=[]), refine=refine)
    with pytest.raises(SourceNotFound, match="found nothing at"):
        chain.invoke(tmp_path / "none.txt")


def test_inputs_texts_documents_files_and_folders(tmp_path: Path) -> None:
    (tmp_path / "a.md").write_text("# One\n\nThe first file talks of geese and ducks.")
    (tmp_path / "b.txt").write_text("The second file talks of trains and rails.")
    (tmp_path / "c.bin").write_bytes(b"\x00\x01")
    chain = _extractive()
    assert len(chain.invoke(tmp_path).sources) == 2
    assert chain.invoke(tmp_path / "b.txt").sources == (str(tmp_path / "b.txt"),)
    documents = [
        Document("Cows graze on the hill all day.", metadata={"source": "cows"}),
        Document("Bees hum in it."),
    ]
    assert chain.invoke(documents).sources == ("cows", "text 2")


@pytest.mark.parametrize(
    ("text", "error"),
    [
        ("", EmptyInputError),
        (" \n", EmptyInputError),
        ([], EmptyInputError),
        (b"\x89PNG", NotTextError),
        ("a\x00", NotTextError),
        ("half \ud83d", NotTextError),
        (Document("\udcff"), NotTextError),
    ],
)
def test_bad_input_is_refused(text: Any, error: type[Exception]) -> None:
    with pytest.raises(error, match="found"):
        _extractive().invoke(text)


def test_other_formats_are_read_by_their_parsers(tmp_path: Path) -> None:
    page = tmp_path / "page.html"
    page.write_text("<html><body><p>The swans nest on the island each spring.</p></body></html>")
    assert _extractive().invoke(page).text == "The swans nest on the island each spring."


@pytest.mark.parametrize("refine", [False, True])
def test_a_file_of_a_folder_that_cannot_be_read_is_named_and_left_out(tmp_path: Path, refine: bool) -> None:
    (tmp_path / "a.md").write_text("The first file talks of geese and ducks.")
    (tmp_path / "b.md").write_bytes(b"\xff\xd8\xff\xe0 not text")
    (tmp_path / "c.pdf").write_bytes(b"%PDF-1.4 damaged")
    found = _extractive(refine=refine).invoke(tmp_path)
    assert found.text == "The first file talks of geese and ducks."
    assert [Path(path).name for path, _ in found.unread] == ["b.md", "c.pdf"]
    assert all("c.pdf" in reason or "b.md" in reason for _, reason in found.unread)
    (tmp_path / "a.md").unlink()
    with pytest.raises(UnsupportedFormat, match=r"b\.md"):
        _extractive(refine=refine).invoke(tmp_path)


def test_a_binary_file_is_refused_by_name(tmp_path: Path) -> None:
    path = tmp_path / "photo.md"
    path.write_bytes(b"\xff\xd8\xff\xe0 not text")
    with pytest.raises(UnsupportedFormat, match="photo"):
        _extractive().invoke(path)


@pytest.mark.parametrize(
    "style",
    [
        {"sentences": 0},
        {"sentences": "3"},
        {"sentences": 2.5},
        {"sentences": True},
        {"words": 3},
        {"words": 50, "sentences": 2},
        {"tldr": True, "words": 20},
        {"focus": 3},
    ],
)
def test_bad_styles_are_refused(style: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="expected"):
        Style(**style)


@pytest.mark.parametrize(
    "options",
    [
        {"mode": "magic"},
        {"mode": "written"},
        {"part_tokens": 3},
        {"part_tokens": "900"},
        {"style": "short"},
        {"cache": 5},
        {"embeddings": "mini"},
    ],
)
def test_bad_options_are_refused(options: dict[str, Any]) -> None:
    with pytest.raises(OptionError, match="expected"):
        summarize_chain(None, **options)
    with pytest.raises(OptionError, match="found 'mistral-7b': pass ChatLocal"):
        summarize_chain("mistral-7b")  # type: ignore[arg-type]


def test_of_several_texts_those_without_a_word_are_left_out() -> None:
    found = _extractive().invoke(["", Document(" "), "Cows graze on the hill all day.", "\n"])
    assert found.text == "Cows graze on the hill all day."
    with pytest.raises(EmptyInputError):
        _extractive().invoke(["", " "])
    with pytest.raises(NotTextError, match="found NoneType None: pass a str"):
        _extractive().invoke(["Cows graze.", None])


def test_a_file_that_cannot_be_read_is_said() -> None:
    with pytest.raises(SourceUnreadable, match="/proc/self/mem"):
        _extractive().invoke(Path("/proc/self/mem"))


def test_a_folder_named_by_text_keeps_what_was_made(tmp_path: Path) -> None:
    chain = _extractive(cache=str(tmp_path / "kept"))
    assert (chain.invoke(TEXT).cached, chain.invoke(TEXT).cached) == (0, 2)


@pytest.mark.parametrize("reply", ["", "Elvis Presley bought 77 bridges.", "\x00", "#" * 5000])
@pytest.mark.parametrize("refine", [False, True])
def test_where_nothing_written_may_be_used_the_texts_own_sentences_stand(reply: str, refine: bool) -> None:
    model = ScriptedChat(replies=[reply])
    found = summarize_chain(model, embeddings=WordEmbeddings(), refine=refine).invoke(TEXT)
    assert found.method == "extractive" and found.calls > 0 and found.sentences
    assert all(one.quote in TEXT for one in found.sentences)
    with pytest.raises(UnusableReplyError, match="leave audience and language out"):
        summarize_chain(model, style=Style(audience="sailors"), refine=refine).invoke(TEXT)


def test_a_refinement_that_may_not_be_used_keeps_what_was_there() -> None:
    replies = ["It stands 38 metres high.", "Elvis Presley bought 77 bridges."]
    found = summarize_chain(ScriptedChat(replies=replies), refine=True).invoke(TEXT)
    assert (found.text, found.method, found.dropped) == ("It stands 38 metres high.", "written", 1)

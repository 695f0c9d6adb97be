"""Files that are made to hang, crash or fill the memory each cost one error that names them, and no more."""

from __future__ import annotations

import io
import os
import random
import zipfile
from pathlib import Path

import pytest
from retrieval_fakes import WordEmbeddings
from retrieval_files import every_format

from chains.retrieval import DocumentStore, errors


def zipped(**parts: bytes) -> bytes:
    target = io.BytesIO()
    with zipfile.ZipFile(target, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, data in parts.items():
            archive.writestr(name.replace("__", "/").replace("_", "."), data)
    return target.getvalue()


def crafted() -> dict[bytes, bytes]:
    """Return files, by name, that are made to hang or crash their readers or to fill the memory."""
    laughs = (
        b'<!DOCTYPE x [<!ENTITY a "ha">'
        + b"".join(
            b'<!ENTITY a%d "%s">' % (n, b"&a%d;" % (n - 1) * 10 if n else b"&a;" * 10) for n in range(9)
        )
        + b"]><x>&a8;</x>"
    )
    zeros = b"\0" * 300_000_000
    types = b'<Types xmlns="http://schemas.openxmlformats.org/package/2006/content-types"/>'
    container = b'<container><rootfiles><rootfile full-path="a.opf"/></rootfiles></container>'
    return {
        b"bomb.json": b"[" * 100_000,
        b"nested.json": b"[" * 1_000 + b"]" * 1_000,
        b"laugh.xml": laughs,
        b"nested.xml": b"<a>" * 1_000 + b"deep" + b"</a>" * 1_000,
        b"deep.html": b"<div>" * 20_000,
        b"nested.html": b"<ul><li>" * 1_000 + b"deep" + b"</li></ul>" * 1_000,
        b"line.txt": b"x" * 3_000_000,
        b"words.md": b"word " * 100_000,
        b"quotes.md": b"> " * 1_000 + b"deep",
        b"rules.rst": b"=\n" * 50_000,
        b"fence.md": b"```\n" * 50_001,
        b"zero.pdf": b"%PDF-1.7\n" + b"\0" * 10_000,
        b"bomb.docx": zipped(word__document_xml=zeros, **{"[Content_Types]_xml": types}),
        b"bomb.epub": zipped(**{"META-INF__container_xml": container}, a_opf=zeros),
        b"laugh.xlsx": zipped(xl__workbook_xml=laughs, **{"[Content_Types]_xml": types}),
        b"laugh.epub": zipped(**{"META-INF__container_xml": laughs}),
        b"nested.zip.pptx": zipped(inner_zip=zipped(inner_zip=zipped(a=b"a"))),
        b"new\nline.csv": b'"' * 5_000,
        b"half\xed\xa0\x80pair.md": b"A surrogate in the name.",
        b"latin\xe9.txt": b"No UTF-8 in the name.",
    }


def hostile(folder: Path, count: int, seed: int) -> list[str]:
    """Write damaged files of all formats and the crafted ones; return their names as a report shows them."""
    chance = random.Random(seed)
    good = every_format()
    names = []
    for number in range(count):
        source = chance.choice(sorted(good))
        data = bytearray(good[source])
        if chance.random() < 0.4:
            del data[chance.randrange(len(data)) :]
        for _ in range(chance.choice([1, 8, 64])):
            if data:
                data[chance.randrange(len(data))] ^= 1 << chance.randrange(8)
        name = f"h{number}-{source}"
        (folder / name).write_bytes(data)
        names.append(name)
    for raw, data in crafted().items():
        with open(os.path.join(os.fsencode(folder), raw), "wb") as handle:
            handle.write(data)
        names.append(raw.decode("utf-8", "backslashreplace"))
    return names


def survives(tmp_path: Path, count: int, seed: int) -> None:
    docs = tmp_path / "docs"
    docs.mkdir()
    names = hostile(docs, count, seed)
    (docs / "good.txt").write_text("A good document about pelicans.")
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        report = store.ingest(docs)
        told = {os.path.basename(path) for path in (*report.added, *report.skipped)}
        told |= {os.path.basename(failed.path) for failed in report.failed}
        assert told == {*names, "good.txt"}
        assert all(failed.reason for failed in report.failed) and report.failed
        assert store.retriever(k=1).invoke("pelicans")[0].metadata["title"] == "good"
        assert store.verify().ok


def test_hostile_files_cost_an_error_each_and_nothing_else(tmp_path: Path) -> None:
    survives(tmp_path, count=60, seed=3)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("seed", range(61, 66))
def test_a_thousand_hostile_files(tmp_path: Path, seed: int) -> None:
    survives(tmp_path, count=200, seed=seed)


@pytest.mark.slow
@pytest.mark.timeout(1800)
def test_a_line_of_a_hundred_megabytes(tmp_path: Path) -> None:
    path = tmp_path / "line.txt"
    path.write_bytes(b"heron " * 2_000 + b"x" * 100_000_000)
    with DocumentStore(tmp_path / "s", WordEmbeddings(), index="exact") as store:
        refused = store.ingest(path).failed[0]
        assert isinstance(refused.error, errors.DocumentTooLarge) and "max_file_bytes" in refused.reason
        assert store.ingest(path, max_file_bytes=200_000_000).added == (str(path),)
        assert "heron" in store.retriever(k=1, mode="keyword").invoke("heron")[0].page_content

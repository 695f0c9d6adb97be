"""After any sequence of updates, the store equals a fresh ingest of the files on disk."""

from __future__ import annotations

import shutil
import tempfile
from pathlib import Path

import pytest
from hypothesis import HealthCheck, seed, settings
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule, run_state_machine_as_test
from retrieval_fakes import WordEmbeddings, memory_folder

from chains.retrieval import DocumentStore, SearchOptions, SplitterConfig

NAMES = ["a.md", "b.txt", "sub/c.md", "sub/d.txt", "sub/deep/e.rst"]
WORDS = "heron otter lamp ferry rose clay harbour keeper river noon winter salt".split()
TEXTS = st.lists(st.lists(st.sampled_from(WORDS), min_size=1, max_size=30), min_size=1, max_size=4).map(
    lambda paragraphs: "# Title\n\n" + "\n\n".join(" ".join(words) + "." for words in paragraphs) + "\n"
)
SMALL = SplitterConfig(max_tokens=40, min_tokens=8, overlap_tokens=6)
EMBEDDINGS = WordEmbeddings()


def opened(path: Path) -> DocumentStore:
    return DocumentStore(path, EMBEDDINGS, index="exact", splitter=SMALL)


def shown(store: DocumentStore) -> tuple[dict[str, object], list[float]]:
    """Return all that a user can see of a store: its sources, the hits of queries in order, and their scores.

    The scores are held to a tolerance: sums over another number of rows differ in their last bits, and
    rounding both sides only moves the place where those bits show (0.87655 was 0.8766 and 0.8765).
    """
    answers: dict[str, object] = {
        "documents": [
            {key: value for key, value in entry.items() if key not in ("ingested", "modified")}
            for entry in store.export()
        ]
    }
    scores: list[float] = []
    for mode in ("dense", "keyword", "hybrid", "mmr"):
        for query in ("heron lamp", "winter harbour keeper", "salt"):
            hits = store.search(query, SearchOptions(k=5, mode=mode))
            answers[f"{mode} {query}"] = [hit.chunk.chunk_id for hit in hits]
            scores += [number for hit in hits for number in (hit.score, hit.cosine)]
    return answers, scores


class Updates(RuleBasedStateMachine):
    """Files are added, changed, moved and removed; the store is ingested, reopened and re-embedded."""

    def __init__(self) -> None:
        super().__init__()
        self.folder = Path(tempfile.mkdtemp(prefix="store-states-"))
        self.docs = self.folder / "docs"
        self.docs.mkdir()
        (self.docs / "always.txt").write_text("This file stays.")
        self.store = opened(self.folder / "store")
        self.store.ingest(self.docs)
        self.current = True

    @rule(name=st.sampled_from(NAMES), text=TEXTS)
    def write(self, name: str, text: str) -> None:
        path = self.docs / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
        self.current = False

    @rule(name=st.sampled_from(NAMES))
    def delete(self, name: str) -> None:
        (self.docs / name).unlink(missing_ok=True)
        self.current = False

    @rule(old=st.sampled_from(NAMES), new=st.sampled_from(NAMES))
    def move(self, old: str, new: str) -> None:
        if (self.docs / old).exists():
            (self.docs / new).parent.mkdir(parents=True, exist_ok=True)
            (self.docs / old).rename(self.docs / new)
            self.current = False

    @rule(old=st.sampled_from(NAMES), new=st.sampled_from(NAMES))
    def copy(self, old: str, new: str) -> None:
        if (self.docs / old).exists() and old != new:
            (self.docs / new).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(self.docs / old, self.docs / new)
            self.current = False

    @rule()
    def ingest(self) -> None:
        self.store.ingest(self.docs)
        self.current = True

    @rule(name=st.sampled_from(NAMES))
    def ingest_one(self, name: str) -> None:
        if (self.docs / name).exists():
            self.store.ingest(self.docs / name)

    @rule(name=st.sampled_from(NAMES))
    def remove(self, name: str) -> None:
        if self.store.remove(self.docs / name):
            self.current = False

    @rule()
    def reopen(self) -> None:
        self.store.close()
        self.store = opened(self.folder / "store")

    @rule()
    def reembed(self) -> None:
        self.store.ingest(self.docs, reembed=True)
        self.current = True

    @invariant()
    def equal_to_a_fresh_ingest(self) -> None:
        if not self.current:
            return
        with tempfile.TemporaryDirectory() as folder, opened(Path(folder) / "fresh") as fresh:
            fresh.ingest(self.docs)
            (answers, scores), (anew, expected) = shown(self.store), shown(fresh)
            assert answers == anew
            assert scores == pytest.approx(expected, abs=1e-5)

    def teardown(self) -> None:
        self.ingest()
        self.equal_to_a_fresh_ingest()
        assert self.store.verify().ok
        self.store.close()
        shutil.rmtree(self.folder)


def run(examples: int, steps: int, start: int = 0) -> None:
    chosen = settings(
        max_examples=examples,
        stateful_step_count=steps,
        deadline=None,
        suppress_health_check=list(HealthCheck),
        database=None,
        print_blob=True,
    )
    run_state_machine_as_test(seed(start)(Updates), settings=chosen)


def test_updates_equal_a_fresh_ingest() -> None:
    run(examples=8, steps=15)


@pytest.mark.slow
@pytest.mark.timeout(1200)
@pytest.mark.parametrize("start", range(101, 111))
def test_updates_equal_a_fresh_ingest_a_thousand_times(start: int, monkeypatch: pytest.MonkeyPatch) -> None:
    with memory_folder() as folder:
        monkeypatch.setattr(tempfile, "tempdir", str(folder))
        run(examples=100, steps=50, start=start)

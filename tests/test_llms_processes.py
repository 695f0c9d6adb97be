"""One model in several processes: forks, copies, and models that cannot be pickled."""

from __future__ import annotations

import copy
import os
import pickle
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
from langchain_core.runnables import ConfigurableField

from llms import ChatLocal, LocalLLM
from llms.errors import BadRequest

FORK = """
import multiprocessing, threading, time
from llms import ChatLocal

def answer(queue, stream):
    stream.close()  # A copy of the parent's stream, whose engine no thread of this process leads.
    try:
        list(lines)
    except Exception as error:
        queue.put(str(error))
    found = ChatLocal(**settings).batch(["What is the capital of France?", "Say hello."], max_tokens=8)
    queue.put([message.text for message in found])

settings = {"model": "smollm2-135m", "temperature": 0, "notify": lambda line: None}
chat = ChatLocal(**settings)
alone = chat.invoke("What is the capital of France?", max_tokens=8).text
lines, stream = (chat.stream("Tell me a long story.", max_tokens=2000) for _ in range(2))
next(stream), next(lines)
busy = threading.Thread(target=lambda: chat.invoke("Tell me a story.", max_tokens=150))
busy.start()
time.sleep(0.3)
context = multiprocessing.get_context("fork")
queue = context.Queue()
children = [context.Process(target=answer, args=(queue, stream), daemon=True) for _ in range(2)]
for child in children:
    child.start()
told = [queue.get(timeout=100) for _ in range(4)]
assert sum("before it forked" in said for said in told if isinstance(said, str)) == 2, told
assert all(said[0] == alone and said[1] for said in told if isinstance(said, list)), told
busy.join()
stream.close(), lines.close()
assert chat.invoke("What is the capital of France?", max_tokens=8).text == alone
print("done")
"""


def test_forked_children_answer_while_the_parent_is_busy(embedded_cache: Path) -> None:
    """The child lacks the thread that leads the engine and those of OpenMP, and must not wait for them."""
    environment = os.environ | {"OMP_NUM_THREADS": "2", "AGENT_CACHE_DIR": str(embedded_cache)}
    done = subprocess.run(
        [sys.executable, "-c", FORK],
        env=environment,
        cwd=Path(__file__).parent.parent,
        capture_output=True,
        text=True,
        timeout=150,
    )
    assert done.stdout == "done\n", done.stderr


@pytest.fixture(scope="module")
def adopted(embedded: Any) -> ChatLocal:
    return ChatLocal.from_model(embedded.model, embedded.tokenizer, temperature=0, max_tokens=3)


def test_copies_of_a_wrapped_model_keep_it(adopted: ChatLocal) -> None:
    expected = adopted.invoke("Hi").text
    configurable = adopted.configurable_fields(max_tokens=ConfigurableField(id="limit"))
    short = configurable.with_config(configurable={"limit": 2}).invoke("Hi")
    assert expected.startswith(short.text) and short.usage_metadata["output_tokens"] == 2
    for other in (copy.deepcopy(adopted), copy.copy(adopted), adopted.model_copy()):
        assert other.runtime() is adopted.runtime() and other.invoke("Hi").text == expected


def test_a_wrapped_model_is_not_written_down_and_a_named_one_is(adopted: ChatLocal) -> None:
    with pytest.raises(BadRequest, match="by name"):
        pickle.dumps(adopted)
    for model in (ChatLocal(model="smollm2-135m", seed=3), LocalLLM(model="smollm2-135m", stop=["x"])):
        assert pickle.loads(pickle.dumps(model)) == model

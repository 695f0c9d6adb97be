"""classify: the classify chain as a tool, its labels chosen by the caller of the tool.

Knows how a `Classification` is told to a model and kept whole as the artifact; builds a chain for each set of
labels by the factory it was given, and knows no model.
"""

from collections.abc import Callable, Sequence

from langchain_core.runnables import Runnable, RunnableConfig
from langchain_core.tools import BaseTool, StructuredTool

from chains.classify import Classification
from chains.errors import ChainError
from tools.errors import as_result, made_of, told_to_the_model

DESCRIPTION = (
    "Choose which one of several labels fits a text. Give the text and the list of labels. "
    "Returns the label and how probable it is."
)
Factory = Callable[[Sequence[str]], Runnable[str, Classification]]
"""Makes the chain for given labels, for example `lambda labels: classify_chain(llm, labels)`."""


def classify_tool(make_chain: Factory, *, name: str = "classify") -> BaseTool:
    """Make a tool that classifies among labels given with each call; its artifact is the `Classification`.

    Labels or a text that cannot be worked on come back as a message of status `error` that says why.

    Raises:
        ToolUnavailableError: `make_chain` cannot be called, as a chain for fixed labels cannot.
    """
    made_of(make_chain, "__call__", "a function like `lambda labels: classify_chain(llm, labels)`")

    def classify(text: str, labels: list[str], config: RunnableConfig) -> tuple[str, Classification]:
        with told_to_the_model(ChainError):
            found = make_chain(labels).invoke(text, config)
        return told(found), found

    async def aclassify(text: str, labels: list[str], config: RunnableConfig) -> tuple[str, Classification]:
        with told_to_the_model(ChainError):
            found = await make_chain(labels).ainvoke(text, config)
        return told(found), found

    return StructuredTool.from_function(
        classify,
        aclassify,
        name=name,
        description=DESCRIPTION,
        response_format="content_and_artifact",
        handle_tool_error=as_result,
    )


def told(found: Classification) -> str:
    """Return the result as text for a model: the label, and the next two with their probabilities."""
    best = sorted(found.scores.items(), key=lambda one: -one[1])[:3]
    shown = ", ".join(f"{name} {value:.0%}" for name, value in best)
    return f"{found.label or 'no label'} ({shown})"

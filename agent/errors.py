"""Errors of the agent room, split by who must act, and the exit code of every error of the program.

    AgentError
    ├── RequestError          the words or options of this request: the user rephrases
    ├── ConfigError           config.toml or an AGENT_ variable: the user edits it
    ├── FolderError           a folder of ours cannot be made or written: the user frees it or names another
    ├── ThreadError           a thread is unknown, damaged, locked, or of a newer version
    ├── TemplateError         a prompt template is unknown or lacks a value
    └── McpError              a Model Context Protocol server does not start, answer, or make sense

Each message says what was expected, what was found, and the next step. The classes of other rooms are listed
by name, so that listing them imports none of those rooms. An error that is not listed gets the code of its
nearest listed ancestor; anything else is an internal error.

    >>> exit_code(ConfigError("expected a known setting")), exit_code(ZeroDivisionError())
    (71, 1)
"""

from __future__ import annotations

from dataclasses import dataclass


class AgentError(Exception):
    """Root of the agent room's errors."""


class RequestError(AgentError):
    """This request cannot be carried out as it stands."""


class ConfigError(AgentError):
    """A setting is unknown or has a value that cannot be used."""


class FolderError(AgentError):
    """A folder for the store, threads, logs or settings cannot be used."""


class ThreadError(AgentError):
    """A conversation thread is unknown, damaged, locked, or written by a newer version."""


class TemplateError(AgentError):
    """A prompt template is unknown or lacks a value."""


class McpError(AgentError):
    """A Model Context Protocol server failed."""


DONE, INTERNAL, USAGE, UNGROUNDED, FAILED_EXAMPLES = 0, 1, 2, 3, 4
UNREAD, FAILED_TOOL = 49, 77
HANGUP, INTERRUPTED, TERMINATED = 129, 130, 143


@dataclass(frozen=True)
class ExitCode:
    """A code, the class it stands for (`module:Class`, empty for a plain outcome) and what it means."""

    code: int
    error: str
    meaning: str


OUTCOMES: tuple[ExitCode, ...] = (
    ExitCode(DONE, "", 'done, an honest "not in your documents" included'),
    ExitCode(INTERNAL, "", "internal error, please report it with --debug"),
    ExitCode(USAGE, "", "wrong usage"),
    ExitCode(UNGROUNDED, "", "not in your documents, with --fail-ungrounded"),
    ExitCode(FAILED_EXAMPLES, "", "the written code fails the given examples"),
    ExitCode(UNREAD, "", "files were left out, or read only in part; the others are in the store"),
    ExitCode(HANGUP, "", "ended by SIGHUP"),
    ExitCode(INTERRUPTED, "", "ended by Ctrl-C"),
    ExitCode(TERMINATED, "", "ended by SIGTERM"),
)

ERRORS: tuple[ExitCode, ...] = (
    ExitCode(10, "llms.errors:LLMError", "a model error of another kind"),
    ExitCode(11, "llms.errors:BadRequest", "a parameter or message of a model call is out of range"),
    ExitCode(12, "llms.errors:ContextOverflow", "the prompt is longer than the model's window"),
    ExitCode(13, "llms.errors:TextOnly", "an image, audio or file was given to a text model"),
    ExitCode(14, "llms.errors:UnsupportedSchema", "a JSON schema that the grammar cannot express"),
    ExitCode(15, "llms.errors:RequestTooLarge", "one request that fills the memory by itself"),
    ExitCode(16, "llms.errors:UnknownModel", "no model of that name"),
    ExitCode(17, "llms.errors:DamagedCheckpoint", "a checkpoint is incomplete or damaged"),
    ExitCode(18, "llms.errors:UnsupportedModel", "a model of a kind that cannot be driven"),
    ExitCode(19, "llms.errors:AdapterMismatch", "an adapter made for another model"),
    ExitCode(20, "llms.errors:FetchFailed", "a download failed or there is no network"),
    ExitCode(21, "llms.errors:HashMismatch", "a downloaded file is not the expected one"),
    ExitCode(22, "llms.errors:GatedModel", "the Hub asks for a licence or a token"),
    ExitCode(23, "llms.errors:NoPip", "pip is needed and missing"),
    ExitCode(24, "llms.errors:NoSpace", "the disk is full or too small"),
    ExitCode(25, "llms.errors:CacheNotWritable", "the checkpoint cache cannot be written"),
    ExitCode(26, "llms.errors:NotEnoughMemory", "the model does not fit in memory"),
    ExitCode(27, "llms.errors:GPURequired", "a GPU is required and none is usable"),
    ExitCode(28, "llms.errors:QuantizationUnavailable", "the quantization does not run here"),
    ExitCode(30, "chains.retrieval.errors:RetrievalError", "a document error of another kind"),
    ExitCode(31, "chains.retrieval.errors:SourceNotFound", "no such file, folder or document"),
    ExitCode(32, "chains.retrieval.errors:SourceUnreadable", "a document cannot be read"),
    ExitCode(33, "chains.retrieval.errors:NothingToIngest", "a folder without a readable document"),
    ExitCode(34, "chains.retrieval.errors:UnsupportedFormat", "a kind of file that no parser reads"),
    ExitCode(35, "chains.retrieval.errors:BinaryDocument", "a file that holds no text"),
    ExitCode(36, "chains.retrieval.errors:EmptyDocument", "a document without text"),
    ExitCode(37, "chains.retrieval.errors:DocumentTooLarge", "a document over the size limit"),
    ExitCode(38, "chains.retrieval.errors:DamagedDocument", "a document that its parser cannot read"),
    ExitCode(39, "chains.retrieval.errors:StoreLocked", "another process writes to the store"),
    ExitCode(40, "chains.retrieval.errors:StoreTooNew", "the store was written by a newer version"),
    ExitCode(41, "chains.retrieval.errors:StoreDamaged", "the store is damaged"),
    ExitCode(42, "chains.retrieval.errors:StoreUnwritable", "the store cannot be written"),
    ExitCode(43, "chains.retrieval.errors:EmbedderMismatch", "the store was made with another embedder"),
    ExitCode(44, "chains.retrieval.errors:SplitterMismatch", "the store was made with other chunk settings"),
    ExitCode(45, "chains.retrieval.errors:IndexUnavailable", "the Chroma server cannot be reached"),
    ExitCode(46, "chains.retrieval.errors:EmptyQuery", "an empty search"),
    ExitCode(47, "chains.retrieval.errors:BadFilter", "a filter that cannot be read"),
    ExitCode(48, "chains.retrieval.errors:EmbedderUnavailable", "the embedding model cannot be loaded"),
    ExitCode(80, "chains.retrieval.errors:StoreGone", "the store's folder was deleted while it was open"),
    ExitCode(81, "chains.retrieval.errors:StoreClosed", "a store that was closed is used"),
    ExitCode(50, "chains.errors:ChainError", "a chain error of another kind"),
    ExitCode(51, "chains.errors:EmptyInputError", "an empty text"),
    ExitCode(52, "chains.errors:NotTextError", "the input is not text"),
    ExitCode(53, "chains.errors:TableError", "a table without the column or rows"),
    ExitCode(54, "chains.errors:OptionError", "an option of a chain is out of range"),
    ExitCode(55, "chains.errors:LabelsError", "labels that cannot be used"),
    ExitCode(56, "chains.errors:ExamplesError", "examples that do not fit the labels"),
    ExitCode(57, "chains.errors:UnusableReplyError", "a reply of the model that cannot be used"),
    ExitCode(58, "chains.errors:ScoringNeededError", "a model that cannot score"),
    ExitCode(60, "sandbox.errors:SandboxError", "a sandbox error of another kind"),
    ExitCode(61, "sandbox.errors:SandboxUnavailable", "no sandbox works on this machine"),
    ExitCode(62, "sandbox.errors:SandboxLimitError", "a sandbox limit or file that cannot be meant"),
    ExitCode(63, "sandbox.errors:SandboxFailed", "the sandbox broke before the program began"),
    ExitCode(64, "sandbox.errors:ParserCrashed", "a document parser died or went past a limit"),
    ExitCode(65, "sandbox.errors:ParserRaised", "a document parser raised"),
    ExitCode(70, "agent.errors:RequestError", "the request cannot be carried out as put"),
    ExitCode(71, "agent.errors:ConfigError", "a setting is unknown or out of range"),
    ExitCode(72, "agent.errors:FolderError", "a folder of ours cannot be written"),
    ExitCode(73, "agent.errors:ThreadError", "a thread is unknown, damaged, locked or newer"),
    ExitCode(74, "agent.errors:TemplateError", "a template is unknown or lacks a value"),
    ExitCode(75, "agent.errors:McpError", "an MCP server fails"),
    ExitCode(76, "tools.errors:ToolError", "a tool error of another kind"),
    ExitCode(77, "tools.errors:ToolInputError", "arguments of a tool that cannot be used"),
    ExitCode(78, "tools.errors:ToolUnavailableError", "a tool lacks its model, store or sandbox"),
)

_CODES = {entry.error: entry.code for entry in ERRORS}


def exit_code(error: BaseException) -> int:
    """Return the exit code of an error: that of its class or of the nearest listed ancestor, else 1."""
    for cls in type(error).__mro__:
        if (code := _CODES.get(f"{cls.__module__}:{cls.__name__}")) is not None:
            return code
    return INTERNAL


def is_known(error: BaseException) -> bool:
    """Return whether a user can act on the error, so that it is shown without a traceback."""
    return exit_code(error) != INTERNAL


def listing() -> str:
    """Return all codes, one a line, for the end of `agent --help`."""
    rows = sorted((*OUTCOMES, *ERRORS), key=lambda entry: entry.code)
    return "\n".join(
        f"  {entry.code:>3}  {entry.meaning}" + (f" ({entry.error.split(':')[1]})" if entry.error else "")
        for entry in rows
    )

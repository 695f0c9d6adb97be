"""All settings of the agent, the one place that reads the environment, and the editing of `config.toml`.

A value comes from the first of these that has it: the command line (keyword arguments here), an environment
variable `AGENT_<NAME>`, `config.toml` in the config folder, the default below.

    >>> load_settings(home="/tmp/agent-example", max_tokens=64).max_tokens
    64
"""

from __future__ import annotations

import logging
import os
import tomllib
from difflib import get_close_matches
from pathlib import Path
from typing import Any, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError
from pydantic_settings import BaseSettings, InitSettingsSource, PydanticBaseSettingsSource, SettingsConfigDict

from agent.errors import ConfigError
from agent.folders import Folders, find_folders, private_folder

Approve = Literal["ask", "deny", "never-ask"]
Planner = Literal["auto", "routed", "free"]


class McpServer(BaseModel):
    """One Model Context Protocol server: a command to start (stdio) or a URL (streamable HTTP).

    >>> McpServer(command=["mcp-files", "/data"], trust="read").timeout_s
    30.0
    """

    model_config = ConfigDict(extra="forbid", frozen=True)

    command: list[str] = Field(default_factory=list)
    url: str | None = None
    env: dict[str, str] = Field(default_factory=dict)
    headers: dict[str, str] = Field(default_factory=dict)
    trust: Literal["read", "run", "write"] = "write"
    """The most that its tools may do; `run` and `write` ask before they act."""
    read_tools: list[str] = Field(default_factory=list)
    """Names of tools that only read, whatever `trust` says."""
    reaches: Literal["nothing", "machine", "outside"] = "outside"
    """How far a call of its tools can carry data. What reaches outside asks once documents are there."""
    trusted: bool = False
    """The descriptions of its tools are not somebody else's text. Otherwise a call that acts always asks."""
    timeout_s: float = Field(default=30.0, gt=0, le=600)


class Settings(BaseSettings):
    """What a user can set; `load_settings` reads it from all sources.

    >>> Settings(model="mistral-7b", k=6).planner
    'auto'
    """

    model_config = SettingsConfigDict(
        env_prefix="AGENT_", extra="ignore", frozen=True, env_nested_delimiter="__"
    )

    home: Path | None = Field(default=None, description="one folder for everything of ours")
    cache_dir: Path | None = Field(default=None, description="folder of the checkpoints, or 'platform'")
    store_dir: Path | None = Field(default=None, description="folder of the document store")
    chroma: str | None = Field(default=None, description="URL of a Chroma server that holds the index")
    embeddings: str | None = Field(
        default=None,
        description="sentence-transformers model, a folder or Hub id; the store's own if unset",
    )
    embedding_precision: Literal["float32", "bfloat16"] | None = Field(
        default=None, description="arithmetic of the embedder; as the store was made if unset"
    )

    model: str = Field(default="auto", min_length=1, description="model name, Hub id, folder or GGUF file")
    quantization: str = Field(default="auto", description="auto, none, nf4, fp4 or int8")
    adapter: Path | None = Field(default=None, description="folder of a PEFT adapter on top of the model")
    merge_adapter: bool = Field(default=False, description="fold the adapter into the weights")
    device: str = Field(default="auto", description="auto, cpu or cuda")
    decoder: Literal["auto", "reference", "lean", "fast"] = Field(
        default="auto", description="which decoder runs"
    )
    require_gpu: bool = Field(default=False, description="refuse to run without a GPU")
    download: bool = Field(default=False, description="download a model that is not on this machine")
    temperature: float = Field(default=0.0, ge=0, le=5, description="0 is greedy")
    top_p: float | None = Field(default=None, gt=0, le=1, description="nucleus sampling")
    max_tokens: int = Field(default=512, ge=1, le=32768, description="most tokens of an answer")
    repetition_penalty: float | None = Field(default=None, gt=0, le=10, description="1 is none")
    seed: int | None = Field(default=None, ge=0, description="seed of the sampling")
    window: int | None = Field(default=None, ge=64, description="tokens of context; the model's own if unset")
    cache_bytes: int | None = Field(
        default=None, ge=0, description="bytes of KV cache kept for prompts that begin alike"
    )
    system: str | None = Field(default=None, description="system prompt")

    k: int = Field(default=4, ge=1, le=50, description="passages read for an answer from the documents")
    planner: Planner = Field(default="auto", description="routed for small models, free for capable ones")
    approve: Approve | None = Field(
        default=None, description="ask, deny or never-ask; asks only in a terminal"
    )
    files: list[Path] = Field(default_factory=list, description="folders that read_file may read")

    max_steps: int = Field(default=12, ge=1, le=1000, description="model calls in one turn")
    max_tool_calls: int = Field(default=16, ge=0, le=1000, description="tool calls in one turn")
    max_seconds: float = Field(default=600.0, gt=0, description="wall time of one turn")
    max_turn_tokens: int = Field(default=32768, ge=1, description="tokens decoded in one turn")
    tool_timeout_s: float = Field(default=60.0, gt=0, description="wall time of one tool call")
    max_tool_chars: int = Field(default=20000, ge=100, description="longest tool result given to the model")

    logging: bool = Field(default=True, description="keep questions and answers in logs.sqlite")
    log_days: int = Field(default=90, ge=0, description="days a log entry is kept; 0 keeps all")
    telemetry: bool = Field(
        default=False, description="leave LangSmith and other tracing variables as they are"
    )
    otel: bool = Field(default=False, description="export OpenTelemetry spans (extra `otel`)")
    mcp: dict[str, McpServer] = Field(default_factory=dict, description="MCP servers by name")

    @property
    def folders(self) -> Folders:
        """The folders of cache, data and config under these settings."""
        return find_folders(self.home, self.cache_dir)

    @property
    def store(self) -> Path:
        """Folder of the document store."""
        return (self.store_dir or self.folders.store).expanduser()


def read_config(path: Path) -> dict[str, Any]:
    """Return the values of a settings file, {} if there is no file; raises ConfigError."""
    try:
        values = tomllib.loads(path.read_text(encoding="utf-8"))
    except (FileNotFoundError, NotADirectoryError):
        return {}
    except (OSError, UnicodeDecodeError, tomllib.TOMLDecodeError) as error:
        raise ConfigError(
            f"expected a TOML file at {str(path)!r}, found {error}; mend it or move it away"
        ) from error
    for key in values:
        if key not in Settings.model_fields:
            raise ConfigError(
                f"expected a known setting in {str(path)!r}, found {key!r}{nearest_setting(key)}"
            )
    return values


def nearest_setting(key: str) -> str:
    """Return a hint: the nearest right setting, or how to list all of them."""
    close = get_close_matches(key.lower().removeprefix("agent_"), Settings.model_fields, n=1)
    return f"; did you mean {close[0]!r}?" if close else "; `agent config show` lists the settings"


def config_file(home: str | None = None) -> Path:
    """Return the path of the settings file without reading the file."""
    found = home or os.environ.get("AGENT_HOME")
    return find_folders(Path(found) if found else None).config_file


def check_values(values: dict[str, Any]) -> None:
    """Raise ConfigError if the values cannot be settings."""
    try:
        Settings(**values)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error


def load_settings(**overrides: Any) -> Settings:
    """Return the settings from all sources; an override of None counts as not given. Raises ConfigError.

    >>> load_settings(home="/tmp/agent-example", temperature=9)
    Traceback (most recent call last):
    agent.errors.ConfigError: expected setting 'temperature': ...
    """
    given = {known_setting(name): value for name, value in overrides.items() if value is not None}
    from_file = read_config(config_file(given.get("home")))

    class FileBacked(Settings):
        @classmethod
        def settings_customise_sources(
            cls,
            settings_cls: type[BaseSettings],
            init_settings: PydanticBaseSettingsSource,
            env_settings: PydanticBaseSettingsSource,
            dotenv_settings: PydanticBaseSettingsSource,
            file_secret_settings: PydanticBaseSettingsSource,
        ) -> tuple[PydanticBaseSettingsSource, ...]:
            return init_settings, env_settings, InitSettingsSource(settings_cls, from_file)

    try:
        found = FileBacked(**given)
    except ValidationError as error:
        raise ConfigError(_explain(error)) from error
    except Exception as error:  # pydantic-settings has an error of its own for a malformed JSON value.
        raise ConfigError(
            f"expected settings that can be read, found {error}; `agent config show` lists them"
        ) from error
    return Settings.model_construct(**{name: getattr(found, name) for name in Settings.model_fields})


def _explain(error: ValidationError) -> str:
    first = error.errors()[0]
    name = ".".join(str(part) for part in first["loc"])
    if first["type"] == "extra_forbidden":
        key = str(first["loc"][-1])
        close = get_close_matches(key, McpServer.model_fields, n=1)
        hint = f"did you mean {close[0]!r}?" if close else f"there are {', '.join(McpServer.model_fields)}"
        return f"expected a known key of an MCP server, found {name!r}; {hint}"
    return (
        f"expected setting {name!r}: {first['msg'].lower()}, found {first['input']!r}; "
        f"mend the option, the variable AGENT_{name.upper()} or config.toml"
    )


def show_values(settings: Settings) -> list[dict[str, Any]]:
    """Return every setting with its present value, its default and its purpose."""
    rows = []
    for name, field in Settings.model_fields.items():
        value, default = getattr(settings, name), field.get_default(call_default_factory=True)
        rows.append(
            {"setting": name, "value": _shown(value), "default": _shown(default), "what": field.description}
        )
    return rows


def known_setting(name: str) -> str:
    """Return the name; raises ConfigError, with the nearest right name, if there is no such setting."""
    if name not in Settings.model_fields:
        raise ConfigError(f"expected a known setting, found {name!r}{nearest_setting(name)}")
    return name


def set_value(path: Path, name: str, value: str) -> None:
    """Set one setting in the file, or remove it if `value` is empty; raises ConfigError.

    Comments, tables and the form of everything else are kept. The file is written whole or not at all.
    """
    import tomlkit

    known_setting(name)
    read_config(path)  # A file that cannot be read is not overwritten.
    private_folder(path.parent)
    document = tomlkit.parse(path.read_text(encoding="utf-8") if path.exists() else "")
    if value:
        document[name] = _toml(value)
    else:
        document.pop(name, None)
    _replace(path, tomlkit.dumps(document))


def _replace(path: Path, text: str) -> None:
    """Write another file, check that it can be read as settings, and rename it to `path`."""
    partial = path.with_suffix(".partial")
    try:
        partial.write_text(text, encoding="utf-8")
        partial.chmod(0o600)
        check_values(read_config(partial))
    except ConfigError as error:
        raise ConfigError(f"{error}; nothing was changed") from error
    else:
        os.replace(partial, path)
    finally:
        partial.unlink(missing_ok=True)


def _toml(value: str) -> Any:
    """Return what a TOML number, boolean, array or quoted string stands for, else the text itself."""
    import tomlkit
    from tomlkit.exceptions import TOMLKitError

    try:
        return tomlkit.value(value)
    except TOMLKitError:
        return value


def _shown(value: Any) -> str:
    return "" if value is None else str(value)


def colour_wanted() -> bool:
    """Return False if the user has switched colour off (https://no-color.org)."""
    return not os.environ.get("NO_COLOR") and os.environ.get("TERM") != "dumb"


def silence_telemetry() -> None:
    """Switch off what dependencies would send or print unasked.

    It changes the environment, so only a program may call it, and before it imports any of them.
    """
    os.environ["ANONYMIZED_TELEMETRY"] = "False"
    os.environ["HF_HUB_DISABLE_TELEMETRY"] = "1"
    os.environ["DISABLE_TELEMETRY"] = "1"
    for name in ("LANGSMITH_TRACING", "LANGCHAIN_TRACING_V2", "LANGSMITH_TRACING_V2"):
        os.environ[name] = "false"
    os.environ.setdefault("TOKENIZERS_PARALLELISM", "false")
    os.environ.setdefault("TRANSFORMERS_VERBOSITY", "error")
    os.environ.setdefault("HF_HUB_DISABLE_PROGRESS_BARS", "1")
    os.environ.setdefault("TRANSFORMERS_NO_ADVISORY_WARNINGS", "1")
    # bitsandbytes announces (gemm_4bit) that the package `kernels` is missing; it is kept out on purpose.
    logging.getLogger("bitsandbytes.backends.cpu.ops").setLevel(logging.ERROR)

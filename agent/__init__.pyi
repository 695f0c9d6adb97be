# The public names and the modules that hold them: type checkers read this file, and __init__.py loads each
# name from it on first use.
from .build import Parts as Parts
from .build import build_agent as build_agent
from .errors import AgentError as AgentError
from .settings import Settings as Settings
from .settings import load_settings as load_settings
from .turn.context import RunContext as RunContext
from .turn.context import Stop as Stop
from .turn.context import Stopped as Stopped
from .turn.events import AnswerLabel as AnswerLabel
from .turn.events import Approval as Approval
from .turn.events import Delta as Delta
from .turn.events import Event as Event
from .turn.events import Final as Final
from .turn.events import Notice as Notice
from .turn.events import ToolCall as ToolCall
from .turn.events import ToolResult as ToolResult
from .turn.events import astream_events as astream_events
from .turn.events import stream_events as stream_events

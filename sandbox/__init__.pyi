# The public names and the modules that hold them: type checkers read this file, and __init__.py loads each
# name from it on first use.
from .errors import ParserCrashed as ParserCrashed
from .errors import ParserError as ParserError
from .errors import ParserRaised as ParserRaised
from .errors import SandboxError as SandboxError
from .errors import SandboxFailed as SandboxFailed
from .errors import SandboxLimitError as SandboxLimitError
from .errors import SandboxUnavailable as SandboxUnavailable
from .limits import Limits as Limits
from .pool import ParserPool as ParserPool
from .result import RunResult as RunResult
from .result import printable as printable
from .sandbox import Sandbox as Sandbox
from .tier import Tier as Tier

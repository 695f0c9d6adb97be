# The public names and the modules that hold them: type checkers read this file, and __init__.py loads each
# name from it on first use.
from . import models as models
from .chat import ChatLocal as ChatLocal
from .chat import ChatMistralNF4 as ChatMistralNF4
from .completion import LocalLLM as LocalLLM
from .completion import MistralNF4 as MistralNF4
from .errors import LLMError as LLMError
from .models.diagnosis import diagnose as diagnose
from .protocols import Scorer as Scorer
from .protocols import find_scorer as find_scorer
from .sharing import unload_all as unload_all

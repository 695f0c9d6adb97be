# The public names and the modules that hold them: type checkers read this file, and __init__.py loads each
# name from it on first use.
from .registry import ls as ls
from .registry import pull as pull
from .registry import remove as remove
from .registry import show as show

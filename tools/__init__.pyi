# The public names and the modules that hold them: type checkers read this file, and __init__.py loads each
# name from it on first use.
from .calculator import calculator_tool as calculator_tool
from .chain_tools import classify_tool as classify_tool
from .chain_tools import search_docs_tool as search_docs_tool
from .chain_tools import summarize_tool as summarize_tool
from .chain_tools import write_code_tool as write_code_tool
from .default import default_tools as default_tools
from .errors import ToolError as ToolError
from .read_file import read_file_tool as read_file_tool
from .run_python import run_python_tool as run_python_tool

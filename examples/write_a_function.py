"""A chat prompt that asks for a Python function, and the code that is taken out of the reply.

The request is the well-known demonstration for small local models. What comes back is only text: whether it
runs is for the sandbox to say (`agent code`, examples/write_and_run.py), so this script parses the code and
does not run it.
"""

import ast
import re

from llms import ChatLocal

REQUEST = "Write a python function to generate a list of random 1000 numbers between 1 and 10000."

llm = ChatLocal(model="smollm2-135m", temperature=0, max_tokens=200)

reply = ""
for chunk in llm.stream([("user", REQUEST)]):
    print(chunk.text, end="", flush=True)
    reply += chunk.text
print()

blocks = re.findall(r"```(?:python)?\n(.*?)(?:```|\Z)", reply, re.DOTALL)
code = blocks[0] if blocks else reply
try:
    names = [node.name for node in ast.walk(ast.parse(code)) if isinstance(node, ast.FunctionDef)]
    print(f"\nparses as Python, defines: {', '.join(names) or 'no function'}")
except SyntaxError as error:
    print(f"\ndoes not parse as Python: {error}")

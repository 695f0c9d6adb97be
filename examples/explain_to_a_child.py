"""The plain prompt template of LangChain over a raw model: text with a gap in, its continuation out.

`LocalLLM` writes no chat markers: the model simply goes on where the prompt ends. On a GPU with Mistral-7B
in the cache, `MistralNF4()` in place of `LocalLLM(model="smollm2-135m")` is the same class with larger
weights; of the small ones, check what you repeat to a child.
"""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import PromptTemplate

from llms import LocalLLM

template = """Teachers explain things so that a child of seven understands them.

Teacher: Explain rain to a child.
Answer: Clouds are made of tiny drops of water. When the drops grow heavy, they fall down as rain.

Teacher: Explain {topic} to a child.
Answer:"""

llm = LocalLLM(model="smollm2-135m", temperature=0, max_tokens=64, stop=["\n"])
chain = PromptTemplate.from_template(template) | llm | StrOutputParser()

for topic in ("ice", "night", "a thermometer"):
    print(f"{topic}:{chain.invoke({'topic': topic})}")

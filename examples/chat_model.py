"""The local model in a chain of LangChain's own: `prompt | llm | parser`, invoked, streamed and batched."""

from langchain_core.output_parsers import StrOutputParser
from langchain_core.prompts import ChatPromptTemplate

from llms import ChatLocal

prompt = ChatPromptTemplate.from_messages(
    [("system", "You answer in one short sentence."), ("user", "What is the capital of {country}?")]
)
llm = ChatLocal(model="smollm2-135m", temperature=0, max_tokens=24)
chain = prompt | llm | StrOutputParser()

print("invoke:", chain.invoke({"country": "France"}))

print("stream:", end=" ")
for piece in chain.stream({"country": "Italy"}):
    print(piece, end="", flush=True)
print()

for answer in chain.batch([{"country": "Spain"}, {"country": "Japan"}]):
    print("batch: ", answer)

message = (prompt | llm).invoke({"country": "Austria"})
print("usage: ", message.usage_metadata, message.response_metadata["finish_reason"])

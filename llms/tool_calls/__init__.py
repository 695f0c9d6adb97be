"""Tool calls: their text in a prompt, the plan of a call with tools, and how calls are read back.

`format` writes and parses calls, `plan` plans calls for models that write them themselves, and `output`
translates answers with calls into LangChain's messages. Small models have a planner in `llms.small`.
"""

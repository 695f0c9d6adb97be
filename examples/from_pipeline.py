"""The pipeline that LangChain's examples put around an NF4-quantized Mistral, and the one line that changes.

    python examples/from_pipeline.py                                       # the tiny model, without a GPU
    python examples/from_pipeline.py mistralai/Mistral-7B-Instruct-v0.1    # on a CUDA GPU, from the Hub

`HuggingFacePipeline` returns text. `ChatLocal.from_pipeline` shares its weights and is a chat model: it calls
tools, returns data under a schema, streams, scores and batches.
"""

import sys
from typing import Any

import torch
from langchain_huggingface import HuggingFacePipeline
from pydantic import BaseModel
from transformers import AutoModelForCausalLM, AutoTokenizer, BitsAndBytesConfig, pipeline
from transformers.utils import logging

from llms import ChatLocal
from llms.models.embedded import embedded_checkpoint


class Capital(BaseModel):
    """A country and its capital."""

    country: str
    capital: str


def the_article_s_pipeline(name: str) -> HuggingFacePipeline:
    """Quantize a model to NF4 with transformers, and wrap it as LangChain's examples do."""
    nf4: Any = BitsAndBytesConfig(
        load_in_4bit=True,
        bnb_4bit_quant_type="nf4",
        bnb_4bit_use_double_quant=True,
        bnb_4bit_compute_dtype=torch.bfloat16,
    )
    if not torch.cuda.is_available():
        nf4 = None  # a model that is small enough for a CPU needs no quantization
    tokenizer = AutoTokenizer.from_pretrained(name)
    model = AutoModelForCausalLM.from_pretrained(
        name, quantization_config=nf4, device_map="auto" if nf4 else None, dtype=torch.bfloat16
    )
    pipe = pipeline("text-generation", model=model, tokenizer=tokenizer, max_new_tokens=24, do_sample=False)
    return HuggingFacePipeline(pipeline=pipe)


def main() -> None:
    """Ask the same question through the pipeline and through a chat model on its weights."""
    logging.disable_progress_bar()
    logging.set_verbosity_error()
    pipe = the_article_s_pipeline(sys.argv[1] if len(sys.argv) > 1 else str(embedded_checkpoint()))

    print("as it was:", repr(pipe.invoke("The capital of France is")))

    llm = ChatLocal.from_pipeline(pipe)  # the one line that changes

    print("as a chat model:", llm.invoke("What is the capital of France?").text)
    print("with a schema:", llm.with_structured_output(Capital).invoke("France has the capital Paris."))
    best = max(["Paris", "Lyon"], key=lambda city: llm.score("The capital of France is", [f" {city}"])[0])
    print("by score:", best)


if __name__ == "__main__":
    main()

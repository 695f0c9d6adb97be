"""Models from pipelines of transformers and LangChain: weights are shared, options hold, or are refused."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import pytest
import torch
from langchain_core.messages import HumanMessage
from langchain_huggingface import HuggingFacePipeline
from tiny_models import tiny_model, tiny_tokenizer
from transformers import Pipeline, pipeline

from llms import ChatLocal, LocalLLM
from llms.errors import BadRequest, UnsupportedModel


def make(**options: Any) -> Pipeline:
    options = {"max_new_tokens": 6, "do_sample": False, **options}
    return pipeline(
        "text-generation", model=tiny_model(), tokenizer=tiny_tokenizer(), device="cpu", **options
    )


@pytest.fixture(scope="module")
def pipe() -> Pipeline:
    return make()


@pytest.mark.parametrize("wrapped", [False, True])
def test_a_completion_is_the_pipeline_s_own_on_the_same_weights(pipe: Any, wrapped: bool) -> None:
    llm = LocalLLM.from_pipeline(HuggingFacePipeline(pipeline=pipe) if wrapped else pipe)
    loaded = llm.runtime().loaded
    assert loaded.model is pipe.model, "no second copy"
    shared = {tensor.data_ptr() for tensor in loaded.model.parameters()}
    assert shared == {tensor.data_ptr() for tensor in pipe.model.parameters()}
    assert llm.runtime().engine.decoder.describe().startswith("reference")
    prompt = "one two three"
    [made] = pipe(prompt, return_full_text=False)
    assert llm.invoke(prompt) == made["generated_text"]


def test_a_chat_model_has_what_ours_have(pipe: Any) -> None:
    llm = ChatLocal.from_pipeline(pipe)
    asked = [{"role": "user", "content": "Hi"}]
    made = pipe(asked)[0]["generated_text"][-1]["content"]
    assert llm.invoke([HumanMessage("Hi")]).content == made
    schema = {"title": "N", "type": "object", "properties": {"n": {"enum": [1, 2]}}, "required": ["n"]}
    assert llm.with_structured_output(schema).invoke("Hi", max_tokens=40)["n"] in (1, 2)
    assert len(llm.score("a", ["b", "c"])) == 2
    assert [one.content for one in llm.batch([[HumanMessage("Hi")]] * 2)] == [made, made]


def test_the_pipeline_s_options_hold_unless_a_field_is_given() -> None:
    options = {"max_new_tokens": 9, "do_sample": True, "temperature": 0.4, "top_p": 0.8, "top_k": 7}
    pipe = make(**options, repetition_penalty=1.1, return_full_text=False)
    llm = LocalLLM.from_pipeline(pipe)
    assert (llm.max_tokens, llm.temperature, llm.top_p, llm.top_k) == (9, 0.4, 0.8, 7)
    assert llm.repetition_penalty == 1.1
    assert LocalLLM.from_pipeline(pipe, max_tokens=3, model_name="mine").model == "mine"
    wrapper = HuggingFacePipeline(pipeline=pipe, pipeline_kwargs={"max_new_tokens": 5, "do_sample": False})
    llm = LocalLLM.from_pipeline(wrapper)
    assert (llm.max_tokens, llm.temperature) == (5, 0.0)


@pytest.mark.parametrize("wrong", ["gpt2", None, 3, {"pipeline": None}, SimpleNamespace(pipeline="x")])
def test_something_else_is_refused_with_what_to_make(wrong: Any) -> None:
    with pytest.raises(BadRequest, match=r"expected a text-generation pipeline .* make one with"):
        ChatLocal.from_pipeline(wrong)


def test_another_task_a_missing_tokenizer_and_other_options_are_refused(pipe: Any) -> None:
    other = SimpleNamespace(task="summarization", model=pipe.model, tokenizer=pipe.tokenizer)
    with pytest.raises(BadRequest, match="found one for 'summarization'"):
        ChatLocal.from_pipeline(other)
    with pytest.raises(BadRequest, match="pass tokenizer="):
        ChatLocal.from_pipeline(SimpleNamespace(task="text-generation", model=pipe.model, tokenizer=None))
    with pytest.raises(BadRequest, match="'num_beams'"):
        ChatLocal.from_pipeline(make(num_beams=3))
    with pytest.raises(BadRequest, match="found \\['colour'\\]"):
        ChatLocal.from_pipeline(pipe, colour="red")


@pytest.mark.parametrize("quantization", [{"quant_method": "gptq"}, SimpleNamespace(quant_method="awq")])
def test_a_quantization_that_is_not_bitsandbytes_is_named(quantization: Any) -> None:
    pipe = make()
    pipe.model.config.quantization_config = quantization
    with pytest.raises(UnsupportedModel, match=r"'(gptq|awq)'; load the original model"):
        ChatLocal.from_pipeline(pipe)


def test_weights_that_are_on_no_device_are_refused() -> None:
    pipe = make()
    pipe.model.lm_head.to("meta")
    pipe.model.lm_head.weight = torch.nn.Parameter(torch.empty(320, 64, device="meta"))
    with pytest.raises(BadRequest, match="all its weights on a device"):
        ChatLocal.from_pipeline(pipe)

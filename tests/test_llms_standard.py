"""LangChain's own test suites on the embedded models, greedy. There is none for completion models."""

from __future__ import annotations

import importlib
from pathlib import Path
from typing import Any

import pytest
from langchain_core.embeddings import Embeddings
from langchain_core.language_models import BaseChatModel
from langchain_tests.integration_tests import ChatModelIntegrationTests, EmbeddingsIntegrationTests
from langchain_tests.unit_tests import ChatModelUnitTests, EmbeddingsUnitTests

from chains.retrieval import default_embeddings
from chains.retrieval.embedder import default_model_dir
from llms import ChatLocal

MODEL = "smollm2-135m"


class TestChatLocalUnit(ChatModelUnitTests):
    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatLocal

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL}

    @property
    def init_from_env_params(self) -> tuple[dict[str, str], dict[str, Any], dict[str, Any]]:
        env = {
            "AGENT_MODEL": "mistral-7b",
            "AGENT_QUANTIZATION": "nf4",
            "AGENT_DEVICE": "cpu",
            "AGENT_DECODER": "reference",
        }
        return env, {}, {name[6:].lower(): value for name, value in env.items()}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @pytest.fixture(autouse=True)
    def _as_an_application_would(self, monkeypatch: pytest.MonkeyPatch) -> None:
        # langchain-core revives only classes that its own list names; an application that loads ours passes
        # `additional_import_mappings`, which the inherited test gives no way to pass.
        path = ("llms", "chat", "ChatLocal")
        load_module = importlib.import_module("langchain_core.load.load")
        known = load_module._get_default_allowed_class_paths("all") | {path}
        monkeypatch.setattr(load_module, "_get_default_allowed_class_paths", lambda kind: known)
        monkeypatch.delenv("AGENT_CACHE_DIR", raising=False)


class TestChatLocalIntegration(ChatModelIntegrationTests):
    @pytest.fixture(autouse=True)
    def _cache(self, embedded_cache: Path) -> None:
        type(self).cache = embedded_cache

    cache: Path | None = None

    @property
    def chat_model_class(self) -> type[BaseChatModel]:
        return ChatLocal

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {"model": MODEL, "temperature": 0, "max_tokens": 64, "cache_dir": self.cache}

    @property
    def supports_json_mode(self) -> bool:
        return True

    @property
    def supports_model_override(self) -> bool:
        return True

    @property
    def model_override_value(self) -> str:
        return MODEL

    @property
    def returns_usage_metadata(self) -> bool:
        return True


@pytest.mark.slow
class TestChatLocalNF4Integration(TestChatLocalIntegration):
    """The same tests in 4-bit, which bitsandbytes computes on a CPU."""

    @property
    def chat_model_params(self) -> dict[str, Any]:
        return {**super().chat_model_params, "quantization": "nf4"}


class PackagedEmbeddings:
    """Says which embeddings the suites below test."""

    @property
    def embeddings_class(self) -> type[Embeddings]:
        return type(default_embeddings())

    @property
    def embedding_model_params(self) -> dict[str, Any]:
        return {"folder": default_model_dir()}


class TestEmbeddingsUnit(PackagedEmbeddings, EmbeddingsUnitTests):
    pass


class TestEmbeddingsIntegration(PackagedEmbeddings, EmbeddingsIntegrationTests):
    pass

"""Bodies of the routes for models that are pooled: OpenAI's embeddings, Jina's and Cohere's rerank,
and vLLM's own.
"""

from collections.abc import Mapping
from typing import Annotated, Any, ClassVar, Literal

from pydantic import BaseModel, BeforeValidator, ConfigDict, Field, model_validator

from rustllm.server.errors import bad_request
from rustllm.server.protocol import CacheSalt, prompt_list, refuse_unsupported
from rustllm.server.responses import Usage

MAX_INPUTS = 2048
"""Texts in one request."""

_NOTHING: tuple[Any, ...] = ()

# Field: (values that change nothing and so are accepted, what to do instead).
_UNSUPPORTED: dict[str, tuple[tuple[Any, ...], str]] = {
    "messages": (_NOTHING, "send texts in `input`"),
    "data": (_NOTHING, "there are no input plugins"),
    "padding": (("do_not_pad",), "prompts are not padded"),
    "mm_processor_kwargs": (({},), "inputs are text"),
    "embed_dtype": (("float32",), "vectors are sent as float32"),
    "endianness": (("native", "little"), "vectors are sent in little-endian order"),
    "late_chunking": ((False,), "documents are embedded whole"),
}


class PoolingBody(BaseModel):
    """What all these routes have in common."""

    model_config = ConfigDict(extra="forbid", strict=True, allow_inf_nan=False)
    unsupported: ClassVar[Mapping[str, tuple[tuple[Any, ...], str]]] = _UNSUPPORTED

    model: str | None = None
    user: str | None = None
    truncate_prompt_tokens: Annotated[int, Field(ge=-1)] | None = None
    truncation_side: Literal["left", "right"] | None = None
    priority: Annotated[int, Field(ge=-(1 << 31), lt=1 << 31)] = 0
    request_id: Annotated[str, Field(pattern=r"^[A-Za-z0-9._:@/+=-]{1,128}$")] | None = None
    use_activation: bool | None = None
    cache_salt: CacheSalt | None = None

    @model_validator(mode="before")
    @classmethod
    def _only_supported(cls, data: Any) -> Any:
        return refuse_unsupported(data, cls.unsupported) if isinstance(data, dict) else data

    def tokenization_kwargs(self) -> dict[str, Any]:
        """How texts become tokens."""
        return {
            "truncate_prompt_tokens": self.truncate_prompt_tokens,
            "truncation_side": self.truncation_side,
        }


Inputs = Annotated[list[str] | list[list[int]], BeforeValidator(prompt_list("input", MAX_INPUTS))]


class InputBody(PoolingBody):
    """A body whose `input` is texts or token ids."""

    input: Inputs
    add_special_tokens: bool = True

    def tokenization_kwargs(self) -> dict[str, Any]:
        """How texts become tokens."""
        return {**super().tokenization_kwargs(), "add_special_tokens": self.add_special_tokens}


class VectorBody(InputBody):
    """A body whose answer may be vectors."""

    encoding_format: Literal["float", "base64"] = "float"
    dimensions: Annotated[int, Field(ge=1)] | None = None
    normalize: bool | None = None
    prompt_name: str | None = None
    prompt: str | None = None


class EmbeddingRequest(VectorBody):
    """Body of `POST /v1/embeddings`."""


class PoolingRequestBody(VectorBody):
    """Body of `POST /pooling`."""

    task: str | None = None


class ClassificationRequest(InputBody):
    """Body of `POST /classify`."""


def _texts(value: Any) -> list[str]:
    texts = value if isinstance(value, list) else [value]
    if len(texts) > MAX_INPUTS:
        raise ValueError(f"at most {MAX_INPUTS} texts are allowed, got {len(texts)}")
    found = [item.get("text") if isinstance(item, dict) else item for item in texts]
    kept = [text for text in found if isinstance(text, str)]
    if len(kept) < len(texts):
        raise ValueError('must be a text, {"text": ...}, or a list of these')
    return kept


Texts = Annotated[list[str], BeforeValidator(_texts)]


class ScoreRequest(PoolingBody):
    """Body of `POST /score`: two fields of texts, under any of the names that vLLM takes."""

    text_1: Texts | None = None
    text_2: Texts | None = None
    data_1: Texts | None = None
    data_2: Texts | None = None
    queries: Texts | None = None
    documents: Texts | None = None
    items: Texts | None = None

    @property
    def sides(self) -> tuple[list[str], list[str]]:
        """The texts to score, and those to score them with.

        Raises:
            HttpError: 400, not two fields that go together.
        """
        given = {name: texts for name in _SIDES if (texts := getattr(self, name)) is not None}
        for first, second in _PAIRS:
            if given.keys() == {first, second}:
                return given[first], given[second]
        pairs = " or ".join(f"`{first}` and `{second}`" for first, second in _PAIRS)
        raise bad_request(f"Give {pairs}.", param=next(iter(given), "text_1"))


_PAIRS = (
    ("text_1", "text_2"),
    ("queries", "documents"),
    ("queries", "items"),
    ("data_1", "data_2"),
)
_SIDES = tuple(dict.fromkeys(name for pair in _PAIRS for name in pair))


class RerankRequest(PoolingBody):
    """Body of `POST /rerank`."""

    unsupported: ClassVar[Mapping[str, tuple[tuple[Any, ...], str]]] = {
        **_UNSUPPORTED,
        "max_tokens_per_doc": (_NOTHING, "use `truncate_prompt_tokens`"),
        "max_chunks_per_doc": (_NOTHING, "use `truncate_prompt_tokens`"),
    }

    query: str
    documents: Annotated[Texts, Field(min_length=1)]
    top_n: Annotated[int, Field(ge=0)] = 0
    """How many results to return, the best first; 0 for all."""
    return_documents: bool = True


class EmbeddingData(BaseModel):
    """One vector: numbers, or their bytes (float32, little-endian) in base64."""

    index: int
    object: str = "embedding"
    embedding: list[float] | str


class PoolingData(BaseModel):
    """One array: numbers, rows of numbers, or their bytes in base64."""

    index: int
    object: str = "pooling"
    data: list[float] | list[list[float]] | str


class ClassificationData(BaseModel):
    """The classes of one input."""

    index: int
    label: str
    probs: list[float]
    num_classes: int


class ScoreData(BaseModel):
    """The score of one pair."""

    index: int
    object: str = "score"
    score: float


class PoolingResponse(BaseModel):
    """Answer of all these routes but `/rerank`."""

    id: str
    object: str = "list"
    created: int
    model: str
    data: list[EmbeddingData] | list[PoolingData] | list[ClassificationData] | list[ScoreData]
    usage: Usage


class RerankDocument(BaseModel):
    """A document as it was sent."""

    text: str


class RerankResult(BaseModel):
    """A document's place in the request, and how well it goes with the query."""

    index: int
    document: RerankDocument | None = None
    relevance_score: float


class RerankUsage(BaseModel):
    """Tokens a request took."""

    prompt_tokens: int
    total_tokens: int


class RerankResponse(BaseModel):
    """Answer of `/rerank`, the best document first."""

    id: str
    model: str
    usage: RerankUsage
    results: list[RerankResult]

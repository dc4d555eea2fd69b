"""`LLM` end to end, on golden checkpoints and the model in the wheel."""

from __future__ import annotations

import json
import threading
from pathlib import Path
from typing import Any

import pytest

from rustllm import LLM, Logprob, SamplingParams, ValidationError
from rustllm.outputs import CompletionOutput

GREEDY = SamplingParams(temperature=0, max_tokens=12)
TEXTS = ["The river carries the water.", "a", "How many blocks are free? " * 6, "def step(x):"]


@pytest.fixture(scope="module")
def llm(goldens: Path) -> LLM:
    return LLM(
        goldens / "chat_llama", dtype="float32", max_num_seqs=16, num_gpu_blocks_override=256
    )


@pytest.fixture(scope="module")
def default_llm() -> LLM:
    return LLM(max_num_seqs=16, num_gpu_blocks_override=256)


@pytest.fixture(scope="module")
def chat_reference(goldens: Path) -> dict[str, Any]:
    content: dict[str, Any] = json.loads(
        (goldens / "chat_llama" / "chat_reference.json").read_text()
    )
    return content


def only(llm: LLM, prompt: Any, params: SamplingParams) -> CompletionOutput:
    """The one completion of one prompt."""
    [output] = llm.generate(prompt, params)
    [completion] = output.outputs
    return completion


def test_the_default_model_continues_code(default_llm: LLM) -> None:
    prompt = "def fibonacci(n):"
    [output] = default_llm.generate(prompt, SamplingParams(temperature=0, max_tokens=40))
    assert (output.prompt, output.finished) == (prompt, True)
    tokenizer = default_llm.get_tokenizer()
    assert output.prompt_token_ids == tokenizer.encode(prompt)
    [completion] = output.outputs
    assert completion.text == tokenizer.decode(completion.token_ids, skip_special_tokens=True)
    assert completion.text.startswith("\n    "), "an indented body"
    assert output.metrics is not None
    assert output.metrics.num_generation_tokens == len(completion.token_ids)


def test_chat_completions_equal_transformers(llm: LLM, chat_reference: dict[str, Any]) -> None:
    params = SamplingParams(temperature=0, max_tokens=48)
    known = {chat["name"]: chat for chat in chat_reference["chats"]}
    assert len(chat_reference["completions"]) > 5
    for case in chat_reference["completions"]:
        chat = known.get(case["name"], {"messages": case.get("messages")})
        options = {
            name: chat[name]
            for name in ("add_generation_prompt", "continue_final_message")
            if name in chat
        }
        [output] = llm.chat(chat["messages"], params, **options)
        assert output.prompt_token_ids == case["prompt_token_ids"], case["name"]
        [completion] = output.outputs
        assert completion.token_ids == case["token_ids"], case["name"]
        left_out = case["text"].removeprefix(completion.text)
        assert left_out in ("", "\ufffd"), "all but an unfinished character at the end"
        assert completion.finish_reason == case["finish_reason"]


def test_chat_takes_several_conversations(llm: LLM) -> None:
    first: list[dict[str, Any]] = [{"role": "user", "content": "one"}]
    second: list[dict[str, Any]] = [{"role": "user", "content": [{"type": "text", "text": "two"}]}]
    together = llm.chat([first, second], GREEDY)
    apart = [llm.chat(first, GREEDY)[0], llm.chat(second, GREEDY)[0]]
    assert [item.outputs for item in together] == [item.outputs for item in apart]
    assert together[0].prompt == "<|im_start|>user\none<|im_end|>\n<|im_start|>assistant\n"
    with pytest.raises(ValidationError, match="Unknown role: tool"):
        llm.chat([{"role": "tool", "content": "x"}])


def test_outputs_come_in_the_order_of_prompts(llm: LLM) -> None:
    lengths = [9, 1, 5, 3]
    params = [SamplingParams(max_tokens=n, ignore_eos=True, seed=n) for n in lengths]
    outputs = llm.generate(TEXTS, params)
    assert [output.prompt for output in outputs] == TEXTS
    assert [len(output.outputs[0].token_ids) for output in outputs] == lengths
    assert [int(item.request_id) for item in outputs] == sorted(
        int(item.request_id) for item in outputs
    )


def test_a_batch_equals_its_prompts_alone(llm: LLM) -> None:
    params = [
        SamplingParams(temperature=0, max_tokens=20, logprobs=3),
        SamplingParams(temperature=1.2, seed=5, max_tokens=20, logprobs=3, top_p=0.9),
        SamplingParams(temperature=0.7, seed=6, max_tokens=20, logprobs=3, presence_penalty=0.5),
        SamplingParams(temperature=1.0, seed=7, max_tokens=20, logprobs=3, min_p=0.02, n=2),
    ]
    together = llm.generate(TEXTS, params)
    for text, one, output in zip(TEXTS, params, together, strict=True):
        [alone] = llm.generate(text, one)
        assert alone.outputs == output.outputs, "tokens, text and the bits of logprobs"


def test_prompt_shapes_are_alike(llm: LLM) -> None:
    token_ids = llm.get_tokenizer().encode(TEXTS[0])
    shapes = [
        TEXTS[0],
        token_ids,
        tuple(token_ids),
        {"prompt": TEXTS[0]},
        {"prompt_token_ids": token_ids},
        {"prompt": TEXTS[0], "prompt_token_ids": token_ids},
    ]
    outputs = llm.generate(shapes, GREEDY)  # type: ignore[arg-type]
    assert [output.prompt_token_ids for output in outputs] == [token_ids] * len(shapes)
    assert len({tuple(output.outputs[0].token_ids) for output in outputs}) == 1
    assert [output.prompt for output in outputs] == [TEXTS[0], None, None, TEXTS[0], None, TEXTS[0]]
    assert llm.generate(token_ids, GREEDY)[0].outputs == outputs[0].outputs
    assert llm.generate([], GREEDY) == []


def test_seeds(llm: LLM) -> None:
    def sample(seed: int) -> list[int]:
        params = SamplingParams(temperature=1.5, seed=seed, max_tokens=16, ignore_eos=True)
        return only(llm, TEXTS[0], params).token_ids

    assert sample(1) == sample(1)
    assert len({tuple(sample(seed)) for seed in range(5)}) == 5


def test_n_completions(llm: LLM) -> None:
    params = SamplingParams(n=4, temperature=1.5, seed=3, max_tokens=10, ignore_eos=True)
    [output] = llm.generate(TEXTS[0], params)
    assert [item.index for item in output.outputs] == [0, 1, 2, 3]
    assert len({tuple(item.token_ids) for item in output.outputs}) == 4
    assert [item.finish_reason for item in output.outputs] == ["length"] * 4
    assert llm.generate(TEXTS[0], params)[0].outputs == output.outputs


@pytest.mark.parametrize("include", [False, True])
def test_stop_strings_across_tokens(llm: LLM, include: bool) -> None:
    free = only(llm, TEXTS[0], SamplingParams(temperature=0, max_tokens=30, ignore_eos=True))
    tokenizer = llm.get_tokenizer()
    boundary = len(tokenizer.decode(free.token_ids[:10], skip_special_tokens=True))
    stop = free.text[boundary - 2 : boundary + 2]
    assert len(stop) == 4
    end = free.text.index(stop) + len(stop)
    params = SamplingParams(
        temperature=0,
        max_tokens=30,
        ignore_eos=True,
        stop=[stop],
        include_stop_str_in_output=include,
    )
    stopped = only(llm, TEXTS[0], params)
    assert stopped.text == free.text[: end if include else end - len(stop)]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", stop)
    count = len(stopped.token_ids)
    assert stopped.token_ids == free.token_ids[:count]
    assert stop in tokenizer.decode(free.token_ids[:count], skip_special_tokens=True)
    assert stop not in tokenizer.decode(free.token_ids[: count - 1], skip_special_tokens=True)


def test_stop_tokens_and_end_of_sequence(llm: LLM, chat_reference: dict[str, Any]) -> None:
    free = only(llm, TEXTS[0], SamplingParams(temperature=0, max_tokens=20, ignore_eos=True))
    token = free.token_ids[5]
    params = SamplingParams(temperature=0, max_tokens=20, ignore_eos=True, stop_token_ids=[token])
    stopped = only(llm, TEXTS[0], params)
    count = free.token_ids.index(token) + 1
    assert stopped.token_ids == free.token_ids[:count]
    assert (stopped.finish_reason, stopped.stop_reason) == ("stop", token)
    assert stopped.text == llm.get_tokenizer().decode(
        free.token_ids[: count - 1], skip_special_tokens=True
    ).rstrip("\ufffd")

    ended = next(c for c in chat_reference["completions"] if c["finish_reason"] == "stop")
    completion = only(llm, ended["prompt_token_ids"], SamplingParams(temperature=0, max_tokens=48))
    assert (completion.finish_reason, completion.stop_reason) == ("stop", None)
    assert completion.token_ids == ended["token_ids"]
    minimum = len(ended["token_ids"]) + 2
    longer = only(
        llm,
        ended["prompt_token_ids"],
        SamplingParams(temperature=0, max_tokens=48, min_tokens=minimum),
    )
    assert len(longer.token_ids) > minimum - 1
    assert longer.token_ids[: len(ended["token_ids"]) - 1] == ended["token_ids"][:-1]


def test_logprobs(llm: LLM) -> None:
    params = SamplingParams(
        temperature=1.0, seed=1, max_tokens=8, logprobs=3, prompt_logprobs=2, ignore_eos=True
    )
    [output] = llm.generate(TEXTS[0], params)
    [completion] = output.outputs
    assert completion.logprobs is not None
    assert len(completion.logprobs) == len(completion.token_ids) == 8
    total = 0.0
    tokenizer = llm.get_tokenizer()
    for token_id, entries in zip(completion.token_ids, completion.logprobs, strict=True):
        assert next(iter(entries)) == token_id
        assert 3 <= len(entries) <= 4
        assert {1, 2, 3} <= {entry.rank for entry in entries.values()}
        ordered = sorted(entries.values(), key=lambda entry: entry.rank or 0)
        assert [entry.logprob for entry in ordered] == sorted(
            (entry.logprob for entry in ordered), reverse=True
        )
        assert entries[token_id].decoded_token == tokenizer.decode_token(token_id)
        total += entries[token_id].logprob
    assert completion.cumulative_logprob == total
    assert output.prompt_logprobs is not None
    assert output.prompt_logprobs[0] is None
    assert len(output.prompt_logprobs) == len(output.prompt_token_ids)
    for token_id, scored in zip(
        output.prompt_token_ids[1:], output.prompt_logprobs[1:], strict=True
    ):
        assert scored is not None
        assert isinstance(scored[token_id], Logprob)
        assert len(scored) in (2, 3)


def test_logprobs_equal_the_reference(llm: LLM, goldens: Path) -> None:
    reference = json.loads((goldens / "chat_llama" / "reference.json").read_text())
    case = next(item for item in reference["prompts"] if len(item["prompt_token_ids"]) == 17)
    params = SamplingParams(
        temperature=0, max_tokens=64, ignore_eos=True, logprobs=0, prompt_logprobs=0
    )
    [output] = llm.generate(case["prompt_token_ids"], params)
    [completion] = output.outputs
    assert completion.token_ids == case["greedy_token_ids"]
    assert completion.logprobs is not None
    found = [
        entries[i].logprob
        for i, entries in zip(completion.token_ids, completion.logprobs, strict=True)
    ]
    assert found == pytest.approx(case["greedy_logprobs"], abs=1e-4)
    assert output.prompt_logprobs is not None
    scored = [
        entries[i].logprob
        for i, entries in zip(output.prompt_token_ids, output.prompt_logprobs, strict=True)
        if entries is not None
    ]
    assert scored == pytest.approx(case["prompt_logprobs"], abs=1e-4)


def test_bad_words_are_not_generated(llm: LLM) -> None:
    free = only(llm, TEXTS[0], GREEDY)
    tokenizer = llm.get_tokenizer()
    words = [
        text
        for token_id in free.token_ids
        if (text := tokenizer.decode_token(token_id).strip()).isalpha()
    ]
    assert words
    params = SamplingParams(temperature=0, max_tokens=12, bad_words=[words[0]])
    completion = only(llm, TEXTS[0], params)
    assert completion.token_ids != free.token_ids
    assert words[0] in free.text
    assert words[0] not in completion.text


def test_logit_bias_and_allowed_tokens(llm: LLM) -> None:
    forced = SamplingParams(temperature=0, max_tokens=5, logit_bias={77: 100.0})
    assert only(llm, TEXTS[0], forced).token_ids == [77] * 5
    allowed = SamplingParams(max_tokens=20, seed=1, allowed_token_ids=[70, 71], ignore_eos=True)
    assert set(only(llm, TEXTS[0], allowed).token_ids) == {70, 71}


def test_token_ids_only(goldens: Path) -> None:
    llm = LLM(goldens / "chat_llama", skip_tokenizer_init=True, num_gpu_blocks_override=64)
    completion = only(llm, [5, 6, 7], SamplingParams(temperature=0, max_tokens=4))
    assert (completion.text, len(completion.token_ids)) == ("", 4)
    for call in (
        lambda: llm.generate("text"),
        lambda: llm.generate([5], SamplingParams(stop=["a"])),
        lambda: llm.generate([5], SamplingParams(bad_words=["a"])),
        lambda: llm.chat([{"role": "user", "content": "x"}]),
        llm.get_tokenizer,
    ):
        with pytest.raises(ValidationError, match="skip_tokenizer_init=True"):
            call()


def test_default_params_are_the_models(llm: LLM) -> None:
    params = llm.get_default_sampling_params()
    assert (params.temperature, params.top_k, params.top_p) == (0.7, 20, 0.8)
    assert params.repetition_penalty == 1.05
    params.seed, params.max_tokens = 4, 6
    given = llm.generate(TEXTS[0], params)[0].outputs
    assert len(llm.generate(TEXTS[0])[0].outputs[0].token_ids) <= 16
    assert llm.generate(TEXTS[0], params)[0].outputs == given


def test_prefix_cache(default_llm: LLM) -> None:
    prompt = "import os\nimport sys\n\n" * 20
    assert default_llm.reset_prefix_cache()
    first, second = (default_llm.generate(prompt, GREEDY)[0] for _ in range(2))
    assert first.num_cached_tokens == 0
    assert second.num_cached_tokens and second.num_cached_tokens >= 64
    assert first.outputs == second.outputs
    [salted] = default_llm.generate({"prompt": prompt, "cache_salt": "mine"}, GREEDY)
    assert salted.num_cached_tokens == 0
    assert default_llm.reset_prefix_cache()
    assert default_llm.generate(prompt, GREEDY)[0].num_cached_tokens == 0


def test_truncation(llm: LLM) -> None:
    token_ids = llm.get_tokenizer().encode(TEXTS[2])
    [output] = llm.generate(TEXTS[2], GREEDY, tokenization_kwargs={"truncate_prompt_tokens": 5})
    assert output.prompt_token_ids == token_ids[-5:]
    options = {"truncate_prompt_tokens": 5, "truncation_side": "right"}
    [output] = llm.generate(TEXTS[2], GREEDY, tokenization_kwargs=options)
    assert output.prompt_token_ids == token_ids[:5]
    long = [5] * 1000
    [output] = llm.generate(long, GREEDY, tokenization_kwargs={"truncate_prompt_tokens": -1})
    limit = llm.llm_engine.model_info.max_model_len
    assert len(output.prompt_token_ids) == limit - 12
    for bad in ({"truncate_prompt_tokens": 0}, {"padding": True}, {"truncation_side": "up"}):
        with pytest.raises(ValidationError):
            llm.generate(TEXTS[0], GREEDY, tokenization_kwargs=bad)


def test_enqueue_and_wait(llm: LLM) -> None:
    ids = [*llm.enqueue(TEXTS[:2], GREEDY), *llm.enqueue(TEXTS[2], GREEDY)]
    between = llm.generate(TEXTS[3], GREEDY)
    outputs = llm.wait_for_completion()
    assert [output.request_id for output in outputs] == ids
    assert [output.prompt for output in outputs] == TEXTS[:3]
    assert between[0].prompt == TEXTS[3]
    assert llm.wait_for_completion() == []


def test_threads_share_an_llm(llm: LLM) -> None:
    expected = {text: only(llm, text, GREEDY).token_ids for text in TEXTS}
    found: dict[str, list[int]] = {}

    def work(text: str) -> None:
        found[text] = only(llm, text, GREEDY).token_ids

    threads = [threading.Thread(target=work, args=[text]) for text in TEXTS]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    assert found == expected


def test_use_tqdm_may_be_a_function(llm: LLM, capsys: pytest.CaptureFixture[str]) -> None:
    bars: list[Any] = []

    class Bar:
        def __init__(self, **options: Any) -> None:
            self.options, self.count, self.closed, self.postfix = options, 0, False, ""
            bars.append(self)

        def update(self, count: int) -> None:
            self.count += count

        def close(self) -> None:
            self.closed = True

    llm.generate(TEXTS, GREEDY, use_tqdm=Bar)
    [bar] = bars
    assert (bar.options["total"], bar.count, bar.closed) == (4, 4, True)
    assert bar.options["desc"] == "Processed prompts"
    assert "output: " in bar.postfix
    llm.generate(TEXTS, GREEDY)
    assert capsys.readouterr().err == "", "no bar in a pipe"


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        ({"prompts": TEXTS, "sampling_params": [GREEDY] * 3}, "4 prompts, 3"),
        ({"prompts": TEXTS, "priority": [1]}, "4 prompts, 1"),
        ({"prompts": "a", "sampling_params": {"n": 1}}, "must be a SamplingParams or a list"),
        ({"prompts": "a", "sampling_params": ["x"]}, "must be SamplingParams, got str"),
        ({"prompts": "a", "lora_request": "x"}, "lora_request is not supported"),
        ({"prompts": ["a", [400]]}, "vocab"),
        ({"prompts": ["a", []]}, "empty"),
        ({"prompts": ["a", ""]}, "empty"),
        ({"prompts": ["a", [5] * 5000]}, "max"),
        ({"prompts": [[5, -1]]}, "got -1"),
        ({"prompts": "a", "sampling_params": SamplingParams(logprobs=21)}, "20"),
        ({"prompts": "a", "sampling_params": SamplingParams(stop_token_ids=[9999])}, "9999"),
        ({"prompts": "a", "sampling_params": SamplingParams(logit_bias={9999: 1.0})}, "9999"),
        ({"prompts": "a", "sampling_params": SamplingParams(allowed_token_ids=[9999])}, "vocab"),
    ],
)
def test_one_bad_request_starts_none(llm: LLM, arguments: dict[str, Any], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        llm.generate(**arguments)
    assert not llm.llm_engine.has_unfinished_requests()
    assert only(llm, TEXTS[0], GREEDY).finish_reason is not None


def test_an_interrupt_aborts_what_runs(llm: LLM) -> None:
    class Interrupting:
        postfix = ""

        def __init__(self, **_: Any) -> None: ...

        def update(self, _: int) -> None:
            raise KeyboardInterrupt

        def close(self) -> None: ...

    params = [SamplingParams(max_tokens=n, ignore_eos=True) for n in (1, 400)]
    with pytest.raises(KeyboardInterrupt):
        llm.generate(TEXTS[:2], params, use_tqdm=Interrupting)
    assert not llm.llm_engine.has_unfinished_requests()
    assert [output.prompt for output in llm.generate(TEXTS, GREEDY)] == TEXTS
    assert llm.llm_engine.stats().num_running == 0


def test_changed_params_are_checked_again(llm: LLM) -> None:
    params = SamplingParams()
    params.temperature = 5.0
    with pytest.raises(ValidationError, match=r"temperature must be in \[0, 2\]"):
        llm.generate("a", params)
    params = SamplingParams()
    params.stop = [""]
    with pytest.raises(ValidationError, match="stop cannot contain an empty string"):
        llm.generate("a", params)

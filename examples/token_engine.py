"""Drive the Rust engine itself: token ids in, token ids out, a step at a time."""

from rustllm import LLM, Engine, SamplingParams
from rustllm.hub import default_model_folder


def main() -> None:
    engine = Engine(default_model_folder(), max_model_len=256, seed=7)
    tokenizer = LLM().get_tokenizer()
    prompt = tokenizer.encode("def main(")
    engine.add_request("greedy", prompt, SamplingParams(temperature=0.0, max_tokens=16))
    engine.add_request("sampled", prompt, SamplingParams(n=2, max_tokens=16, logprobs=1))
    while engine.has_unfinished():
        for output in engine.step():
            print(output.request_id, output.index, output.token_ids, output.finish_reason or "")
    print(f"{engine.stats().prefix_cache_hits} prompt tokens came from the prefix cache")
    engine.shutdown()


if __name__ == "__main__":
    main()

"""Complete a few prompts with the built-in model, together."""

from rustllm import LLM, SamplingParams


def main() -> None:
    prompts = ["def fibonacci(n):", "class Stack:", "import os\n\ndef list_files(path):"]
    llm = LLM()
    params = SamplingParams(temperature=0.0, max_tokens=48)
    for output in llm.generate(prompts, params, use_tqdm=False):
        print(f"{output.prompt}{output.outputs[0].text}\n{'-' * 40}")


if __name__ == "__main__":
    main()

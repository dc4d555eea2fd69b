"""Search a few documents by meaning: embed them once, then compare each question with all.

python embedding_search.py MODEL     # a sentence-transformers folder or hub id
"""

import sys

import numpy as np
import numpy.typing as npt

from rustllm import LLM

DOCUMENTS = [
    "A kitten sleeps in the warm afternoon sun.",
    "The stock market fell sharply after the interest rate decision.",
    "Bread rises because yeast turns sugar into carbon dioxide.",
    "Tokyo is the capital of Japan and its most populous city.",
]
QUESTIONS = ["Where do cats nap?", "What is the capital of Japan?", "What makes dough grow?"]


def main() -> None:
    model = sys.argv[1] if len(sys.argv) > 1 else "sentence-transformers/all-MiniLM-L6-v2"
    llm = LLM(model, dtype="float32")

    def embed(texts: list[str]) -> npt.NDArray[np.float64]:
        outputs = llm.embed(texts, use_tqdm=False)
        return np.array([output.outputs.embedding for output in outputs])

    index = embed(DOCUMENTS)
    for question, vector in zip(QUESTIONS, embed(QUESTIONS), strict=True):
        print(question)
        cosines = index @ vector  # the vectors have length 1
        for place in np.argsort(-cosines)[:2]:
            print(f"  {cosines[place]:.2f}  {DOCUMENTS[place]}")


if __name__ == "__main__":
    main()

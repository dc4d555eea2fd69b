"""Find names in texts: `python examples/entities.py dslim/bert-base-NER`, or a model's folder."""

import sys

from rustllm import pipeline

TEXTS = [
    "Marie Laveau opened the old mill by the river in Lyon.",
    "The ferry to Gdańsk leaves at seven, says Professor Kim of Busan University.",
]


def main() -> None:
    ner = pipeline("token-classification", model=sys.argv[1], aggregation_strategy="simple")
    for text, entities in zip(TEXTS, ner(TEXTS), strict=True):
        print(text)
        for entity in entities:
            written = text[entity["start"] : entity["end"]]
            print(f"    {entity['entity_group']:8} {entity['score']:.3f}  {written}")


if __name__ == "__main__":
    main()

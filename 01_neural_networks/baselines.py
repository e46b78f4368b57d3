"""What compressors make of a corpus: the figures that a model has to beat.

python 01_neural_networks/baselines.py
python 01_neural_networks/baselines.py path/to/text_or_folder
"""

import argparse

from neural_networks.bits_per_byte import gzip_bits_per_byte, xz_bits_per_byte
from neural_networks.corpora import CorpusError, load_corpus


def main() -> None:
    """Load the corpus and print the table."""
    parser = argparse.ArgumentParser(description="Bits per byte of gzip and xz on the held-out part of a corpus.")
    parser.add_argument("corpus", nargs="?", default="python_docs", help="python_docs, tiny_shakespeare or a path")
    parser.add_argument("--validation_fraction", type=float, default=0.05)
    options = parser.parse_args()
    try:
        corpus = load_corpus(options.corpus, options.validation_fraction)
    except CorpusError as error:
        raise SystemExit(f"error: {error}") from None
    print(f"{corpus.name}: {corpus.train_bytes:,} bytes to train on, {corpus.validation_bytes:,} held out")
    print("bits per byte of the held-out text")
    print(f"  uniform guess               {8:.3f}")
    print(f"  gzip -9                     {gzip_bits_per_byte(corpus.validation):.3f}")
    print(f"  xz -9                       {xz_bits_per_byte(corpus.validation):.3f}")
    print(f"  xz -9 after the other text  {xz_bits_per_byte(corpus.validation, corpus.train):.3f}")


if __name__ == "__main__":
    main()

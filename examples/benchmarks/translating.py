"""A small Transformer from English to German, and what its files are worth in BLEU.

    TFCOMPRESS_DATA=... python examples/benchmarks/translating.py [--quick] [--keep DIR]

Multi30k (29,000 captions of images, the test set of 2016): an encoder and a decoder of two layers
each, which share a byte-level BPE of 5,000 tokens made of the training texts. Every file is made by
tfc.convert_decoder. BLEU is sacreBLEU's, of greedy texts and of a beam of four; "same": texts that
are those of the Keras model (greedy), which is asked for one token after the other with the whole
text. Tokens a second: greedy decode on one thread, files taking turns. Without Multi30k, numbers
are translated into English words.

Training goes on where it was if the script is run again; the trained model is kept in DIR, by
default in the user's cache folder.
"""

from __future__ import annotations

import csv
import gzip
import os
import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
import sacrebleu
from common import finish, keep_model, markdown
from decoder_files import PRECISION_NAMES, compile_for_tokens, keeping_parser, kept_folder, to_fp32
from tokenizers import Tokenizer, decoders, models, pre_tokenizers, trainers

import tfcompress as tfc
from tfcompress.generation.decoder import Decoder

PAD, START, END = 0, 1, 2
VOCABULARY, LENGTH = 5_000, 40
TRAINED_LENGTH = 28  # longer pairs are left out, which takes a third of the time away
EPOCHS, BATCH, RATE = 14, 64, 1.5e-3
BEAMS = 4
SMALL_NUMBERS = (
    "zero one two three four five six seven eight nine ten eleven twelve thirteen fourteen fifteen "
    "sixteen seventeen eighteen nineteen"
)
TENS = "twenty thirty forty fifty sixty seventy eighty ninety"
Pairs = list[tuple[str, str]]


def multi30k(folder: Path, part: str) -> Pairs:
    with gzip.open(folder / f"multi30k_{part}_en_de_fr.tsv.gz", "rt", encoding="utf-8") as file:
        rows = csv.reader(file, delimiter="\t", quoting=csv.QUOTE_NONE)
        return [(row[0], row[1]) for row in rows]


def numbers() -> tuple[Pairs, Pairs]:
    """Numbers in digits and in words."""
    small = SMALL_NUMBERS.split()

    def words(number: int) -> str:
        for size, name in ((1_000_000, "million"), (1_000, "thousand"), (100, "hundred")):
            if number >= size:
                rest = f" {words(number % size)}" if number % size else ""
                return f"{words(number // size)} {name}{rest}"
        if number < 20:
            return small[number]
        return TENS.split()[number // 10 - 2] + (f" {small[number % 10]}" if number % 10 else "")

    draws = np.unique(np.exp(np.random.default_rng(0).uniform(0, np.log(1e9), 22_000)).astype(int))
    pairs = [(f"{n:,}", words(n)) for n in np.random.default_rng(1).permutation(draws).tolist()]
    return pairs[1_000:], pairs[:1_000]


def load() -> tuple[str, Pairs, Pairs]:
    folder = Path(os.environ.get("TFCOMPRESS_DATA", ".")) / "text"
    if (folder / "multi30k_train_en_de_fr.tsv.gz").is_file():
        train, test = multi30k(folder, "train"), multi30k(folder, "test_2016_flickr")
        return "Multi30k, English to German", train, test
    return "numbers in words (Multi30k is not in TFCOMPRESS_DATA)", *numbers()


def tokenizer_of(pairs: Pairs) -> Tokenizer:
    tokenizer = Tokenizer(models.BPE())
    tokenizer.pre_tokenizer = pre_tokenizers.ByteLevel(add_prefix_space=True)
    tokenizer.decoder = decoders.ByteLevel()
    trainer = trainers.BpeTrainer(
        vocab_size=VOCABULARY,
        special_tokens=["<pad>", "<s>", "</s>"],
        initial_alphabet=pre_tokenizers.ByteLevel.alphabet(),
        show_progress=False,
    )
    tokenizer.train_from_iterator((text for pair in pairs for text in pair), trainer)
    return tokenizer


def padded(rows: list[list[int]], length: int) -> np.ndarray:
    x = np.zeros((len(rows), length), "int32")
    for line, row in zip(x, rows, strict=True):
        line[: min(len(row), length)] = row[:length]
    return x


def build(length: int, quick: bool) -> keras.Model:
    return tfc.models.encoder_decoder(
        VOCABULARY,
        VOCABULARY,
        length,
        length,
        width=32 if quick else 128,
        blocks=1 if quick else 2,
        positions="rotary",
        dropout=0.1,
    )


def trained(
    tokenizer: Tokenizer, pairs: Pairs, epochs: int, folder: Path, quick: bool
) -> keras.Model:
    """The model, from the folder where it was trained before."""
    path = folder / "trained.keras"
    if path.is_file():
        return keras.models.load_model(path, compile=False)
    sources, targets = (
        [one.ids for one in tokenizer.encode_batch(list(side))] for side in zip(*pairs, strict=True)
    )
    short = [i for i, (s, t) in enumerate(zip(sources, targets, strict=True))
             if len(s) <= TRAINED_LENGTH and len(t) < TRAINED_LENGTH]  # fmt: skip
    source = padded([sources[i] for i in short], TRAINED_LENGTH)
    target = padded([[START, *targets[i]] for i in short], TRAINED_LENGTH)
    following = padded([[*targets[i], END] for i in short], TRAINED_LENGTH)
    print(f"{len(short):,} of {len(pairs):,} pairs are short enough to train on", flush=True)
    keras.utils.set_random_seed(0)
    model = build(TRAINED_LENGTH, quick)  # rotary positions: no weight depends on the length
    steps = epochs * -(-len(short) // BATCH)
    compile_for_tokens(model, RATE, steps, warmup=400, alpha=0.02, beta_2=0.98, ignore_class=PAD)
    resume = tfc.Resume(folder / "training", save_freq=200)
    data = {"source": source, "target": target}
    model.fit(data, following, batch_size=BATCH, epochs=epochs, callbacks=[resume], verbose=2)
    whole = build(LENGTH, quick)
    whole.set_weights(model.get_weights())
    keep_model(whole, path)
    return whole


def greedy_keras(model: keras.Model, sources: np.ndarray) -> list[list[int]]:
    """The whole text goes through the model for every token."""
    text = np.zeros((len(sources), LENGTH), "int32")
    text[:, 0] = START
    live = np.ones(len(sources), bool)
    for place in range(1, LENGTH):
        given = {"source": sources[live], "target": text[live]}
        scores = model.predict(given, batch_size=100, verbose=0)[:, place - 1]
        text[live, place] = scores.argmax(-1)
        live[live] = text[live, place] != END
        if not live.any():
            break
    return [row[1:].tolist()[: (row[1:] == END).argmax() if END in row else None] for row in text]


def bleu(tokenizer: Tokenizer, found: list[list[int]], wanted: list[str]) -> float:
    texts = [text.strip() for text in tokenizer.decode_batch(found)]
    return float(sacrebleu.corpus_bleu(texts, [wanted]).score)


def measured(
    files: dict[str, tfc.TFLiteModel], sources: list[list[int]]
) -> tuple[dict[str, list[list[int]]], dict[str, float]]:
    """Greedy texts of each file, and median tokens a second, files taking turns."""
    texts: dict[str, list[list[int]]] = {name: [] for name in files}
    speeds: dict[str, list[float]] = {name: [] for name in files}
    decoders = {name: Decoder(tflite) for name, tflite in files.items()}
    for source in sources:
        for name, decoder in decoders.items():
            text = tfc.generate(
                decoder, [START], source=source, stop=[END], max_new_tokens=LENGTH - 1
            )
            texts[name].append(list(text))
            if text.stats.decoded_tokens > 5:
                speeds[name].append(text.stats.decode_per_second)
    return texts, {name: float(np.median(found)) for name, found in speeds.items()}


def main() -> None:
    parser = keeping_parser(__doc__.splitlines()[0], "translating")
    parser.add_argument("--epochs", type=int, default=EPOCHS, help="of training")
    arguments = parser.parse_args()
    quick, epochs = arguments.quick, 1 if arguments.quick else arguments.epochs
    folder = kept_folder(arguments)
    name, train, test = load()
    if quick:
        train, test = train[:3_200], test[:20]
    tokenizer = tokenizer_of(train)
    tokenizer.save(str(folder / "tokenizer.json"))
    begun = time.monotonic()
    model = trained(tokenizer, train, epochs, folder, quick)
    print(f"{name}: {len(train):,} pairs, {len(test):,} to test; {model.count_params():,} "
          f"parameters, {time.monotonic() - begun:.0f} s of training now", flush=True)  # fmt: skip

    given = [one.ids[:LENGTH] for one in tokenizer.encode_batch([pair[0] for pair in test])]
    wanted = [pair[1] for pair in test]
    files = {p: tfc.convert_decoder(model, p) for p in PRECISION_NAMES}
    for precision, tflite in files.items():
        tflite.save(folder / f"translator_{precision}.tflite", overwrite=True)
    expected = greedy_keras(model, padded(given, LENGTH))
    rows: list[dict[str, Any]] = [{"file": "Keras", "bleu": bleu(tokenizer, expected, wanted)}]
    print(f"Keras: {rows[0]['bleu']:.2f}, {time.monotonic() - begun:.0f} s", flush=True)
    greedy, speeds = measured(files, given)
    for precision, tflite in files.items():
        decoder = Decoder(tflite)
        best = [
            tfc.beam_search(
                decoder, [START], source=source, end=END, beams=BEAMS, max_new_tokens=LENGTH - 1
            )
            for source in given
        ]
        same = [a == b for a, b in zip(greedy[precision], expected, strict=True)]
        rows.append(
            {
                "file": precision,
                "bleu": bleu(tokenizer, greedy[precision], wanted),
                "beam": bleu(tokenizer, [list(b[0].tokens) if b else [] for b in best], wanted),
                "same": float(np.mean(same)),
                "decode": speeds[precision],
                "bytes": len(tflite.content),
            }
        )
        print(f"{precision} done, {time.monotonic() - begun:.0f} s", flush=True)
    for number in range(3):
        print(f"{test[number][0]}\n  {tokenizer.decode(greedy['dynamic'][number]).strip()}")
    print(table(rows))
    finish({"data": name, "rows": rows}, arguments.out)


def table(rows: list[dict[str, Any]]) -> str:
    heads = ["file", "BLEU, greedy", "to Keras", f"BLEU, beam of {BEAMS}", "same as Keras",
             "tokens/s", "to fp32", "bytes", "smaller"]  # fmt: skip
    base = next(row for row in rows if row["file"] == "fp32")
    cells = [["Keras", f"{rows[0]['bleu']:.2f}", *["-"] * 7]]
    for row in rows[1:]:
        cells.append(
            [
                row["file"], f"{row['bleu']:.2f}", f"{row['bleu'] - rows[0]['bleu']:+.2f}",
                f"{row['beam']:.2f}", f"{row['same']:.1%}", f"{row['decode']:,.0f}",
                to_fp32(rows, row, "decode"), f"{row['bytes']:,}",
                f"{base['bytes'] / row['bytes']:.1f}x",
            ]
        )  # fmt: skip
    return markdown(heads, cells)


if __name__ == "__main__":
    main()

"""A character-level GPT on tiny Shakespeare: what its files know, and how fast they write.

    TFCOMPRESS_DATA=... python examples/benchmarks/generating.py [--quick] [--keep DIR]

About a million parameters, a context of 512, rotary positions. It is trained on windows of 128
characters first and of 512 then, which is possible as nothing in it depends on the context. Each
file is made by tfc.convert_decoder. "Nats": the mean negative logarithm of the probability of each
next character of the last tenth of the text, read character by character through the file, at most
512 remembered. "Same as Keras": where the greedy text of 500 characters first differs from that of
the Keras model. Tokens per second on one thread, files taking turns.

Training goes on where it was if the script is run again; the trained model is kept in DIR, by
default in the user's cache folder.
"""

from __future__ import annotations

import time
from pathlib import Path
from typing import Any

import keras
import numpy as np
from common import finish, keep_model, markdown
from decoder_files import PRECISION_NAMES, compile_for_tokens, keeping_parser, kept_folder, to_fp32
from texts import long_text

import tfcompress as tfc
from tfcompress.generation.tokenizers import CharacterTokenizer

CONTEXT, SHORT = 512, 128
WIDTH, HEADS, BLOCKS = 128, 4, 5
# (characters in a window, windows in a batch, epochs, learning rate at the beginning)
STAGES = ((SHORT, 32, 16, 2e-3), (CONTEXT, 8, 5, 6e-4))
PROMPT = "ROMEO:\n"
GREEDY = 500


def build(context: int, vocabulary: int, quick: bool) -> keras.Model:
    return tfc.models.gpt_decoder(
        vocabulary,
        context,
        width=32 if quick else WIDTH,
        heads=HEADS,
        blocks=2 if quick else BLOCKS,
        positions="rotary",
        dropout=0.1,
    )


def windows(tokens: np.ndarray, length: int, start: int) -> tuple[np.ndarray, np.ndarray]:
    """Windows of characters side by side from `start` on, and the characters behind each."""
    count = (len(tokens) - start - 1) // length
    x = tokens[start : start + count * length].reshape(count, length)
    y = tokens[start + 1 : start + 1 + count * length].reshape(count, length)
    return x, y


def trained(tokens: np.ndarray, vocabulary: int, folder: Path, quick: bool) -> keras.Model:
    """The model, from the folder where it was trained before."""
    path = folder / "trained.keras"
    if path.is_file():
        return keras.models.load_model(path, compile=False)
    model: Any = None
    for number, (length, batch, epochs, rate) in enumerate(STAGES):
        epochs = 1 if quick else epochs
        done = folder / f"stage_{number}.keras"
        keras.utils.set_random_seed(number)
        fresh = build(length, vocabulary, quick)
        if done.is_file():
            model = keras.models.load_model(done, compile=False)
            continue
        if model is not None:
            fresh.set_weights(model.get_weights())
        model = fresh
        # Windows that begin in the middle of others as well, so that no character is always first.
        parts = [windows(tokens, length, start) for start in (0, length // 2)]
        x, y = (np.concatenate(part) for part in zip(*parts, strict=True))
        epochs = max(1, epochs // 2)  # each sees every character twice
        steps = epochs * -(-len(x) // batch)
        compile_for_tokens(model, rate, steps, warmup=200, alpha=0.05)
        resume = tfc.Resume(folder / f"stage_{number}", save_freq=200)
        model.fit(x, y, batch_size=batch, epochs=epochs, callbacks=[resume], verbose=2)
        keep_model(model, done)
    keep_model(model, path)
    return model


def nats_of_keras(model: keras.Model, tokens: np.ndarray) -> float:
    x, y = windows(tokens, CONTEXT, 0)
    logits = np.asarray(model.predict(x, batch_size=4, verbose=0), "float64")
    return float(-log_softmax(logits)[np.arange(len(x))[:, None], np.arange(CONTEXT), y].mean())


def nats_of_file(tflite: tfc.TFLiteModel, tokens: np.ndarray) -> float:
    """The same, each character read through the file."""
    x, y = windows(tokens, CONTEXT, 0)
    texts = np.concatenate([x, y[:, -1:]], 1)
    return tfc.perplexity(tflite, texts.tolist(), progress=False)["cross_entropy"]


def log_softmax(scores: np.ndarray) -> np.ndarray:
    shifted = scores - scores.max(-1, keepdims=True)
    return shifted - np.log(np.exp(shifted).sum(-1, keepdims=True))


def greedy_keras(model: keras.Model, prompt: list[int], count: int) -> list[int]:
    """The whole text goes through the model for every character."""
    text = np.zeros((1, CONTEXT), "int32")
    text[0, : len(prompt)] = prompt
    for place in range(len(prompt), len(prompt) + count):
        text[0, place] = model.predict_on_batch(text)[0, place - 1].argmax()
    return text[0, len(prompt) : len(prompt) + count].tolist()


def speeds(files: dict[str, tfc.TFLiteModel], prompt: list[int], rounds: int) -> dict[str, Any]:
    """Median tokens per second of prefill and decode, files taking turns."""
    found: dict[str, list[tuple[float, float]]] = {name: [] for name in files}
    for _ in range(rounds + 1):
        for name, tflite in files.items():
            text = tfc.generate(tflite, prompt, max_new_tokens=128)
            for _ in text:
                pass
            stats = text.stats
            found[name].append((stats.prefill_per_second, stats.decode_per_second))
    return {name: np.median(rows[1:], axis=0) for name, rows in found.items()}


def main() -> None:
    arguments = keeping_parser(__doc__.splitlines()[0], "generating").parse_args()
    quick, folder = arguments.quick, kept_folder(arguments)
    source, text = long_text()
    tokenizer = CharacterTokenizer.of(text)
    tokens = np.array(tokenizer.encode(text), "int32")
    split = int(0.9 * len(tokens))
    training, test = tokens[:split], tokens[split:]
    if quick:
        training, test = training[:60_000], test[:1_600]
    begun = time.monotonic()
    model = trained(training, tokenizer.size, folder, quick)
    print(f"{source}: {len(training):,} characters to train on, {len(test):,} to test on, "
          f"{tokenizer.size} different; {model.count_params():,} parameters, "
          f"{time.monotonic() - begun:.0f} s of training now")  # fmt: skip
    tokenizer.save(folder / "characters.json")

    files = {}
    for name in PRECISION_NAMES:
        files[name] = tfc.convert_decoder(model, name)
        files[name].save(folder / f"gpt_{name}.tflite", overwrite=True)
    prompt = tokenizer.encode("".join(one for one in PROMPT if one in tokenizer.characters))
    count = 100 if quick else GREEDY
    expected = greedy_keras(model, prompt, count)
    measured = speeds(files, test[:256].tolist(), 2 if quick else 15)
    rows = [{"file": "Keras", "nats": nats_of_keras(model, test)}]
    for name, tflite in files.items():
        given = list(tfc.generate(tflite, prompt, max_new_tokens=count))
        same = [a == b for a, b in zip(given, expected, strict=True)]
        prefill, decode = measured[name]
        rows.append(
            {
                "file": name,
                "nats": nats_of_file(tflite, test),
                "same": same.index(False) if False in same else None,
                "prefill": prefill,
                "decode": decode,
                "bytes": len(tflite.content),
            }
        )
        print(f"{name} done, {time.monotonic() - begun:.0f} s", flush=True)
    print(f"\nGreedy text of the Keras model:\n{PROMPT}{tokenizer.decode(expected)[:200]}\n")
    print(table(rows, count))
    finish({"data": source, "rows": rows}, arguments.out)


def table(rows: list[dict[str, Any]], count: int) -> str:
    heads = ["file", "nats a character", "to Keras", f"same as Keras, of {count}",
             "prefill, tokens/s", "to fp32", "decode, tokens/s", "to fp32", "bytes"]  # fmt: skip
    cells = [["Keras", f"{rows[0]['nats']:.4f}", "-", "-", "-", "-", "-", "-", "-"]]
    for row in rows[1:]:
        cells.append(
            [
                row["file"],
                f"{row['nats']:.4f}",
                f"{row['nats'] - rows[0]['nats']:+.4f}",
                "all" if row["same"] is None else row["same"],
                f"{row['prefill']:,.0f}",
                to_fp32(rows, row, "prefill"),
                f"{row['decode']:,.0f}",
                to_fp32(rows, row, "decode"),
                f"{row['bytes']:,}",
            ]
        )
    return markdown(heads, cells)


if __name__ == "__main__":
    main()

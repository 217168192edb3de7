"""`tfcompress generate`: text from a decoder's `.tflite`, as it is made."""

from __future__ import annotations

import argparse
import sys
from typing import Any

from tfcompress.cli.console import Console
from tfcompress.errors import ConfigError

_START, _END = "<s>", "</s>"

HELP = "generate text with a .tflite language model"
DESCRIPTION = (
    "Reads a prompt and goes on, token by token, with a file of tfc.convert_decoder. The text "
    "goes to standard output as it is made, tokens per second to standard error."
)


def add_arguments(parser: argparse.ArgumentParser) -> None:
    """Declares the command's arguments."""
    parser.add_argument("model", help=".tflite file of tfc.convert_decoder")
    parser.add_argument(
        "--tokenizer",
        required=True,
        help='tokenizer.json of the tokenizers library, a JSON file {"characters": "abc"}, or '
        "the word bytes",
    )
    parser.add_argument("--prompt", help="text to go on from")
    parser.add_argument(
        "--source", help="text to translate or to answer, of models that listen to one"
    )
    parser.add_argument(
        "--start", help="token that an answer to --source begins with, as it is written; <s>"
    )
    parser.add_argument("--end", help="token that ends the text, as it is written; </s> if known")
    parser.add_argument(
        "--beams", type=int, help="search the likeliest text, following so many at once"
    )
    parser.add_argument(
        "--greedy", action="store_true", help="the best token each time; so without what follows"
    )
    parser.add_argument("--temperature", type=float, help="draw tokens; 1 unless given")
    parser.add_argument("--top-k", type=int, help="draw among so many of the best tokens")
    parser.add_argument("--top-p", type=float, help="draw among the best with that probability")
    parser.add_argument("--seed", type=int, help="makes draws repeat")
    parser.add_argument("--max-tokens", type=int, default=100, help="at most so many are made")
    parser.add_argument("--threads", type=int, default=1, help="threads of the runtime")
    parser.add_argument("--backend", default="xnnpack", help="xnnpack or reference")
    parser.add_argument("--out", help="file for text and figures as JSON")
    parser.add_argument("--overwrite", action="store_true", help="replace the file if it exists")


def run(options: argparse.Namespace, console: Console) -> int:
    """Runs the command."""
    from tfcompress.files import check_writable, write_json
    from tfcompress.generation.generate import generate
    from tfcompress.generation.tokenizers import TextStream, load_tokenizer

    if options.prompt is None and options.source is None:
        raise ConfigError("Give --prompt, a text to go on from, or --source, one to translate.")
    if options.out:
        check_writable(options.out, overwrite=options.overwrite)
    temperature = _temperature(options)
    tokenizer = load_tokenizer(options.tokenizer)
    prompt = [*_start(options, tokenizer), *tokenizer.encode(options.prompt or "")]
    end = _marker(options.end, "--end", _END, tokenizer)
    source = None if options.source is None else tokenizer.encode(options.source)
    if options.beams is not None:
        return _searched(options, console, tokenizer, prompt, source, end)
    generation = generate(
        options.model,
        prompt,
        max_new_tokens=options.max_tokens,
        temperature=temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
        stop=() if end is None else (end,),
        source=source,
        threads=options.threads,
        backend=options.backend,
    )
    stream, pieces, tokens = TextStream(tokenizer, prompt), [], []
    for token in generation:
        tokens.append(token)
        pieces.append(stream.feed(token))
        _say(options, pieces[-1])
    pieces.append(stream.end())
    _say(options, pieces[-1] + "\n")
    stats = generation.stats
    if not options.json:
        print(
            f"prefill: {stats.prompt_tokens} tokens, {stats.prefill_per_second:,.0f} a second; "
            f"decode: {stats.new_tokens} tokens, {stats.decode_per_second:,.0f} a second",
            file=sys.stderr,
        )
    result = {
        "file": options.model,
        "prompt": options.prompt,
        "source": options.source,
        "text": "".join(pieces),
        "tokens": tokens,
        **stats.to_dict(),
    }
    console.result(result)
    if options.out:
        write_json(options.out, result)
    return 0


def _start(options: argparse.Namespace, tokenizer: Any) -> list[int]:
    """What an answer to another text begins with."""
    if options.source is None and options.start is None:
        return []
    start = _marker(options.start, "--start", _START, tokenizer)
    if start is None:
        raise ConfigError(
            f"An answer begins with a token, and the tokenizer has no {_START!r}: name the one "
            "that the model was trained with as --start."
        )
    return [start]


def _marker(token: str | None, option: str, usual: str, tokenizer: Any) -> int | None:
    """The id of the token that an option names, or of the usual one where there is such."""
    found: int | None = tokenizer.number(usual if token is None else token)
    if token is not None and found is None:
        raise ConfigError(f"{option} is a token of the tokenizer's. Received: {token!r}")
    return found


def _searched(
    options: argparse.Namespace, console: Console, tokenizer: Any, prompt: Any, source: Any,
    end: int | None,
) -> int:  # fmt: skip
    """The likeliest texts by beam search, the best one first."""
    from tfcompress.files import write_json
    from tfcompress.generation.beams import beam_search

    if end is None:
        raise ConfigError(
            f"--beams needs the token that ends a text, and the tokenizer has no {_END!r}: name it "
            "as --end."
        )
    others = [*_drawing(options), *(["--greedy"] if options.greedy else [])]
    if others:
        raise ConfigError(
            f"--beams searches, so it stands alone. Received: {', '.join(others)} too"
        )
    answers = beam_search(
        options.model,
        prompt,
        end=end,
        source=source,
        beams=options.beams,
        max_new_tokens=options.max_tokens,
        threads=options.threads,
        backend=options.backend,
    )
    found = [
        {
            "text": tokenizer.decode(answer.tokens).strip(),
            "tokens": list(answer.tokens),
            "log_probability": answer.log_probability,
            "score": answer.score,
        }
        for answer in answers
    ]
    _say(options, f"{found[0]['text'] if found else ''}\n")
    result = {"file": options.model, "prompt": options.prompt, "source": options.source,
              "text": found[0]["text"] if found else "", "answers": found}  # fmt: skip
    console.result(result)
    if options.out:
        write_json(options.out, result)
    return 0


def _say(options: argparse.Namespace, text: str) -> None:
    if not options.json:
        sys.stdout.write(text)
        sys.stdout.flush()


def _drawing(options: argparse.Namespace) -> list[str]:
    """The options that were given of drawing tokens."""
    names = ("temperature", "top_k", "top_p", "seed")
    return [f"--{n.replace('_', '-')}" for n in names if getattr(options, n) is not None]


def _temperature(options: argparse.Namespace) -> float:
    drawing = _drawing(options)
    if options.greedy and drawing:
        raise ConfigError(
            f"--greedy draws nothing, so it stands alone. Received: {', '.join(drawing)} too"
        )
    if not drawing:
        return 0.0
    return 1.0 if options.temperature is None else float(options.temperature)

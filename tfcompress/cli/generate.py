"""`tfcompress generate`: text from a decoder's `.tflite`, as it is made."""

from __future__ import annotations

import argparse
import sys

from tfcompress.cli.console import Console
from tfcompress.errors import ConfigError

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
    parser.add_argument("--prompt", required=True, help="text to go on from")
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

    if options.out:
        check_writable(options.out, overwrite=options.overwrite)
    temperature = _temperature(options)
    tokenizer = load_tokenizer(options.tokenizer)
    prompt = tokenizer.encode(options.prompt)
    generation = generate(
        options.model,
        prompt,
        max_new_tokens=options.max_tokens,
        temperature=temperature,
        top_k=options.top_k,
        top_p=options.top_p,
        seed=options.seed,
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
        "text": "".join(pieces),
        "tokens": tokens,
        **stats.to_dict(),
    }
    console.result(result)
    if options.out:
        write_json(options.out, result)
    return 0


def _say(options: argparse.Namespace, text: str) -> None:
    if not options.json:
        sys.stdout.write(text)
        sys.stdout.flush()


def _temperature(options: argparse.Namespace) -> float:
    drawing = {
        name: value
        for name, value in vars(options).items()
        if name in ("temperature", "top_k", "top_p", "seed") and value is not None
    }
    if options.greedy and drawing:
        named = ", ".join(f"--{name.replace('_', '-')}" for name in drawing)
        raise ConfigError(f"--greedy draws nothing, so it stands alone. Received: {named} too")
    if not drawing:
        return 0.0
    return 1.0 if options.temperature is None else float(options.temperature)

"""Perplexity beside llama.cpp on the same GGUF file and text.

Both cut the text, tokenised once without special tokens, into windows of exactly `context` tokens that do not overlap, and
score every token of a window but its first. Run by `cargo xtask perplexity`.
"""
import argparse
import json
import math
import subprocess
import sys

import llama_cpp
import numpy as np


def peer_perplexity(args, text):
    model = llama_cpp.Llama(args.model, n_ctx=args.context, n_batch=args.context, n_ubatch=args.context, n_threads=args.threads,
                            n_threads_batch=args.threads, logits_all=True, verbose=False)
    ids = model.tokenize(text, add_bos=False, special=False)
    total, scored = 0.0, 0
    for start in range(0, len(ids) - args.context + 1, args.context):
        window = ids[start:start + args.context]
        model.reset()
        model.eval(window)
        scores = np.asarray(model.scores[:args.context], dtype=np.float64)[:-1]
        top = scores.max(axis=1)
        log_total = np.log(np.exp(scores - top[:, None]).sum(axis=1)) + top
        total += float((log_total - scores[np.arange(args.context - 1), window[1:]]).sum())
        scored += args.context - 1
    return math.exp(total / scored), len(ids)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("moesaic", "artifact", "model", "text"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--context", type=int, default=512)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    command = [args.moesaic, "perplexity", args.artifact, "--text", args.text, "--context", str(args.context),
               "--threads", str(args.threads), "--json"]
    ours = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    with open(args.text, "rb") as file:
        peer, tokens = peer_perplexity(args, file.read())
    if tokens != ours["tokens"]:
        sys.exit(f"the tokenizers disagree: {ours['tokens']} tokens here, {tokens} there")
    report = {"perplexity": ours["perplexity"], "peer_perplexity": peer, "ratio": ours["perplexity"] / peer,
              "tokens": tokens, "context": args.context, "peer": f"llama-cpp-python {llama_cpp.__version__}"}
    if args.json:
        json.dump(report, sys.stdout, indent=1)
        print()
    else:
        print(f"perplexity {report['perplexity']:.4f}, llama.cpp {peer:.4f}, ratio {report['ratio']:.5f} "
              f"({tokens} tokens, windows of {args.context})")


if __name__ == "__main__":
    main()

"""Speed beside llama.cpp on the same GGUF file, in one run on one machine.

Rounds of the two alternate, so that a change of the machine's clock or load meets both; medians are compared.
Run by `cargo xtask bench-peer`.
"""
import argparse
import json
import statistics
import subprocess
import sys
import time

import llama_cpp


def ours(args):
    command = [args.moesaic, "bench", args.artifact, "-p", str(args.prompt), "-n", str(args.generate),
               "-r", "1", "--threads", str(args.threads), "--json"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return report["prompt_tokens_per_s"], report["generation_tokens_per_s"]


class Peer:
    def __init__(self, args):
        self.args = args
        self.model = llama_cpp.Llama(args.model, n_ctx=args.prompt + args.generate, n_threads=args.threads,
                                     n_threads_batch=args.threads, n_batch=args.prompt, n_ubatch=args.prompt, verbose=False)
        vocabulary = self.model.n_vocab()
        self.tokens = [(i * 7919 + 100) % (vocabulary - 100) for i in range(args.prompt)]
        self.round()

    def round(self):
        self.model.reset()
        start = time.perf_counter()
        self.model.eval(self.tokens)
        prompt = time.perf_counter() - start
        start = time.perf_counter()
        for i in range(self.args.generate - 1):
            self.model.eval([self.tokens[i]])
        return self.args.prompt / prompt, (self.args.generate - 1) / (time.perf_counter() - start)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    for name in ("moesaic", "artifact", "model"):
        parser.add_argument(f"--{name}", required=True)
    parser.add_argument("--prompt", type=int, default=512)
    parser.add_argument("--generate", type=int, default=128)
    parser.add_argument("--threads", type=int, default=2)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    peer, rounds = Peer(args), []
    for _ in range(args.rounds):
        rounds.append((ours(args), peer.round()))
    report = {"rounds": args.rounds, "threads": args.threads, "peer": f"llama-cpp-python {llama_cpp.__version__}"}
    for i, what in enumerate(("prompt", "generation")):
        report[f"{what}_tokens_per_s"] = statistics.median(r[0][i] for r in rounds)
        report[f"peer_{what}_tokens_per_s"] = statistics.median(r[1][i] for r in rounds)
        report[f"{what}_ratio"] = statistics.median(r[0][i] / r[1][i] for r in rounds)
    if args.json:
        json.dump(report, sys.stdout, indent=1)
        print()
        return
    print(f"{'tokens/s':<12} {'moesaic':>10} {'llama.cpp':>10} {'ratio':>7}   ({report['peer']}, {args.threads} threads)")
    for what, tokens in (("prompt", args.prompt), ("generation", args.generate)):
        print(f"{what + ' ' + str(tokens):<12} {report[what + '_tokens_per_s']:>10.1f} "
              f"{report['peer_' + what + '_tokens_per_s']:>10.1f} {report[what + '_ratio']:>7.2f}")


if __name__ == "__main__":
    main()

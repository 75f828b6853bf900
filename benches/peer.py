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
    """llama.cpp through its C interface: nothing of the Python layer above it is timed.

    Flash attention makes its prompts faster and its generation slower here, so each figure is taken with the better setting.
    """

    def __init__(self, args):
        self.args = args
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)  # held: the C side keeps only the address
        llama_cpp.llama_log_set(self.quiet, None)
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(args.model.encode(), model_params)
        ids = [(i * 7919 + 100) % 49000 for i in range(args.prompt)]
        self.prompt = (llama_cpp.llama_token * args.prompt)(*ids)
        self.contexts = [self.context(flash) for flash in (0, 1)]
        self.round()

    def context(self, flash):
        args = self.args
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = args.prompt + args.generate
        params.n_batch = params.n_ubatch = args.prompt
        params.n_threads = params.n_threads_batch = args.threads
        params.flash_attn_type = flash
        return llama_cpp.llama_init_from_model(self.model, params)

    def round(self):
        prompts, generations = zip(*(self.measure(context) for context in self.contexts))
        return max(prompts), max(generations)

    def decode(self, context, tokens, count):
        batch = llama_cpp.llama_batch_get_one(tokens, count)
        if llama_cpp.llama_decode(context, batch) != 0:
            sys.exit("llama_decode failed")
        llama_cpp.llama_synchronize(context)

    def measure(self, context):
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        start = time.perf_counter()
        self.decode(context, self.prompt, self.args.prompt)
        prompt = time.perf_counter() - start
        one = (llama_cpp.llama_token * 1)()
        start = time.perf_counter()
        for i in range(self.args.generate - 1):
            one[0] = self.prompt[i]
            self.decode(context, one, 1)
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

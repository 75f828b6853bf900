"""Speed and memory beside llama.cpp on the same GGUF file, in one run on one machine.

Rounds of the two alternate, so that a change of the machine's clock or load meets both; medians are compared.
Memory is the high-water mark of a process; the peer's is counted from when Python has loaded its library.
Run by `cargo xtask bench-peer`.
"""
import argparse
import json
import resource
import statistics
import subprocess
import sys
import time

import llama_cpp

# What is compared: the key, how the table calls it, its factor there, and whether more is better.
FIGURES = {
    "prompt_tokens_per_s": ("prompt tokens/s", 1, True),
    "generation_tokens_per_s": ("generation tokens/s", 1, True),
    "time_to_first_token_s": ("first token, ms", 1e3, False),
    "peak_memory_bytes": ("peak memory, MB", 1e-6, False),
}


def ours(args):
    command = [args.moesaic, "bench", args.artifact, "-p", str(args.prompt), "-n", str(args.generate),
               "-r", "1", "--threads", str(args.threads), "--json"]
    report = json.loads(subprocess.run(command, check=True, stdout=subprocess.PIPE).stdout)
    return {what: report[what] for what in FIGURES}


def peak_memory():
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak if sys.platform == "darwin" else peak * 1024


class Peer:
    """llama.cpp through its C interface: nothing of the Python layer above it is timed.

    Flash attention makes its prompts faster and its generation slower here, so each figure is taken with the better setting.
    """

    def __init__(self, args):
        self.args = args
        before = peak_memory()
        self.quiet = llama_cpp.llama_log_callback(lambda *_: None)  # held: the C side keeps only the address
        llama_cpp.llama_log_set(self.quiet, None)
        llama_cpp.llama_backend_init()
        model_params = llama_cpp.llama_model_default_params()
        self.model = llama_cpp.llama_model_load_from_file(args.model.encode(), model_params)
        ids = [(i * 7919 + 100) % 49000 for i in range(args.prompt)]
        self.prompt = (llama_cpp.llama_token * args.prompt)(*ids)
        self.contexts = [self.context(flash=1)]  # the setting that needs less memory
        self.measure(self.contexts[0])
        self.memory = peak_memory() - before
        self.contexts.append(self.context(flash=0))
        self.measure(self.contexts[1])

    def context(self, flash):
        args = self.args
        params = llama_cpp.llama_context_default_params()
        params.n_ctx = args.prompt + args.generate
        params.n_batch = params.n_ubatch = args.prompt
        params.n_threads = params.n_threads_batch = args.threads
        params.flash_attn_type = flash
        return llama_cpp.llama_init_from_model(self.model, params)

    def round(self):
        """The figures of one round, the better context's each."""
        prompts, generations = zip(*(self.measure(context) for context in self.contexts))
        return {
            "prompt_tokens_per_s": self.args.prompt / min(prompts),
            "generation_tokens_per_s": (self.args.generate - 1) / min(generations),
            "time_to_first_token_s": min(prompts),
            "peak_memory_bytes": self.memory,
        }

    def decode(self, context, tokens, count):
        batch = llama_cpp.llama_batch_get_one(tokens, count)
        if llama_cpp.llama_decode(context, batch) != 0:
            sys.exit("llama_decode failed")
        llama_cpp.llama_synchronize(context)

    def measure(self, context):
        """Seconds for the prompt and for the tokens after the first."""
        llama_cpp.llama_memory_clear(llama_cpp.llama_get_memory(context), True)
        start = time.perf_counter()
        self.decode(context, self.prompt, self.args.prompt)
        prompt = time.perf_counter() - start
        one = (llama_cpp.llama_token * 1)()
        start = time.perf_counter()
        for i in range(self.args.generate - 1):
            one[0] = self.prompt[i]
            self.decode(context, one, 1)
        return prompt, time.perf_counter() - start


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
    for what in FIGURES:
        mine, theirs = ([side[what] for side in sides] for sides in zip(*rounds))
        report[what], report[f"peer_{what}"] = statistics.median(mine), statistics.median(theirs)
        report[f"{what}_ratio"] = statistics.median(a / b for a, b in zip(mine, theirs))
    if args.json:
        json.dump(report, sys.stdout, indent=1)
        print()
    else:
        table(report, args)


def table(report, args):
    print(f"{args.prompt} prompt tokens, {args.generate} generated, {args.threads} threads, {report['peer']}")
    print(f"{'':<20} {'moesaic':>10} {'llama.cpp':>10} {'ratio':>7}")
    for what, (name, factor, more_is_better) in FIGURES.items():
        print(f"{name:<20} {report[what] * factor:>10.1f} {report['peer_' + what] * factor:>10.1f} "
              f"{report[what + '_ratio']:>7.2f}  {'more' if more_is_better else 'less'} is better")


if __name__ == "__main__":
    main()

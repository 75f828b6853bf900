"""Our server beside llama.cpp's on the same GGUF file, in one run on one machine: the time to a first token with a long
system prompt, cold and cached, and the throughput of concurrent requests.

Both are asked over loopback, through /v1/chat/completions, streamed, greedy, with the same number of threads; rounds
alternate, medians are compared. llama.cpp's server is the one inside the package xllamacpp (`pip install xllamacpp`).

    python benches/serve.py --moesaic target/release/moesaic --artifact A.moesaic --model A.gguf
"""
import argparse
import concurrent.futures
import http.client
import json
import os
import random
import signal
import socket
import statistics
import subprocess
import sys
import tempfile
import time

WORDS = ("river stone winter letter engine garden copper signal harbour window paper silver mountain teacher market "
         "summer bridge captain forest orange village battle music doctor yellow machine planet history question "
         "kitchen soldier island library morning thunder railway science pocket candle border").split()
QUESTIONS = ["What is the most important rule?", "Which word did you see first?", "Who wrote this letter?"]
# Tokens that would end an answer: both servers are kept from choosing them, so that all answers are equally long.
ENDS = {"0": -100, "2": -100}


def prose(seed, words):
    """Text that no cache has seen: the same for both servers."""
    choose = random.Random(seed)
    return " ".join(choose.choice(WORDS) for _ in range(words))


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


class Server:
    """A server process and how to ask it."""

    def __init__(self, name, command):
        self.name, self.command, self.process = name, command, None

    def start(self):
        self.port = free_port()
        command = [part.format(port=self.port) for part in self.command]
        self.process = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
        deadline = time.monotonic() + 120
        while True:
            try:
                self.ask([{"role": "user", "content": "Hello"}], 1)
                return
            except (OSError, http.client.HTTPException, RuntimeError):
                if time.monotonic() > deadline or self.process.poll() is not None:
                    raise SystemExit(f"{self.name} did not start: {' '.join(command)}")
                time.sleep(0.1)

    def stop(self, how=signal.SIGTERM):
        self.process.send_signal(how)
        self.process.wait()

    def ask(self, messages, max_tokens):
        """Seconds until the first piece of the answer, seconds in all, and the usage."""
        body = {"model": "default", "messages": messages, "max_tokens": max_tokens, "temperature": 0, "stream": True,
                "stream_options": {"include_usage": True}, "logit_bias": ENDS}
        connection = http.client.HTTPConnection("127.0.0.1", self.port, timeout=600)
        start, first, usage = time.perf_counter(), None, None
        connection.request("POST", "/v1/chat/completions", json.dumps(body), {"Content-Type": "application/json"})
        response = connection.getresponse()
        if response.status != 200:
            raise RuntimeError(f"{self.name}: {response.status} {response.read()[:300]!r}")
        for line in response:
            if not line.startswith(b"data: {"):
                continue
            chunk = json.loads(line[6:])
            usage = chunk.get("usage") or usage
            if first is None and any(c["delta"].get("content") for c in chunk["choices"]):
                first = time.perf_counter() - start
        connection.close()
        return first, time.perf_counter() - start, usage


def conversation(seed, question):
    return [{"role": "system", "content": prose(seed, 840)}, {"role": "user", "content": question}]


def first_tokens(server, seed):
    """Times to the first token of a prompt seen for the first time, and of another question after the same system prompt."""
    cold, _, usage = server.ask(conversation(seed, QUESTIONS[0]), 8)
    cached, _, again = server.ask(conversation(seed, QUESTIONS[1]), 8)
    return cold, cached, usage["prompt_tokens"], (again.get("prompt_tokens_details") or {}).get("cached_tokens", 0)


def after_a_kill(server, seed):
    """The same after the process was killed and started again, which only a cache on disk survives."""
    time.sleep(2)  # pages are written in the background
    server.stop(signal.SIGKILL)
    server.start()
    return server.ask(conversation(seed, QUESTIONS[2]), 8)[0]


def throughput(server, concurrent, tokens, seed):
    """Tokens generated a second by so many requests at once, each with a prompt of its own."""
    asked = [[{"role": "user", "content": prose(f"{seed} {i}", 60)}] for i in range(concurrent)]
    with concurrent_pool(concurrent) as pool:
        start = time.perf_counter()
        usages = list(pool.map(lambda messages: server.ask(messages, tokens)[2], asked))
        return sum(u["completion_tokens"] for u in usages) / (time.perf_counter() - start)


def concurrent_pool(size):
    return concurrent.futures.ThreadPoolExecutor(max_workers=size)


def serve_peer(args):
    """Runs llama.cpp's server in this process until it is ended."""
    import xllamacpp

    params = xllamacpp.CommonParams()
    params.model.path = args.model
    params.port = args.port
    params.n_parallel = args.slots
    params.n_ctx = args.context * args.slots
    params.cpuparams.n_threads = params.cpuparams_batch.n_threads = args.threads
    server = xllamacpp.Server(params)
    print(server.listening_address, flush=True)
    signal.pause()


def median(values):
    return statistics.median(values) if values else float("nan")


def measure(args, servers):
    results = {s.name: {"cold": [], "cached": [], "disk": [], **{n: [] for n in args.concurrent}} for s in servers}
    ours = servers[0]
    for round_ in range(args.rounds):
        for server in servers if round_ % 2 == 0 else servers[::-1]:
            server.start()
            result = results[server.name]
            cold, cached, prompt, found = first_tokens(server, f"round {round_}")
            result["cold"].append(cold)
            result["cached"].append(cached)
            result["prompt_tokens"], result["cached_tokens"] = prompt, found
            if server is ours:
                result["disk"].append(after_a_kill(server, f"round {round_}"))
            for n in args.concurrent:
                result[n].append(throughput(server, n, args.tokens, f"round {round_}"))
            server.stop()
            print(f"round {round_ + 1} of {args.rounds}: {server.name} done", file=sys.stderr)
    return {name: {k: median(v) if isinstance(v, list) else v for k, v in r.items()} for name, r in results.items()}


def table(args, results):
    (ours, a), (peer, b) = results.items()
    print(f"prompt of {a['prompt_tokens']} tokens ({a['cached_tokens']} cached), {peer}: {b['prompt_tokens']} ({b['cached_tokens']})")
    print(f"| | {ours} | {peer} | ratio |\n|---|---|---|---|")
    for key, name in [("cold", "first token, cold, ms"), ("cached", "first token, cached, ms")]:
        print(f"| {name} | {a[key] * 1e3:.1f} | {b[key] * 1e3:.1f} | {a[key] / b[key]:.2f} |")
    print(f"| first token after kill -9 and restart, ms | {a['disk'] * 1e3:.1f} | – | – |")
    for n in args.concurrent:
        print(f"| tokens/s, {n} at once | {a[n]:.1f} | {b[n]:.1f} | {a[n] / b[n]:.2f} |")
    print(f"cold / cached: {a['cold'] / a['cached']:.1f}, after restart {a['cold'] / a['disk']:.1f}; {peer} {b['cold'] / b['cached']:.1f}")
    most = max(args.concurrent)
    print(f"{most} at once / one: {a[most] / a[1]:.2f}; {peer} {b[most] / b[1]:.2f}")


def main():
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--moesaic")
    parser.add_argument("--artifact")
    parser.add_argument("--model", required=True)
    parser.add_argument("--threads", type=int, default=os.cpu_count())
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--tokens", type=int, default=64, help="tokens of each answer of the throughput test")
    parser.add_argument("--concurrent", type=int, nargs="+", default=[1, 4, 16])
    parser.add_argument("--context", type=int, default=2048, help="longest sequence")
    parser.add_argument("--slots", type=int, default=16, help="sequences llama.cpp's server holds")
    parser.add_argument("--port", type=int, help="serve llama.cpp here and do nothing else")
    parser.add_argument("--json", action="store_true")
    args = parser.parse_args()
    if args.port:
        serve_peer(args)
        return
    with tempfile.TemporaryDirectory() as cache:
        sizes = [str(args.threads), str(args.context), str(args.slots)]
        servers = [
            Server("moesaic", [args.moesaic, "serve", args.artifact, "--port", "{port}", "--served-model-name", "default",
                               "--threads", sizes[0], "--max-model-len", sizes[1], "--max-num-seqs", sizes[2],
                               "--kv-tokens", str(args.context * args.slots), "--prefix-cache-dir", cache]),
            Server("llama.cpp", [sys.executable, __file__, "--model", args.model, "--port", "{port}", "--threads", sizes[0],
                                 "--context", sizes[1], "--slots", sizes[2]]),
        ]
        results = measure(args, servers)
    if args.json:
        print(json.dumps(results))
    else:
        table(args, results)


if __name__ == "__main__":
    main()

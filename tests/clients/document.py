"""Holds a server to its OpenAPI document: `document.py URL KEY MODEL`.

Requests are derived from `/openapi.json` by schemathesis, the same ones each time: examples, the edges of every field, values
that the document forbids. No answer may be a 5xx, have a status, type, header or shape that the document does not name, accept what it
forbids, or be given without the key.
"""

import os
import subprocess
import sys
import tempfile
from pathlib import Path

# What a conversation means is not in a schema: a tool's result without its call, a stop string at an impossible place or a
# grammar that cannot be read are refused although their JSON is allowed.
LEFT_OUT = "positive_data_acceptance"
EXAMPLES = 25


def main():
    url, key, model = sys.argv[1:]
    here = Path(__file__).parent
    environment = os.environ | {"SCHEMATHESIS_HOOKS": "bounds", "PYTHONPATH": str(here), "MOESAIC_TESTED_MODEL": model}
    command = [str(Path(sys.executable).with_name("schemathesis")), "run", f"{url}/openapi.json"]
    command += ["--header", f"Authorization: Bearer {key}", "--checks", "all", "--exclude-checks", LEFT_OUT]
    command += ["--phases", "examples,coverage,fuzzing", "--max-examples", str(EXAMPLES), "--generation-deterministic"]
    command += ["--request-timeout", "60", "--continue-on-failure", "--no-color"]
    # What it keeps between runs is not kept.
    with tempfile.TemporaryDirectory() as folder:
        sys.exit(subprocess.run(command, env=environment, cwd=folder).returncode)


if __name__ == "__main__":
    main()

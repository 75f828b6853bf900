"""Hooks of schemathesis: requests reach the model and end soon.

A generated name is no model's, so that nearly every request would end at 404; and answers may be as long and as many as a
schema allows, which a small machine computes for hours. Values that a schema forbids are left as they are.
"""

import os

import schemathesis

# The most of each that is asked for.
MOST = {"max_tokens": 4, "max_completion_tokens": 4, "max_output_tokens": 4, "n": 2, "best_of": 2}


@schemathesis.hook
def before_call(context, case, **kwargs):
    body = case.body
    if not isinstance(body, dict):
        return
    for field, most in MOST.items():
        value = body.get(field)
        if isinstance(value, int) and not isinstance(value, bool) and value > most and within(case, field, value):
            body[field] = most
    if isinstance(body.get("model"), str):
        body["model"] = os.environ["MOESAIC_TESTED_MODEL"]


def within(case, field, value):
    """Whether the document allows the value."""
    maximum = {"n": 128, "best_of": 128}.get(field, 2**63 - 1)
    return value <= maximum

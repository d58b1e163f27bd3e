"""Asks the Python example of docs/webhooks.md about each case."""

import json
import sys

from verify import is_from_iris

given = json.load(sys.stdin)
verdicts = [
    is_from_iris(
        given["secret"],
        case["headers"].get("x-iris-timestamp"),
        case["headers"].get("x-iris-signature"),
        bytes.fromhex(case["body"]),
    )
    for case in given["cases"]
]
print(json.dumps(verdicts))

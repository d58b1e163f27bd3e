"""Asks the standardwebhooks library of PyPI about each case, through the example of docs/webhooks.md."""

import json
import sys

from standardwebhooks.webhooks import WebhookVerificationError
from verify import verified_event


def verdict(secret, case):
    try:
        event = verified_event(secret, case["headers"], bytes.fromhex(case["body"]))
    except WebhookVerificationError:
        return False
    return event["id"].startswith("evt_")


given = json.load(sys.stdin)
print(json.dumps([verdict(given["secret"], case) for case in given["cases"]]))

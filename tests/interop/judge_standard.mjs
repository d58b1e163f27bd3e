// Asks the standardwebhooks library of npm about each case, through the example of docs/webhooks.md.
import { readFileSync } from "node:fs";
import { WebhookVerificationError } from "standardwebhooks";
import { verifiedEvent } from "./verify.mjs";

const { secret, cases } = JSON.parse(readFileSync(0));
const verdicts = cases.map(({ headers, body }) => {
  try {
    return verifiedEvent(secret, headers, Buffer.from(body, "hex")).id.startsWith("evt_");
  } catch (error) {
    if (error instanceof WebhookVerificationError) return false;
    throw error;
  }
});
console.log(JSON.stringify(verdicts));

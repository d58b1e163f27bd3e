// Asks the JavaScript example of docs/webhooks.md about each case.
import { readFileSync } from "node:fs";
import { isFromIris } from "./verify.mjs";

const { secret, cases } = JSON.parse(readFileSync(0));
const verdicts = cases.map(({ headers, body }) =>
  isFromIris(secret, headers["x-iris-timestamp"], headers["x-iris-signature"], Buffer.from(body, "hex")),
);
console.log(JSON.stringify(verdicts));

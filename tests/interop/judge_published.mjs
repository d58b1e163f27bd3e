// Sends each case to the handler that the hosted iris publishes for its receivers. A handler that throws has refused.
import { readFileSync } from "node:fs";
import { POST } from "./verify.mjs";

const { secret, cases } = JSON.parse(readFileSync(0));
process.env.IRIS_WEBHOOK_SECRET = secret;
const verdicts = [];
for (const { headers, body } of cases) {
  const request = new Request("https://example.com/", { method: "POST", headers, body: Buffer.from(body, "hex") });
  try {
    verdicts.push((await POST(request)).status === 200);
  } catch {
    verdicts.push(false);
  }
}
console.log(JSON.stringify(verdicts));

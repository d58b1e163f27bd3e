import crypto from "node:crypto";

// in your webhook handler
export async function POST(request: Request) {
  const signature = request.headers.get("x-iris-signature");
  const timestamp = request.headers.get("x-iris-timestamp");
  const body = await request.text();

  // reconstruct the signed payload
  const signed = `${timestamp}.${body}`;
  const expected = crypto
    .createHmac("sha256", process.env.IRIS_WEBHOOK_SECRET)
    .update(signed)
    .digest("hex");

  // timing-safe compare
  if (!crypto.timingSafeEqual(Buffer.from(signature), Buffer.from(expected))) {
    return new Response("invalid signature", { status: 401 });
  }

  const event = JSON.parse(body);
  // dispatch on event.event - "campaign.created", "message.delivered",
  // "conversation.reply_received", etc. (full list at /docs/api#webhooks)
  return new Response("ok");
}

// The line protocol of the benchmark's programs, for those in JavaScript. README.md describes it.
//
// `serve(queue)` takes an object with three functions: `setup(url)` makes the tables; `producer(url)` gives back an object
// with `fill(jobs, ms, tell)`, `one(payload)`, `idle()`; `worker(url, slots, goal)` connects and gives back an object with
// `begin(handle)` and `end()`.

import { createInterface } from "node:readline";
import { setTimeout as sleep } from "node:timers/promises";

/** How long an orderly end may take before the process just ends. */
const END_MS = 2_000;
/** How many jobs one call enqueues. */
const BATCH = 5_000;

/** The machine's clock, in microseconds since 1970. */
function nowUs() {
  return Math.round((performance.timeOrigin + performance.now()) * 1_000);
}

function say(line) {
  process.stdout.write(`${line}\n`);
}

/** Plays the role that the command line names. */
export async function serve(queue) {
  const [role, ...rest] = process.argv.slice(2);
  const options = {};
  for (let at = 0; at + 1 < rest.length; at += 2) options[rest[at].replace(/^--/, "")] = rest[at + 1];
  const play = { setup, producer, worker }[role];
  if (!play || !options.url) throw new Error("usage: setup | producer | worker --url URL [--slots N --goal GOAL]");
  await play(queue, options);
  process.exit(0);
}

async function setup(queue, { url }) {
  await queue.setup(url);
}

async function producer(queue, { url }) {
  const producer = await queue.producer(url);
  say("ready");
  for await (const line of createInterface({ input: process.stdin })) {
    const [command, ...rest] = line.split(" ");
    const [first, ms, tell] = rest.map(Number);
    if (command === "fill") {
      for (let from = 0; from < first; from += BATCH) {
        const length = Math.min(BATCH, first - from);
        await producer.fill(Array.from({ length }, (_, at) => ({ n: from + at, ms, tell: tell === 1 })));
      }
      say("filled");
    } else if (command === "one") {
      await producer.one({ n: first, ms: 0, tell: true });
      say(`${first} ${nowUs()}`);
    } else if (command === "idle") {
      say((await producer.idle()) ? "idle" : "busy");
    }
  }
}

async function worker(queue, { url, slots, goal }) {
  let ran = 0;
  let firstUs = 0;
  const handle = async ({ n, ms, tell }) => {
    if (ran === 0) firstUs = nowUs();
    ran += 1;
    if (tell) say(`${n} ${nowUs()}`);
    if (ms > 0) await sleep(ms);
  };
  const worker = await queue.worker(url, Number(slots), goal);
  say("ready");
  let begun = false;
  for await (const _ of createInterface({ input: process.stdin })) {
    if (begun) {
      say(`${ran} ${firstUs}`);
    } else {
      begun = true;
      await worker.begin(handle);
    }
  }
  await Promise.race([worker.end(), sleep(END_MS)]);
}

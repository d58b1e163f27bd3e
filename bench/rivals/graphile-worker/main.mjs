// Graphile Worker. Where its documentation recommends these settings stands in ../README.md.

import { Logger, makeWorkerUtils, run, runMigrations } from "graphile-worker";

import { serve } from "../protocol.mjs";

const TASK = "work";
/** Silent: only errors are worth a line. */
const logger = new Logger(() => (level, message) => {
  if (level === "error") process.stderr.write(`${message}\n`);
});

const SETTINGS = {
  // The documented configuration of its own benchmark.
  drain: { concurrentJobs: 24, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 },
  // The same, and nothing waits in a local queue.
  pickup: { concurrentJobs: 24, localQueue: { size: 500 }, completeJobBatchDelay: 0, failJobBatchDelay: 0 },
  // One job for each slot, and the shortest search for locks that are too old.
  recovery: { completeJobBatchDelay: 0, failJobBatchDelay: 0, minResetLockedInterval: 1_000, maxResetLockedInterval: 1_000 },
};

await serve({
  async setup(connectionString) {
    await runMigrations({ connectionString, logger });
  },

  async producer(connectionString) {
    const utils = await makeWorkerUtils({ connectionString, logger });
    return {
      fill: (payloads) => utils.addJobs(payloads.map((payload) => ({ identifier: TASK, payload }))),
      one: (payload) => utils.addJob(TASK, payload),
      async idle() {
        const sql = "select not exists (select 1 from graphile_worker._private_jobs) as idle";
        const { rows } = await utils.withPgClient((client) => client.query(sql));
        return rows[0].idle;
      },
    };
  },

  async worker(connectionString, slots, goal) {
    let runner;
    return {
      async begin(handle) {
        const settings = { concurrentJobs: slots, ...SETTINGS[goal] };
        const maxPoolSize = Math.min(settings.concurrentJobs + 1, 25);
        runner = await run({
          preset: { worker: { connectionString, maxPoolSize, ...settings } },
          logger,
          parsedCronItems: [],
          taskList: { [TASK]: handle },
        });
        runner.promise.catch((error) => {
          process.stderr.write(`${error}\n`);
          process.exit(1);
        });
      },
      end: () => runner?.stop(),
    };
  },
});

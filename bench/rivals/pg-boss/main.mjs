// pg-boss. Where its documentation recommends these settings stands in ../README.md.

import { PgBoss } from "pg-boss";

import { serve } from "../protocol.mjs";

const QUEUE = "work";

const SETTINGS = {
  drain: { batchSize: 1_000, localConcurrency: 4 },
  pickup: { batchSize: 100, localConcurrency: 4 },
  // A batch counts as running until its last job ends, so each slot is a worker with batches of one.
  recovery: { batchSize: 1 },
};

function boss(connectionString, options) {
  const boss = new PgBoss({ connectionString, schedule: false, ...options });
  boss.on("error", (error) => process.stderr.write(`${error}\n`));
  return boss;
}

await serve({
  async setup(url) {
    const queue = boss(url, { supervise: false });
    await queue.start();
    // Ten seconds is the shortest heartbeat there is.
    await queue.createQueue(QUEUE, { notify: true, heartbeatSeconds: 10, retryLimit: 10 });
    await queue.stop({ graceful: false });
  },

  async producer(url) {
    const queue = boss(url, { supervise: false, migrate: false });
    await queue.start();
    return {
      fill: (payloads) => queue.insert(QUEUE, payloads.map((data) => ({ data }))),
      one: (payload) => queue.send(QUEUE, payload),
      async idle() {
        const sql = `select not exists (select 1 from pgboss.job where name = $1 and state < 'completed') as idle`;
        const { rows } = await queue.getDb().executeSql(sql, [QUEUE]);
        return rows[0].idle;
      },
    };
  },

  async worker(url, slots, goal) {
    // Each worker looks for silent ones every second, which is as often as can be set.
    const queue = boss(url, {
      max: 10,
      migrate: false,
      useListenNotify: true,
      superviseIntervalSeconds: 1,
      monitorIntervalSeconds: 1,
    });
    await queue.start();
    return {
      async begin(handle) {
        const settings = { localConcurrency: slots, ...SETTINGS[goal] };
        await queue.work(
          QUEUE,
          { pollingIntervalSeconds: 0.5, notifyPollingIntervalSeconds: 0.5, burstWhenBatchFull: true, ...settings },
          (jobs) => Promise.all(jobs.map((job) => handle(job.data))),
        );
      },
      end: () => queue.stop({ graceful: false }),
    };
  },
});

// A rolling restart: on SIGUSR2 the primary replaces one worker after the other, the new one before the old one.
//
// Under phalanx: `kill -USR2` to phalanx does it. The new worker accepts from the old one's own socket before the
// old one leaves, so what waits there is served; and if a new one does not come up, the old ones stay.

'use strict';

const cluster = require('node:cluster');
const { once } = require('node:events');
const http = require('node:http');
const os = require('node:os');

const port = Number(process.env.PORT) || 8000;
const workers = Number(process.env.WORKERS) || os.availableParallelism();

if (cluster.isPrimary) {
  console.log(`kill -USR2 ${process.pid}`);
  for (let i = 0; i < workers; i += 1) cluster.fork();

  cluster.on('exit', (worker, code, signal) => {
    if (worker.exitedAfterDisconnect) return;
    console.log(`worker ${worker.process.pid} died (${signal || code})`);
    cluster.fork();
  });

  let restarting = false;
  process.on('SIGUSR2', async () => {
    if (restarting) return;
    restarting = true;
    for (const old of Object.values(cluster.workers)) {
      const fresh = cluster.fork();
      await once(fresh, 'listening');
      old.disconnect();
      await once(old, 'exit');
      console.log(`worker ${old.process.pid} replaced by ${fresh.process.pid}`);
    }
    restarting = false;
    console.log('all workers are new');
  });
} else {
  const server = http.createServer((req, res) => {
    res.writeHead(200, { 'Content-Type': 'text/plain' });
    res.end(`up to date, from ${process.pid}\n`);
  });
  server.listen(port, '127.0.0.1');
}

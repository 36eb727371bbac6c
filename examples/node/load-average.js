// As many workers as there is load: the primary looks at the load average and forks or retires one at a time.
//
// Under phalanx: the number is what `-i` says (default: one per core) and stays so, or follows the load with
// `--min 1 --max 8 --scale-on load`. A worker that waits costs no CPU.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const os = require('node:os');

const port = Number(process.env.PORT) || 8000;
const least = Number(process.env.WORKERS) || 2;
const most = Math.max(least, os.availableParallelism());
const every = Number(process.env.LOOK_MS) || 5000;

if (cluster.isPrimary) {
  const alive = () => Object.values(cluster.workers);

  const adjust = () => {
    const [load] = os.loadavg();
    const wanted = Math.min(most, Math.max(least, Math.ceil(load)));
    if (alive().length < wanted) cluster.fork();
    else if (alive().length > wanted) alive()[0].disconnect();
    console.log(`load ${load.toFixed(2)}: ${wanted} workers wanted, ${alive().length} there`);
  };

  for (let i = 0; i < least; i += 1) cluster.fork();
  setInterval(adjust, every);
  cluster.on('exit', (worker) => {
    if (!worker.exitedAfterDisconnect) cluster.fork();
  });
} else {
  const server = http.createServer((req, res) => {
    res.writeHead(200, { 'Content-Type': 'application/json' });
    res.end(`${JSON.stringify({ hello: `from ${process.pid}` })}\n`);
  });
  server.listen(port, '127.0.0.1');
}

// Health checks by message: the primary asks each worker how it is, and replaces one that is late or not well.
//
// Under phalanx: it watches that each worker runs, answers pings and takes its connections, and logs load and memory
// with `--stats`. `--health-path /health` asks each worker; so may a load balancer in front.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const os = require('node:os');

const port = Number(process.env.PORT) || 8000;
const workers = Number(process.env.WORKERS) || os.availableParallelism();
const every = Number(process.env.CHECK_MS) || 5000;

if (cluster.isPrimary) {
  const asked = new Set();

  const replace = (worker, why) => {
    console.log(`worker ${worker.process.pid} is replaced: ${why}`);
    asked.delete(worker.id);
    worker.process.kill('SIGKILL');
  };

  cluster.on('message', (worker, message) => {
    if (message.cmd !== 'health') return;
    asked.delete(worker.id);
    console.log(`worker ${worker.process.pid} is ${message.ok ? 'well' : 'ill'}: ${message.rss} MB`);
    if (!message.ok) replace(worker, 'it is ill');
  });

  setInterval(() => {
    for (const worker of Object.values(cluster.workers)) {
      if (worker.state !== 'listening') continue;
      if (asked.has(worker.id)) replace(worker, `no answer for ${every} ms`);
      else if (worker.send({ cmd: 'health?' })) asked.add(worker.id);
    }
  }, every);

  for (let i = 0; i < workers; i += 1) cluster.fork();
  cluster.on('exit', (worker) => {
    asked.delete(worker.id);
    cluster.fork();
  });
} else {
  const health = () => {
    const rss = Math.round(process.memoryUsage.rss() / 1024 / 1024);
    return { ok: rss < 500, rss };
  };

  process.on('message', (message) => {
    if (message.cmd === 'health?') process.send({ cmd: 'health', ...health() });
  });

  const server = http.createServer((req, res) => {
    if (req.url === '/health') {
      const now = health();
      res.writeHead(now.ok ? 200 : 503, { 'Content-Type': 'application/json' });
      res.end(`${JSON.stringify(now)}\n`);
    } else {
      res.writeHead(200, { 'Content-Type': 'text/plain' });
      res.end(`well, from ${process.pid}\n`);
    }
  });
  server.listen(port, '127.0.0.1');
}

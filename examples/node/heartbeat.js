// A heartbeat: the primary pings, the workers pong; who misses three is killed and replaced. `/hang` hangs one.
//
// Under phalanx: it pings over the channel by itself (Node's core answers, not the program), and gives a worker
// that hangs no connections; what already waited for it is handed to others. After three misses (30 s, `--heartbeat`)
// it is ended and replaced.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const os = require('node:os');

const port = Number(process.env.PORT) || 8000;
const workers = Number(process.env.WORKERS) || os.availableParallelism();
const every = Number(process.env.BEAT_MS) || 1000;
const MISSES = 3;

if (cluster.isPrimary) {
  const missed = new Map();

  // A worker's heart is watched from when it listens: starting may take long.
  cluster.on('listening', (worker) => missed.set(worker.id, 0));
  cluster.on('message', (worker, message) => {
    if (message === 'pong') missed.set(worker.id, 0);
  });

  setInterval(() => {
    for (const [id, count] of missed) {
      const worker = cluster.workers[id];
      if (!worker?.isConnected()) continue;
      if (count >= MISSES) {
        console.log(`worker ${worker.process.pid} missed ${count} heartbeats, killing it`);
        missed.delete(id);
        worker.process.kill('SIGKILL');
      } else {
        missed.set(id, count + 1);
        worker.send('ping');
      }
    }
  }, every);

  cluster.on('exit', (worker) => {
    missed.delete(worker.id);
    cluster.fork();
  });
  for (let i = 0; i < workers; i += 1) cluster.fork();
} else {
  process.on('message', (message) => {
    if (message === 'ping') process.send('pong');
  });

  const server = http.createServer((req, res) => {
    if (req.url === '/hang') for (;;);
    res.writeHead(200, { 'Content-Type': 'text/plain' });
    res.end(`alive, from ${process.pid}\n`);
  });
  server.listen(port, '127.0.0.1');
}

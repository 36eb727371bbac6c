// A worker that holds more than 700 MB exits, and a fresh one takes its place. `/leak` leaks 20 MB.
//
// Under phalanx: the worker looks at itself as before; phalanx forks the fresh one. `LIMIT_MB` sets another
// limit. Only the requests in progress in that worker are lost. With `--max-memory 700M` phalanx does the looking, and none is.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const os = require('node:os');

const port = Number(process.env.PORT) || 8000;
const workers = Number(process.env.WORKERS) || os.availableParallelism();
const limit = Number(process.env.LIMIT_MB) || 700;
const every = Number(process.env.LOOK_MS) || 1000;
const MB = 1024 * 1024;

if (cluster.isPrimary) {
  for (let i = 0; i < workers; i += 1) cluster.fork();

  cluster.on('exit', (worker, code, signal) => {
    console.log(`worker ${worker.process.pid} is gone (${signal || code}), forking another`);
    cluster.fork();
  });
} else {
  const leaked = [];

  // `unref`: looking is no reason to stay alive.
  setInterval(() => {
    const used = Math.round(process.memoryUsage.rss() / MB);
    if (used > limit) {
      console.error(`worker ${process.pid} uses ${used} MB, more than ${limit} MB: it exits`);
      process.exit(1);
    }
  }, every).unref();

  const server = http.createServer((req, res) => {
    if (req.url === '/leak') leaked.push(Buffer.alloc(20 * MB, 1));
    res.writeHead(200, { 'Content-Type': 'text/plain' });
    res.end(`${leaked.length * 20} MB leaked, from ${process.pid}\n`);
  });
  server.listen(port, '127.0.0.1');
}

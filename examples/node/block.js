// One worker is busy on `/block`; the others go on answering.
//
// Under phalanx: the same, and also the connections that the kernel had already put in the busy worker's queue
// are handed to others after a moment, where node:cluster leaves one waiting until the worker is free.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const os = require('node:os');

const port = Number(process.env.PORT) || 8000;
const workers = Number(process.env.WORKERS) || os.availableParallelism();
const busyFor = Number(process.env.BLOCK_MS) || 10000;

if (cluster.isPrimary) {
  for (let i = 0; i < workers; i += 1) cluster.fork();
  cluster.on('exit', () => cluster.fork());
} else {
  const server = http.createServer((req, res) => {
    if (req.url === '/block') {
      const end = Date.now() + busyFor;
      while (Date.now() < end);
      res.writeHead(200, { 'Content-Type': 'text/plain' });
      res.end(`was busy, from ${process.pid}\n`);
    } else {
      res.writeHead(200, { 'Content-Type': 'text/plain' });
      res.end(`not busy, from ${process.pid}\n`);
    }
  });
  server.listen(port, '127.0.0.1');
}

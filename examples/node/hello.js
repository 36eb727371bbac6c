// Hello world on all cores.
//
// Under phalanx: `phalanx run hello.js` is the primary and forks one worker per core by itself (`-i 4` for four).
// This file's primary branch never runs; the kernel gives each connection to a worker.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const os = require('node:os');

const port = Number(process.env.PORT) || 8000;
const workers = Number(process.env.WORKERS) || os.availableParallelism();

if (cluster.isPrimary) {
  console.log(`primary ${process.pid}: ${workers} workers on http://127.0.0.1:${port}`);
  for (let i = 0; i < workers; i += 1) cluster.fork();
  cluster.on('exit', (worker, code, signal) => {
    console.log(`worker ${worker.process.pid} is gone (${signal || code})`);
  });
} else {
  const server = http.createServer((req, res) => {
    res.writeHead(200, { 'Content-Type': 'text/plain' });
    res.end(`hello world from ${process.pid}\n`);
  });
  server.listen(port, '127.0.0.1');
}

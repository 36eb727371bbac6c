// What nobody caught is logged, and the worker exits with code 1: its state is not to be trusted any more.
//
// Under phalanx: the worker does the same, and phalanx forks the next one and says what the old one exited with.
// Try `/throw` and `/reject`; the client that asked gets no answer, all others do.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const os = require('node:os');

const port = Number(process.env.PORT) || 8000;
const workers = Number(process.env.WORKERS) || os.availableParallelism();

if (cluster.isPrimary) {
  for (let i = 0; i < workers; i += 1) cluster.fork();

  cluster.on('exit', (worker, code, signal) => {
    console.log(`worker ${worker.process.pid} exited (${signal || code}), forking another`);
    cluster.fork();
  });
} else {
  const die = (what) => (error) => {
    console.error(`worker ${process.pid}: ${what}: ${error?.stack ?? error}`);
    process.exit(1);
  };
  process.on('uncaughtException', die('uncaughtException'));
  process.on('unhandledRejection', die('unhandledRejection'));

  const server = http.createServer((req, res) => {
    if (req.url === '/throw') throw new Error('thrown in a handler');
    if (req.url === '/reject') {
      Promise.reject(new Error('rejected in a handler'));
      return;
    }
    res.writeHead(200, { 'Content-Type': 'text/plain' });
    res.end(`still here, from ${process.pid}\n`);
  });
  server.listen(port, '127.0.0.1');
}

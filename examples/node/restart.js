// A worker that exits is replaced. `/crash` makes the worker that gets it exit with code 1.
//
// Under phalanx: replacing what exits is the default, at once the first time, then with growing pauses for
// what crashes again and again. Connections that waited for the dead worker are served by others.

'use strict';

const cluster = require('node:cluster');
const http = require('node:http');
const os = require('node:os');

const port = Number(process.env.PORT) || 8000;
const workers = Number(process.env.WORKERS) || os.availableParallelism();

if (cluster.isPrimary) {
  for (let i = 0; i < workers; i += 1) cluster.fork();

  cluster.on('exit', (worker, code, signal) => {
    console.log(`worker ${worker.process.pid} died (${signal || code}), forking another`);
    cluster.fork();
  });
} else {
  const server = http.createServer((req, res) => {
    res.writeHead(200, { 'Content-Type': 'text/plain' });
    if (req.url === '/crash') {
      res.end(`last words from ${process.pid}\n`, () => process.exit(1));
    } else {
      res.end(`hello from ${process.pid}\n`);
    }
  });
  server.listen(port, '127.0.0.1');
}

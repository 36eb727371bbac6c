'use strict';
// A whole program, as people write them: it forks when it is the primary.
const cluster = require('node:cluster');
const http = require('node:http');

if (cluster.isPrimary) {
  process.stderr.write('this branch is for the primary\n');
  cluster.fork();
} else {
  http
    .createServer((request, response) => response.end(`${cluster.worker.id}`))
    .listen(Number(process.env.PORT), '127.0.0.1');
}

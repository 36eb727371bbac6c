'use strict';
// An HTTP server on LISTEN, the JSON arguments of listen(). Answers with the worker's number;
// /hold only when the primary sends {release: true}.
const cluster = require('node:cluster');
const http = require('node:http');

const held = [];
const server = http.createServer((request, response) => {
  if (request.url !== '/hold') return response.end(`${cluster.worker.id}`);
  held.push(response);
  process.send({ held: held.length });
});
server.listen(...JSON.parse(process.env.LISTEN));

process.on('message', () => held.splice(0).forEach((one) => one.end(`${cluster.worker.id}`)));

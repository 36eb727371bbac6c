'use strict';
// A server of PROTOCOL (https, http2, h2c, tls) on PORT. Answers with the worker's number.
const cluster = require('node:cluster');
const fs = require('node:fs');

const { PROTOCOL, PORT, CERTIFICATES } = process.env;
const read = (name) => fs.readFileSync(`${CERTIFICATES}/${name}.pem`);
const answer = (request, response) => response.end(`${cluster.worker.id}`);
const servers = {
  https: () => require('node:https').createServer({ key: read('key'), cert: read('cert') }, answer),
  http2: () => {
    const options = { key: read('key'), cert: read('cert'), allowHTTP1: true };
    return require('node:http2').createSecureServer(options, answer);
  },
  h2c: () => require('node:http2').createServer(answer),
  tls: () =>
    require('node:tls').createServer({ key: read('key'), cert: read('cert') }, (socket) => {
      socket.on('error', () => {});
      socket.end(`${cluster.worker.id}`);
    }),
};
servers[PROTOCOL]().listen(Number(PORT), '127.0.0.1');

'use strict';

// What the proxy stands in front of: not a worker, just a server.
const http = require('node:http');

const server = http.createServer((req, res) => {
  if (req.url === '/echo') {
    res.writeHead(201, { 'Content-Type': 'application/json' });
    return req.pipe(res);
  }
  if (req.url === '/stream') {
    for (let line = 1; line <= 200; line += 1) res.write(`line ${line}\n`);
    return res.end();
  }
  if (req.url === '/broken') {
    return req.socket.destroy();
  }
  res.setHeader('Content-Type', 'application/json');
  res.end(JSON.stringify({ hello: 'backend', forwarded: req.headers['x-forwarded-for'] }));
});
// Longer than any test: the proxy decides when a connection to here ends.
server.keepAliveTimeout = 600_000;
server.listen(0, '127.0.0.1', () => console.log(JSON.stringify(server.address())));

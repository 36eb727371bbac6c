// The demo's answers, for any runtime: PORT is a port or a path, /block keeps the worker busy for a while.
const fs = require('fs');
const http = require('http');

const body = JSON.stringify({ pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE) });
const server = http.createServer((request, response) => {
  if (request.url === '/block') {
    fs.writeSync(2, `busy: ${process.pid}\n`);
    const until = Date.now() + 2000;
    while (Date.now() < until);
  }
  response.setHeader('Content-Length', body.length);
  response.end(body);
});
const port = process.env.PORT;
if (port.startsWith('/')) server.listen(port);
else server.listen(Number(port), '127.0.0.1');

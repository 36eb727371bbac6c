// The demo's answers from an ES module, which says about connections what a proxy says.
import http from 'node:http';

const body = JSON.stringify({ pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE) });
http
  .createServer((request, response) => {
    response.writeHead(200, { Connection: request.headers.connection ?? 'keep-alive', 'Content-Length': body.length, 'Content-Type': 'application/json' });
    response.end(body);
  })
  .listen(process.env.PORT, '127.0.0.1');

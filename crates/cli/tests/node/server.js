// The demo's answers from an ordinary Node server.
const http = require('http');

http
  .createServer((request, response) => {
    if (request.url === '/throw') {
      setImmediate(() => {
        throw new TypeError('thrown on purpose');
      });
      return;
    }
    if (request.url === '/reject') {
      Promise.reject(new RangeError('rejected on purpose'));
      return;
    }
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({ pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE) }));
  })
  .listen(process.env.PORT, '127.0.0.1');

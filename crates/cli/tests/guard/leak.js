// A server that leaks: LEAK bytes every 100 ms for as long as it is connected, or what a path asks for.
const http = require('http');

const kept = [];
const leak = Number(process.env.LEAK ?? 0);
if (leak > 0) setInterval(() => process.connected && kept.push(Buffer.alloc(leak, 1)), 100).unref();

http
  .createServer((request, response) => {
    if (request.url.startsWith('/take')) for (let n = 0; n < 100; n++) kept.push(Buffer.alloc(5 << 20, 1));
    if (request.url.startsWith('/work')) for (const end = performance.now() + 5; performance.now() < end; );
    response.setHeader('Content-Type', 'application/json');
    response.end(JSON.stringify({ pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE) }));
  })
  .listen(process.env.PORT, '127.0.0.1');

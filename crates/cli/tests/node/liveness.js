// Hangs, is unwell, and speaks another protocol, as it is told to.
const http = require('http');
const fs = require('fs');

const { SICK_WHEN, SICKNESS } = process.env;
const slot = Number(process.env.NODE_APP_INSTANCE);
const isSick = () => slot === 0 && SICK_WHEN && fs.existsSync(SICK_WHEN);
// A handler that is never called while the program loops.
process.on('SIGTERM', () => {});

const server = http.createServer((request, response) => {
  const path = request.url.split('?')[0];
  if (path === '/block') {
    console.log(`busy: ${process.pid}`);
    const until = Date.now() + Number(process.env.BLOCK ?? Infinity);
    while (Date.now() < until);
  }
  if (path === '/healthz' && isSick()) {
    if (SICKNESS === 'silent') return;
    if (SICKNESS === 'close') return void request.socket.destroy();
    if (SICKNESS === 'garbage') return void request.socket.end('what?\r\n\r\n');
    response.statusCode = 503;
  }
  response.setHeader('Content-Type', 'application/json');
  response.end(JSON.stringify({ pid: process.pid, slot }));
});
// Echoes, until its client ends.
server.on('upgrade', (request, socket) => {
  const { upgrade } = request.headers;
  socket.write(`HTTP/1.1 101 Switching Protocols\r\nUpgrade: ${upgrade}\r\nConnection: Upgrade\r\n\r\n${process.pid}\n`);
  socket.pipe(socket);
});
server.listen(process.env.PORT, '127.0.0.1');

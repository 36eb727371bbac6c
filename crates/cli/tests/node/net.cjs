// The demo's answers from a plain TCP server.
const net = require('net');

const body = JSON.stringify({ pid: process.pid, slot: Number(process.env.NODE_APP_INSTANCE) });
const head = `HTTP/1.1 200 OK\r\nConnection: close\r\nContent-Type: application/json\r\nContent-Length: ${body.length}\r\n\r\n`;
net
  .createServer((socket) => {
    socket.on('error', () => {});
    socket.once('data', () => socket.end(head + body));
  })
  .listen(Number(process.env.PORT), '127.0.0.1');

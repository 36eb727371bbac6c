'use strict';

const http = require('node:http');
const { WebSocketServer } = require('ws');

const server = http.createServer((req, res) => {
  res.setHeader('X-Worker', String(process.pid));
  res.end(JSON.stringify({ hello: 'ws', pid: process.pid }));
});

const wss = new WebSocketServer({ server, path: '/chat' });
wss.on('connection', (socket) => {
  socket.on('error', (error) => console.error(error));
  socket.on('message', (data) => {
    const { seq, text } = JSON.parse(data);
    socket.send(JSON.stringify({ seq, text: text.toUpperCase(), pid: process.pid }));
  });
});

server.listen(process.env.PORT, '127.0.0.1');

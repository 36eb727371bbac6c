'use strict';

const http = require('node:http');
const { Server } = require('socket.io');

const server = http.createServer((req, res) => {
  res.setHeader('X-Worker', String(process.pid));
  res.end(JSON.stringify({ hello: 'socket.io', pid: process.pid }));
});

const io = new Server(server);
io.on('connection', (socket) => {
  socket.on('ask', (text, reply) => {
    reply({ text: text.toUpperCase(), pid: process.pid });
  });
});

server.listen(process.env.PORT, '127.0.0.1');
